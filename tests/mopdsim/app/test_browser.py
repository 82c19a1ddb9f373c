"""The app as a person meets it, in chromium: main paths, the shared link, upload, download, page switches, offline.

Skipped where chromium is absent, but where CI=true: there they fail. One server and one browser for all tests.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopdsim.app.choice import Choice
from mopdsim.app.state import View, to_token
from mopdsim.base.numbers import usd
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.forecast import forecast
from tools.screenshots import CHROMIUM, app

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.browser
PAGES = {
    "Plan": "GPUs used and idle",
    "Interference": "No pull between two domains",
    "Recipes": "Multi-teacher on-policy distillation",
    "Calibration": "Predicted against measured",
    "Runs": "Start a tiny run",
}
WHAT_IF_HIGH, PLAN_HIGH = 1600, 2400  # pixels at a width of 1280, the answer shown
FOREIGN = "() => performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))"


@pytest.fixture(scope="module")
def chromium() -> Any:
    """What starts a browser. Where it is absent, a person's tests are skipped and CI's fail."""
    lacks = None if Path(CHROMIUM).exists() else f"{CHROMIUM} is absent: apt-get install chromium"
    if importlib.util.find_spec("playwright") is None:
        lacks = "playwright is absent: pip install playwright"
    if lacks is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(lacks)
    from playwright.sync_api import sync_playwright

    return sync_playwright


@pytest.fixture(scope="module")
def address(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the app, with no runs."""
    with app(tmp_path_factory.mktemp("runs") / "runs") as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    playwright = chromium().start()
    found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield found
    found.close()
    playwright.stop()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visitor at the first page; nothing on the console may be an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    found.set_default_timeout(60_000)
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    found.goto(address)
    found.get_by_text("Measure first").first.wait_for()
    yield found
    foreign = found.evaluate(FOREIGN)
    context.close()
    assert [line for line in errors if not _of_a_deep_link(line)] == []
    assert [name for name in foreign if not name.startswith(("data:", "blob:"))] == []


def _of_a_deep_link(line: str) -> bool:
    """Streamlit asks for its health beside the page's own path first, and then at the root."""
    return "404" in line


def explore(page: Any) -> None:
    """Unfold the dials."""
    page.get_by_text("Explore one recipe").first.click()
    page.get_by_text("in mean score").first.wait_for()


def cost(page: Any) -> str:
    found = (
        page.locator("[data-testid=stMetric]").filter(has_text="Cost").locator("[data-testid=stMetricValue]")
    )
    return str(found.first.inner_text())


def press(page: Any, slider: str, key: str) -> None:
    """One key on a slider, and the redraw after it."""
    before = page.url
    page.get_by_role("slider", name=re.compile(f"^{slider}\\b")).focus()
    page.keyboard.press(key)
    page.wait_for_function("before => location.href !== before", arg=before)
    page.wait_for_timeout(800)  # the link changes before the page does
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]').getAttribute('data-test-script-state') === 'notRunning'"
    )


def test_a_slider_redraws_and_its_link_restores_in_another_browser(page: Any, browser: Any) -> None:
    explore(page)
    before = cost(page)
    press(page, "Teachers", "ArrowLeft")
    press(page, "Training of the teachers", "ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('[data-testid=stMetricValue]').innerText !== before", arg=before
    )
    other = browser.new_context().new_page()
    other.goto(page.url)
    other.get_by_text("Explore one recipe").first.click(timeout=60_000)
    other.get_by_text("changed inputs").first.wait_for(timeout=60_000)
    assert cost(other) == cost(page)
    other.context.close()


def test_a_page_switch_and_back_keeps_the_state_and_every_page_draws(page: Any) -> None:
    explore(page)
    press(page, "Teams", "ArrowLeft")
    expected = cost(page)
    for title, words in PAGES.items():
        page.get_by_role("link", name=title).first.click()
        page.get_by_text(words).first.wait_for()
        assert page.locator("[data-testid=stException]").count() == 0
    page.get_by_role("link", name="What if").first.click()
    explore(page)
    page.get_by_text("changed inputs").first.wait_for()
    assert cost(page) == expected


def test_the_downloaded_scenario_forecasts_to_the_number_on_the_page(page: Any, tmp_path: Path) -> None:
    explore(page)
    press(page, "Teachers", "ArrowLeft")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Export").last.click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="scenario.toml").click()
    path = tmp_path / "scenario.toml"
    waiting.value.save_as(path)
    tomllib.loads(path.read_text())
    found = forecast(scenarios.load(path)).to_document()
    assert usd(found["usd"]["p50"]) == cost(page)


def test_files_under_a_chart_come_down(page: Any, tmp_path: Path) -> None:
    page.get_by_text("Table and files").first.click()
    for label, begins in (("CSV", b"plan,P10"), ("PNG", b"\x89PNG")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=label, exact=True).first.click()
        path = tmp_path / label
        waiting.value.save_as(path)
        assert path.read_bytes().startswith(begins)


def test_an_upload_is_read_a_bad_one_is_one_sentence_and_the_server_lives(page: Any) -> None:
    question = page.locator(".st-key-chip_question button").first
    for name, text, words in (
        ("good.toml", "recipe = 'merge'\ndomains = ['math', 'code']\ngpus = 64\n", "2 domains"),
        ("bad.toml", "recipe = 'mopd'\ndomains = ['math']\nbudget_usd = nan\n", "must be a finite number"),
        ("worse.toml", "\0\0\0", "zero byte"),
    ):
        if not page.locator("input[type=file]").count():  # a question that is taken closes its chip
            question.click()
        page.locator("input[type=file]").first.set_input_files(
            [{"name": name, "mimeType": "application/toml", "buffer": text.encode()}]
        )
        page.get_by_text(words).first.wait_for()
    assert page.locator("[data-testid=stException]").count() == 0
    page.reload()
    page.get_by_text("2 domains").first.wait_for()


def test_the_planner_answers_and_a_reload_keeps_it_and_its_plan_opens_in_what_if(
    page: Any, address: str
) -> None:
    view = View(choice=Choice(preset="tiny", domains=("sort", "reverse"), deadline_days=0.02))
    page.goto(f"{address}/plan?view={to_token(view)}")
    page.get_by_role("button", name="Recommend a plan").click()
    page.locator("[data-testid=stProgress]").first.wait_for()
    page.get_by_text("plans tried").first.wait_for(timeout=180_000)
    page.locator("[data-testid=stProgress]").first.wait_for(state="detached", timeout=180_000)
    verdict = page.locator("h3").first.inner_text()
    assert "answered=1" in page.url
    page.reload()
    page.get_by_text("plans tried").first.wait_for()
    assert page.locator("h3").first.inner_text() == verdict
    page.locator(".st-key-frontier svg .role-mark.mark-symbol path").first.click()
    page.get_by_role("button", name="Open in What if").nth(1).click()
    page.get_by_text("Explore one recipe").first.wait_for()
    page.get_by_text("is weakest in").first.wait_for()
    assert page.locator("h3").first.inner_text() == verdict


def test_a_number_typed_into_the_table_of_k_regroups_the_domains(page: Any) -> None:
    page.get_by_role("link", name="Interference").first.click()
    page.get_by_text("No pull between two domains").first.wait_for()
    assert teacher(page, "safety") != teacher(page, "math")
    page.locator("[data-testid=stVegaLiteChart] svg.marks").nth(1).wait_for()  # the table lies still
    grid = page.locator("[data-testid=stDataFrame] canvas").first
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 170, "y": 35 * 8 + 17}, force=True)  # row safety, column math
    page.keyboard.press("Enter")
    page.locator("#portal input").fill("0.9")
    page.keyboard.press("Enter")
    page.get_by_text("training on safety helps math (K +0.90").first.wait_for()
    page.get_by_role("slider", name="Or let K group them into").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Group by K").click()
    page.wait_for_function("() => document.querySelector('.st-key-group_safety input').value === 'teacher 1'")
    assert teacher(page, "math") == teacher(page, "safety")
    page.reload()
    page.get_by_text("training on safety helps math (K +0.90").first.wait_for()
    assert teacher(page, "math") == teacher(page, "safety")
    told = "document.querySelector('#glide-cell-1-7')?.textContent"  # to a screen reader: row safety, column math
    page.wait_for_function(f"() => Number({told}) === 0.9")
    page.get_by_role("button", name="Forget own K").click()
    page.wait_for_function(f"() => Number({told}) === 0")


def teacher(page: Any, domain: str) -> str:
    return str(page.locator(f".st-key-group_{domain} input").input_value())


def test_a_recipes_graph_is_drawn_without_a_network_and_speaks(page: Any) -> None:
    page.get_by_role("link", name="Recipes").first.click()
    picture = page.locator("[data-testid=stMermaidChart] img").first
    picture.wait_for()
    words = "The stages of mopd: teacher_1 (RL) starts from base."
    assert str(picture.get_attribute("alt")).startswith(words)
    assert picture.evaluate("image => image.naturalWidth") > 300


def test_recipes_stand_side_by_side_at_one_budget(page: Any) -> None:
    page.get_by_role("link", name="Recipes").first.click()
    page.get_by_text("Multi-teacher on-policy distillation").first.wait_for()
    page.get_by_role("tab", name="All at one budget").click()
    page.get_by_text("better than the first").first.wait_for()
    page.get_by_text("Untuned").first.click()
    page.locator("[aria-label*='Mean score at the same training compute'] svg.marks").wait_for(
        timeout=120_000
    )
    assert page.locator("[data-testid=stException]").count() == 0


def test_own_observations_are_read_and_bad_ones_are_one_sentence(page: Any) -> None:
    page.get_by_role("link", name="Calibration").first.click()
    page.get_by_role("tab", name="Own observations").click()
    table = (ROOT / "mopdsim" / "data" / "published" / "rl_steps.csv").read_bytes()
    said = page.locator("[data-testid=stAlert]").filter(has_text="column")
    fits = page.get_by_text("rows can be fitted").last
    for name, data, answer in (("bad.csv", b"a,b\n1,2\n", said), ("good.csv", table, fits)):
        page.locator("input[type=file]").first.set_input_files(
            [{"name": name, "mimeType": "text/csv", "buffer": data}]
        )
        answer.wait_for()
    assert page.locator("[data-testid=stException]").count() == 0


def test_a_tiny_run_is_started_and_followed_to_its_end(page: Any) -> None:
    page.get_by_role("link", name="Runs").first.click()
    page.get_by_role("slider", name="Scale").focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")  # a tenth of the steps, which are not what is tested
    page.get_by_role("button", name="Start").click()
    page.get_by_text("mopd: running").first.wait_for()
    page.get_by_text("mopd: done").first.wait_for(timeout=240_000)
    page.get_by_text("Scores on test prompts").first.wait_for()
    assert page.locator("[data-testid=stVegaLiteChart]").count() == 3
    _samples_are_scored_by_every_teacher(page)


def _samples_are_scored_by_every_teacher(page: Any) -> None:
    """Another teacher is chosen, its scores are in the CSV, and the link shows the same."""
    said = page.get_by_text("tokens more log-probability than the student").first
    said.wait_for()
    assert said.inner_text().startswith("Reward")
    page.get_by_text("Table and files").last.click()
    page.get_by_role("combobox", name="Teacher").click()
    page.get_by_role("option", name="teacher_2").click()
    page.get_by_text("teacher_2 gives").first.wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV", exact=True).last.click()
    head = Path(waiting.value.path()).read_text().splitlines()[0]
    assert head == "token,text,log p,log p teacher_1,log p teacher_2,log p teacher_3,teacher_2 less student"
    page.set_viewport_size({"width": 390, "height": 850})
    page.reload()
    page.get_by_text("teacher_2 gives").first.wait_for()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("img", name="Score of each plan").wait_for(timeout=60_000)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    wide = page.locator("[role=img], [data-testid=stHtml] table").evaluate_all(
        "charts => charts.map(chart => chart.getBoundingClientRect().right)"
    )
    assert wide and max(wide) <= width
    tall = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    assert width < 1280 or tall <= WHAT_IF_HIGH
    red = page.evaluate(
        "() => +getComputedStyle(document.body.querySelector('.stApp')).backgroundColor.match(/\\d+/)[0]"
    )
    assert (red < 128) == (scheme == "dark")
    context.close()


def test_the_plan_with_its_answer_is_not_long(page: Any) -> None:
    page.get_by_role("link", name="Plan").first.click()
    page.get_by_text("GPUs used and idle").first.wait_for()
    page.locator(".st-key-frontier svg.marks").wait_for()
    tall = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    assert 900 < tall <= PLAN_HIGH


def test_the_table_of_plans_fits_a_phone(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 850})
    page = context.new_page()
    page.goto(f"{address}/plan")
    table = page.locator(".st-key-plans_table table")
    table.wait_for(timeout=60_000)
    heads = table.locator("th:visible").all_inner_texts()
    assert [head for head in heads if head.strip()] == ["plan", "score", "cost", "calendar"]
    assert table.evaluate("table => table.getBoundingClientRect().right") <= 390
    context.close()


def test_no_page_is_wider_than_a_phone(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 850}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(60_000)
    for title, words in PAGES.items():
        page.goto(f"{address}/{title.lower()}")
        page.get_by_text(words).first.wait_for()
        page.wait_for_timeout(500)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, title
        right = page.locator(
            "[data-testid=stVegaLiteChart], [data-testid=stMetric], [data-testid=stDataFrame]"
        )
        ends = right.evaluate_all("found => found.map(one => one.getBoundingClientRect().right)")
        assert all(end <= 390 for end in ends), title
    context.close()
