"""The page Plan: every wish of a question file can be asked in its form, and both are the same question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mopdsim.app import background, planned, questions
from mopdsim.app.choice import Choice
from mopdsim.app.pages import plan as plan_page
from mopdsim.app.state import View
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.plan.plan import plan
from mopdsim.plan.question import Question, from_document, load, loads

TINY = Choice(preset="tiny", domains=("sort", "reverse"), deadline_days=0.02)
EIGHT = Path(__file__).parents[3] / "studies" / "questions" / "eight_domains.toml"


def page() -> None:
    import streamlit as st

    from mopdsim.app import state
    from mopdsim.app.pages import plan

    state.restore()
    if not st.session_state.get("elsewhere"):
        plan.page()


class Begun:
    """What the page hands to the planner instead of a process."""

    seconds = 1.0
    running = True
    progress = (1, 5, "judging")

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.error = ""

    def start(self, arguments: list[str], files: dict[str, str]) -> Begun:
        assert arguments[:2] == ["plan", *files]
        self.questions.extend(files.values())
        return self

    def result(self) -> dict[str, Any]:
        raise UsageError(self.error)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    found = Begun()
    monkeypatch.setattr(background, "start", found.start)
    monkeypatch.setattr(background, "_working", {})
    yield found


def drawn(choice: Choice = TINY, **state: Any) -> AppTest:
    at = AppTest.from_function(page, default_timeout=900)
    opened = {"plan_more": True, "plan_facts": True, "plan_year": True}
    for key, value in {"view": View(choice=choice), **opened, **state}.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception, at.exception
    return at


def asked(at: AppTest, begun: Begun) -> Question:
    """The question that the form asks when its button is pressed: the rough one and the full are the same."""
    at.button(key="recommend").click().run()
    assert not at.exception, at.exception
    assert not at.error, [error.value for error in at.error]
    assert begun.questions[-1] == begun.questions[-2]
    return loads(begun.questions[-1])


def question(**changes: Any) -> Question:
    reliability = {"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0}
    tiny = {"model": "tiny", "gpu": "CPU-2-cores", "gpus": 1, "teams": 1, "reliability": reliability}
    return from_document({"domains": ["sort", "reverse"], "deadline_days": 0.02, **tiny, **changes})


def test_the_opening_question_is_answered_at_once_and_its_button_rests(begun: Begun) -> None:
    at = drawn(Choice())
    assert at.button(key="recommend").disabled
    assert any("80% range" in table.value.columns for table in at.table)
    assert not begun.questions


def test_the_form_asks_what_counts_lowest_scores_and_confidence(begun: Begun) -> None:
    wishes = 'objective = "weighted"\n[weights]\nsort = 3.0\n[minimum]\nreverse = 0.25\n'
    at = drawn(TINY.changed(wishes=wishes))
    at.slider(key="plan_confidence").set_value(0.7).run()
    wanted = question(
        objective="weighted", weights={"sort": 3.0, "reverse": 1.0}, minimum={"reverse": 0.25}, confidence=0.7
    )
    assert asked(at, begun) == wanted
    at.selectbox(key="plan_objective").select("p10").run()
    assert loads(questions.of_choice(at.session_state["view"].choice)).objective == "p10"


def test_the_form_asks_for_a_year_of_releases(begun: Begun) -> None:
    at = drawn()
    at.number_input(key="plan_releases").set_value(2).run()
    at.multiselect(key="plan_release_0").select("sort").run()
    at.multiselect(key="plan_release_1").set_value(["sort", "reverse"]).run()
    assert asked(at, begun) == question(portfolio=[["sort"], ["sort", "reverse"]])
    at.number_input(key="plan_releases").set_value(1).run()
    assert loads(questions.of_choice(at.session_state["view"].choice)).portfolio == (("sort",),)


def test_numbers_typed_over_are_known_and_stay_with_their_domain() -> None:
    choice = TINY.changed(domains=("sort", "shift"))
    facts = plan_page.with_facts(
        choice, [("shift", "start", 0.125), ("shift", "turns", 2), ("sort", "x", 1.0)]
    )
    found = loads(questions.of_choice(choice.changed(facts=facts))).base.domains["shift"]
    assert (found.start.value, found.start.grade, found.turns) == (0.125, "measured", 2)
    assert plan_page.known(choice.scenario()).loc["shift", "start"] != 0.125
    forgotten = plan_page.with_facts(choice.changed(facts=facts), [("shift", "start", None)])
    assert [row[1] for row in forgotten] == ["turns"]


def test_what_was_asked_outlives_a_switch_of_pages(begun: Begun) -> None:
    at = drawn()
    at.number_input(key="q_gpus").set_value(2).run()
    for elsewhere in (True, False):
        at.session_state["elsewhere"] = elsewhere
        at.run()
    assert at.number_input(key="q_gpus").value == 2
    assert asked(at, begun) == question(gpus=2)
    assert len(begun.questions) == 2
    at.session_state["elsewhere"] = True
    at.run()
    at.session_state["elsewhere"] = False
    at.run()
    assert at.button(key="recommend").disabled and len(begun.questions) == 2


def test_an_own_question_is_asked_as_it_stands(begun: Begun) -> None:
    choice = questions.to_choice(EIGHT.read_text())
    assert asked(drawn(choice), begun) == load(EIGHT)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (TINY.changed(deadline_days=0), "no limit: give budget_usd"),
        (TINY.changed(wishes="model = 'tiny'"), "belongs to the scenario"),
        (TINY.changed(wishes="objective = 'best'"), "no such objective"),
        (TINY.changed(wishes="confidence = 'x'"), "confidence = 'x': must be a finite number"),
        (TINY.changed(wishes="minimum = 3"), "minimum = 3: must be a table by domain"),
        (TINY.changed(wishes="objective = 'weighted'\nweights = 3"), "weights"),
        (TINY.changed(wishes="portfolio = [1]"), "must be a list of releases"),
    ],
)
def test_a_form_that_makes_no_question_is_one_sentence(choice: Choice, sentence: str) -> None:
    with pytest.raises(MopdError, match=sentence):
        questions.of_choice(choice)
    at = drawn(choice)
    assert len(at.error) >= 1 and sentence in at.error[0].value
    assert at.button(key="recommend").disabled


def test_the_planners_error_is_said_and_the_button_is_back(begun: Begun) -> None:
    begun.error = "no plan keeps the limits"
    at = drawn()
    asked(at, begun)
    begun.running = False  # type: ignore[misc]
    at.run()
    assert any("no plan keeps the limits" in error.value for error in at.error)
    assert not at.button(key="recommend").disabled


@pytest.fixture(scope="module")
def answered() -> tuple[str, dict[str, Any]]:
    own = {
        "domains": ["sort", "reverse"],
        "deadline_days": 0.02,
        "budget_usd": 0.01,
        "max_rounds": 1,
        "draws": 32,
    }
    more = {"portfolio": [["sort"]], "conflict": {"sort>reverse": [-1.5, 1.0]}}
    text = questions.checked({**own, **more})
    return text, json.loads(json.dumps(plan(loads(text)).to_document()))


def test_the_answer_has_calendar_frontier_and_its_folds(answered: tuple[str, dict[str, Any]]) -> None:
    text, document = answered
    choice = questions.to_choice(text)
    planned.keep(questions.of_choice(choice), document)
    folds = ("fold__full", "fold__doubts", "fold__sensitivity", "fold__portfolio")
    at = drawn(choice, **dict.fromkeys(folds, True))
    told = " ".join(str(element.value) for kind in (at.markdown, at.caption) for element in kind)
    for words in (
        "The plan as a calendar",
        "GPUs used and idle",
        "Cost against score",
        "What would change this",
    ):
        assert words in told
    assert "that is what being wrong costs" in told and "times its cost" in told
    years = next(table.value for table in at.dataframe if "days of work" in table.value.columns)
    assert list(years["plan"]) == [row["label"] for row in document["portfolio"]["plans"]]
    plans = next(table.value for table in at.table if "80% range" in table.value.columns)
    assert len(plans) == 1 + len(document["alternatives"])


def test_another_question_greys_the_answer_and_a_reload_finds_it(
    answered: tuple[str, dict[str, Any]], begun: Begun
) -> None:
    choice = questions.to_choice(answered[0])
    asked_for = questions.of_choice(choice)
    planned.keep(asked_for, answered[1])
    at = drawn(choice)
    at.number_input(key="q_gpus").set_value(4).run()
    assert any("to the question before" in caption.value for caption in at.caption)
    assert not at.button(key="recommend").disabled and not begun.questions
    token = at.query_params["view"]
    again = AppTest.from_function(page, default_timeout=900)
    again.query_params["view"] = token[0] if isinstance(token, list) else token
    again.query_params["answered"] = "1"
    again.run()
    assert not again.exception
    assert len(begun.questions) == 2  # an answer that this server has lost is worked out again
    assert loads(begun.questions[0]).base.pools != loads(asked_for).base.pools


def test_gpus_in_use_and_idle_fill_the_pool() -> None:
    import pandas as pd

    from mopdsim.app import frames

    stages = pd.DataFrame({"start day": [0.0, 0.0, 2.0], "end day": [2.0, 1.0, 3.0], "GPUs": [4, 2, 8]})
    used = frames.gpus_in_use(stages, 8)
    whole = used.groupby("from").GPUs.sum()
    assert list(whole) == [8, 8, 8]
    assert frames.idle_share(used) == pytest.approx((2 * 1 + 4 * 1 + 0) / 24)
