"""The app's pages without a browser: every page and state draws, numbers are those of the command line."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from mopdsim.app import background, planned, questions
from mopdsim.app.answers import answer
from mopdsim.app.choice import PRESETS, Choice, rl_behind, split
from mopdsim.app.pages import results
from mopdsim.app.state import View, from_token, to_token
from mopdsim.base.numbers import score, usd
from mopdsim.base.run_directory import PHASES
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.forecast import forecast
from mopdsim.plan.plan import plan
from mopdsim.plan.question import loads
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.validate import rl_rows

APP = Path(__file__).parents[3] / "app.py"
TIMEOUT = 900


def drawn(script: Callable[[], None], **state: Any) -> AppTest:
    """A page drawn once with this session state."""
    at = AppTest.from_function(script, default_timeout=TIMEOUT)
    for key, value in state.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception, at.exception
    return at


def what_if() -> None:
    from mopdsim.app import state
    from mopdsim.app.pages import what_if

    state.restore()
    what_if.page()


def interference() -> None:
    from mopdsim.app.pages import interference

    interference.page()


def recipes() -> None:
    from mopdsim.app.pages import recipes

    recipes.page()


def calibration() -> None:
    from mopdsim.app.pages import calibration

    calibration.page()


def runs() -> None:
    from mopdsim.app.pages import runs

    runs.page()


def text_of(at: AppTest) -> str:
    """All words of a page."""
    return " ".join(
        str(element.value) for kind in (at.markdown, at.caption, at.info, at.subheader) for element in kind
    )


def moved(at: AppTest, slider: str, value: Any) -> None:
    """A dial moved, and the redraw after it."""
    at.select_slider(key=slider).set_value(value).run()
    assert not at.exception


def charts_of(at: AppTest) -> list[Any]:
    return list(at.get("vega_lite_chart"))


def intervals_of(at: AppTest) -> list[str]:
    """The first screen's charts, which are HTML alone."""
    return [body for element in at.get("html") if "Score of each plan" in (body := element.proto.body)]


def test_the_app_opens_on_the_planners_verdict() -> None:
    gc.unfreeze()
    st.cache_resource.clear()  # it may have been opened before
    at = AppTest.from_file(str(APP), default_timeout=TIMEOUT).run()
    assert not at.exception
    assert planned.shipped()["planned"]["headline"] in text_of(at).replace("\\", "")
    assert not charts_of(at) and not at.metric and not at.error  # the dials are folded
    assert len(intervals_of(at)) == 1
    assert gc.get_freeze_count() > 10_000  # the collection after every run passes over what is loaded


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=pytest.mark.slow) for name in PRESETS] + ["deepseek_r1_zero"]
)
def test_every_preset_draws(preset: str) -> None:
    at = drawn(what_if, view=View(choice=Choice(preset=preset)), explore=True)
    assert len(charts_of(at)) == 4
    assert [error.value for error in at.error if "no limit" not in error.value] == []
    assert [metric.label.partition(" :")[0] for metric in at.metric][:3] == ["Cost", "Calendar", "Mean score"]
    for chart in charts_of(at):
        assert len(chart.proto.alt) > 20


def test_numbers_are_those_of_the_downloaded_file_on_the_command_line() -> None:
    choice = Choice(teachers=3, conflict=-0.2, quality=1.5, gpus=256, teams=4, pools="by_kind")
    found = answer(choice)
    again = forecast(scenarios.loads(found.toml().decode())).to_document()
    assert json.dumps(again, sort_keys=True) == json.dumps(found.document, sort_keys=True)


def test_a_slider_changes_the_numbers_and_says_what_changed() -> None:
    at = drawn(what_if, explore=True, changed_inputs=True)
    before = at.metric[0].value
    moved(at, "w_teachers", 2)
    assert at.session_state["view"].choice == Choice(teachers=2)
    assert at.metric[0].value != before
    changed = next(table.value for table in at.dataframe if "input" in table.value.columns)
    assert "steps of student" not in set(changed["input"])
    assert "stage teacher_3" in set(changed["input"])
    next(button for button in at.button if button.label == "Reset").click().run()
    assert at.metric[0].value == before
    assert "Nothing is changed" in text_of(at)


def test_a_link_restores_the_view_and_a_slider_writes_it() -> None:
    view = View(choice=Choice(preset="three_specialists", teachers=2, conflict=-0.25), pinned={"B": Choice()})
    at = AppTest.from_function(what_if, default_timeout=TIMEOUT)
    at.query_params["view"] = to_token(view)
    at.session_state["explore"] = True
    at.run()
    assert not at.exception
    assert at.session_state["view"] == view
    assert at.select_slider(key="w_teachers").value == 2
    moved(at, "w_teams", 1)
    (token,) = (
        [at.query_params["view"]] if isinstance(at.query_params["view"], str) else at.query_params["view"]
    )
    assert from_token(token) == view.model_copy(update={"choice": view.choice.changed(teams=1)})


def test_a_damaged_link_is_one_sentence_above_a_page_that_works() -> None:
    at = AppTest.from_function(what_if, default_timeout=TIMEOUT)
    at.query_params["view"] = "not-a-view"
    at.run()
    assert not at.exception
    assert [error.value for error in at.error] == ["link: its view is damaged: copy the whole link again"]
    assert len(intervals_of(at)) == 1


def test_four_scenarios_stand_side_by_side_and_no_more() -> None:
    at = drawn(what_if, explore=True)
    for teachers in (1, 2, 4):
        moved(at, "w_teachers", teachers)
        next(button for button in at.button if button.label == "Pin beside").click().run()
    assert not at.exception
    assert list(at.session_state["view"].pinned) == ["A", "B", "C"]
    assert next(button for button in at.button if button.label == "Pin beside").disabled
    beside = next(table.value for table in at.table if "A" in table.value.columns)
    assert list(beside.columns) == ["now", "A", "B", "C"]
    assert list(beside.loc["changed"]) == [f"teachers {count}" for count in (4, 1, 2, 4)]
    at.button(key="unpin_A").click().run()
    beside = next(table.value for table in at.table if "now" in table.value.columns)
    assert list(beside.columns) == ["now", "B", "C"]  # who stays keeps its name
    next(button for button in at.button if button.label == "Pin beside").click().run()
    assert list(at.session_state["view"].pinned) == ["B", "C", "A"]


def test_what_is_pinned_is_in_the_slide_with_its_inputs() -> None:
    choice = Choice(preset="three_specialists", recipe="deepseek_r1")
    view = View(choice=choice, pinned={"A": choice.changed(recipe="mimo_v2_flash")})
    at = drawn(what_if, view=view, explore=True, export_what_if=True)
    labels = [button.proto.label for button in at.get("download_button")]
    assert {"Slide, PNG", "XLSX, all tables", "scenario.toml"} <= set(labels)
    shown = {"now": answer(choice), "A": answer(view.pinned["A"])}
    title = results.side_by_side_title(shown)
    for name, found in (("DeepSeek-R1", shown["now"]), ("MiMo-V2-Flash", shown["A"])):
        assert (
            f"{name} {score(found.forecast.mean_score['p50'])} for {usd(found.document['usd']['p50'])}"
            in title
        )


def test_what_does_not_fit_is_one_sentence_and_the_sliders_stay() -> None:
    at = drawn(what_if, view=View(choice=Choice(model="DeepSeek-V3", gpus=1)), explore=True)
    assert len(at.error) == 1
    assert "does not fit" in at.error[0].value
    moved(at, "w_gpus", 2048)
    assert not at.error
    assert len(charts_of(at)) == 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("recipe = 'mixed_rl'\ndomains = ['math', 'chat']\ngpus = 8\n", "mixed_rl"),
        ("domains = ['math', 'chat']\ngpus = 8\nbudget_usd = 1e5\nobjective = 'worst'\n", "mopd"),
        ("recipe = 'mixd_rl'\ndomains = ['math']\n", "did you mean 'mixed_rl'?"),
        ("domains = ['math']\nbudget_usd = 1e5\nobjective = 'w'\n", "no such objective"),
    ],
)
def test_an_own_file_takes_the_presets_place_and_a_bad_one_does_not(text: str, found: str) -> None:
    at = drawn(what_if, chip_question=True)
    at.file_uploader(key="own_file").upload("x.toml", text.encode())
    at.run()
    assert not at.exception
    choice = at.session_state["view"].choice
    if choice == Choice():
        assert found in at.error[0].value
    else:
        assert choice.scenario().recipe.name == found
        assert ("worst" in choice.wishes) == ("worst" in text)


def test_an_own_domain_a_price_and_a_step_change_the_forecast_and_are_in_its_file() -> None:
    at = drawn(what_if, chip_domains=True, chip_machine=True)
    before = answer(Choice()).document["usd"]["p50"]
    at.text_input(key="own_name").set_value("law")
    at.selectbox(key="own_like").set_value("math")
    at.number_input(key="own_start").set_value(0.42)
    at.number_input(key="own_tokens").set_value(900)
    next(button for button in at.button if button.label == "Add the domain").click().run()
    assert not at.exception and not at.error
    at.number_input(key="q_usd_per_gpu_hour").set_value(2.0).run()
    at.number_input(key="own_step_seconds").set_value(400.0)
    next(button for button in at.button if button.label == "Use this step").click().run()
    assert not at.exception and not at.error
    choice = at.session_state["view"].choice
    law = choice.scenario().domains["law"]
    assert (law.start.value, law.response_tokens.value) == (0.42, 900)
    assert choice.measured is not None
    found = answer(choice)
    assert found.document["usd"]["p50"] != before
    again = scenarios.loads(found.toml().decode())
    assert again == found.forecast.scenario and again.usd_per_gpu_hour == 2.0
    assert loads(questions.of_choice(choice)).base.factor == choice.measured


def test_an_own_config_is_a_model_like_any_other() -> None:
    config = {
        "model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 6144, "vocab_size": 151936,
        "tie_word_embeddings": True,
    }  # fmt: skip
    at = drawn(what_if, chip_model=True)
    at.file_uploader(key="own_config").upload("config.json", json.dumps(config).encode())
    at.run()
    assert not at.exception and not at.error
    found = answer(at.session_state["view"].choice)
    known = answer(Choice(model="Qwen3-1.7B"))
    assert found.document["usd"]["p50"] == pytest.approx(known.document["usd"]["p50"], rel=0.01)
    assert found.document["model"].startswith("own 1.72B")
    assert scenarios.loads(found.toml().decode()) == found.forecast.scenario


def test_teacher_quality_scales_what_the_student_learns_from() -> None:
    before, after = Choice().scenario().recipe, Choice(quality=2.0).scenario().recipe
    taught = set(rl_behind(before))
    for name, amounts in before.amounts.items():
        assert after.amounts[name].steps == amounts.steps * (2 if name in taught else 1)
    assert "student" not in taught


@pytest.mark.parametrize("teachers", [1, 2, 4, 8])
def test_fewer_teachers_with_the_same_total_train_longer(teachers: int) -> None:
    def steps(choice: Choice) -> int:
        recipe = choice.scenario().recipe
        return sum(recipe.amounts[name].steps for name in rl_behind(recipe))

    assert steps(Choice(teachers=teachers, equal_total=True)) == steps(Choice())
    assert steps(Choice(teachers=teachers)) == steps(Choice()) * teachers / 8


@pytest.mark.parametrize("teachers", range(1, 9))
def test_a_split_keeps_every_domain_once_and_sizes_even(teachers: int) -> None:
    names = list("abcdefgh")
    groups = split(names, teachers)
    assert [name for group in groups for name in group] == names
    assert len(groups) == teachers
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1


def test_a_shift_of_conflict_moves_every_pair_by_it() -> None:
    before, after = answer(Choice()).forecast.world, answer(Choice(conflict=-0.4)).forecast.world
    difference = (after.conflict_DDN - before.conflict_DDN).mean(axis=2)
    for source, row in enumerate(difference):
        for target, value in enumerate(row):
            assert math.isclose(value, 0.0 if source == target else -0.4, abs_tol=1e-9)


def test_a_small_shift_of_conflict_is_a_small_change_where_dials_are_set() -> None:
    own = 'recipe = "mixed_rl"\ndomains = ["sort?ambiguity=0.5", "sort_down?ambiguity=0.5"]'
    before, after = (answer(Choice(own=own, conflict=shift)).forecast for shift in (0.0, -0.01))
    assert np.sign(before.world.conflict_DDN[0, 1].mean()) == np.sign(after.world.conflict_DDN[0, 1].mean())
    assert after.mean_score["p50"] == pytest.approx(before.mean_score["p50"], abs=0.01)


def test_interference_draws_k_and_regroups() -> None:
    at = drawn(interference)
    assert len(charts_of(at)) == 2
    at.selectbox(key="group_code").select(1).run()
    assert not at.exception
    assert at.session_state["view"].choice.groups is not None
    assert ("math", "code") in at.session_state["view"].choice.groups


def test_an_edited_k_goes_into_the_choice_and_can_be_forgotten() -> None:
    at = AppTest.from_function(_type_over_k, default_timeout=TIMEOUT).run()
    ((source, target, *ends),) = at.session_state["view"].choice.pairs
    assert (source, target, ends) == ("math", "chat", pytest.approx([-0.4, -0.2]))
    at = drawn(interference, view=at.session_state["view"])
    next(button for button in at.button if button.label == "Forget own K").click().run()
    assert at.session_state["view"].choice.pairs == ()


def _type_over_k() -> None:
    """What the table's callback does, which AppTest cannot fire: K is -0.5 where every pair is shifted by -0.2; an
    emptied cell and a domain's own change nothing."""
    from mopdsim.app import state
    from mopdsim.app.choice import Choice
    from mopdsim.app.pages import interference

    state.put(Choice(conflict=-0.2))
    interference._edited([("math", "chat", -0.5), ("code", "math", None), ("chat", "chat", 1.0)], width=0.1)


@pytest.mark.parametrize(("k", "finding"), [(0.0, "every K is 0"), (0.25, "training on code helps math")])
def test_interference_says_what_equal_effects_come_to(k: float, finding: str) -> None:
    choice = Choice(domains=("math", "code"), pairs=(("math", "code", -k, k), ("code", "math", k, k)))
    at = drawn(interference, view=View(choice=choice))
    assert not at.error and finding in text_of(at)
    assert ("all +0.00" in text_of(at)) == (k == 0)


@pytest.mark.parametrize("tab", ["One recipe", "All at one budget"])
def test_recipes_draws(tab: str) -> None:
    at = drawn(recipes, recipes_tab=tab, untuned=True)
    assert not at.error
    assert len(charts_of(at)) == (2 if tab == "One recipe" else 1)


def test_recipes_at_published_scale_and_on_pools_of_their_own() -> None:
    at = drawn(recipes, recipe="deepseek_r1_zero", scale="published")
    assert not at.error
    assert len(at.dataframe[0].value) == 1
    at = drawn(recipes, recipe="mopd", pools="by_kind")
    assert not at.error
    assert set(answer(Choice(pools="by_kind")).document["pools"]) == {"rl", "distill"}


def test_pools_that_no_model_fits_are_one_sentence() -> None:
    at = drawn(recipes, recipe="deepseek_r1", scale="published", pools="by_stage")
    assert len(at.error) == 1
    assert "does not fit" in at.error[0].value


@pytest.mark.parametrize("kind", [pytest.param("rl_steps", marks=pytest.mark.slow), "project_totals"])
def test_calibration_shows_predictions_against_measurements(kind: str) -> None:
    at = drawn(calibration, validation=kind)
    assert not at.error
    assert len(charts_of(at)) == (
        3 if kind == "project_totals" else 2
    )  # FLOPs and GPU-hours have axes of their own
    assert at.metric[0].label == "Measurements"


def test_tables_print_numbers_as_people_read_them_and_keep_them_whole() -> None:
    at = drawn(calibration, calibration_tab="Predicted against measured", validation="held_out")
    shares = next(t for t in at.dataframe if "inside the 80% interval" in t.value.columns)
    assert shares.value["inside the 80% interval"].between(0, 1).all()
    printed = pa.ipc.open_stream(shares.proto.arrow_data.styler.display_values).read_pandas()
    place = list(shares.value.columns).index("inside the 80% interval")
    assert printed.iloc[:, place].str.fullmatch(r"\d+%").all()


def test_calibration_names_parameters_with_grades_and_takes_a_table() -> None:
    at = drawn(calibration, calibration_tab="Parameters and studies")
    table = at.dataframe[0].value
    assert {"P10", "P50", "P90", "grade"} <= set(table.columns)
    assert set(table["grade"]) <= {"measured", "published", "fitted", "prior"}
    assert (table["P10"] <= table["P50"]).all() and (table["P50"] <= table["P90"]).all()
    at = drawn(calibration, calibration_tab="Own observations")
    at.file_uploader(key="refit_upload").upload("x.csv", b"a,b\n1,2\n")
    at.run()
    assert not at.exception
    assert len(at.error) == 1


def test_a_table_is_read_once_before_it_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again while the fit, which reads it too, is under way."""
    own, read = rl_rows.load, list[Any]()

    def counted(data: Any) -> Any:
        read.append(data)
        return own(data)

    monkeypatch.setattr(rl_rows, "load", counted)
    monkeypatch.setattr(background, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(20)"))
    monkeypatch.setattr(background, "_working", {})
    at = drawn(calibration, calibration_tab="Own observations")
    table = APP.parent / "mopdsim" / "data" / "published" / "rl_steps.csv"
    at.file_uploader(key="refit_upload").upload("x.csv", table.read_bytes())
    at.run()
    assert len(read) == 1 and not at.exception
    next(button for button in at.button if button.label == "Refit").click().run()
    (work,) = background._working.values()
    assert len(read) == 1 and not at.exception
    work.process.kill()


@pytest.fixture
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory under way, as the trainer writes it."""
    place = tmp_path / "first"
    stage = place / "store" / "abc"
    stage.mkdir(parents=True)
    (place / "STATUS").write_text("running\n")
    (place / "config.toml").write_text('name = "mopd"\n')
    (stage / "made_from.json").write_text('{"stage": {"kind": "rl", "domains": {"sort": 1.0}}}')
    rows = [
        {"kind": "evaluation", "step": 0, "split": "validation", "domains": {"sort": {"pass_rate": 0.25, "se": 0.1}}},
        {"kind": "step", "step": 0, "loss": 0.5, "reward": 0.25, "grad_norm": 1.0, "seconds": {"training": 0.5},
         "gradient_cosine": {"math|code": 0.75}},
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (stage / "metrics.jsonl").write_text(lines + '{"kind": "step", "st')
    monkeypatch.setenv("MOPD_RUNS", str(tmp_path))
    yield place


def test_runs_shows_a_run_under_way_and_skips_a_line_half_written(a_run: Path) -> None:
    at = drawn(runs)
    assert not at.error
    assert "mopd: running, 1 steps logged" in text_of(at)
    assert len(charts_of(at)) == 3
    assert next(button for button in at.button if button.label == "Start").disabled


def test_runs_says_what_a_damaged_summary_is(a_run: Path) -> None:
    (a_run / "STATUS").write_text("done\n")
    (a_run / "metrics.jsonl").write_text('{"kind": "step", "stage": "student", "step": 0, "loss": 1.0}\n')
    (a_run / "summary.json").write_text("{")
    at = drawn(runs)
    assert len(at.error) == 1
    assert "summary.json: not valid JSON" in at.error[0].value


def test_a_log_changed_by_hand_is_one_sentence_on_every_page_that_reads_it(a_run: Path) -> None:
    (a_run / "STATUS").write_text("done\n")
    (a_run / "metrics.jsonl").write_text('{"kind": "step", "stage": "student", "step": 0, "loss": "low"}\n')
    for page in (runs, interference):
        at = drawn(page)
        (error,) = at.error
        assert "metrics.jsonl" in error.value and "loss = 'low'" in error.value
    assert charts_of(at)  # the domains' own effects are still drawn


def test_runs_tables_the_scores_of_a_finished_run_beside_their_forecast(a_run: Path) -> None:
    (a_run / "STATUS").write_text("done\n")
    (a_run / "metrics.jsonl").write_text('{"kind": "step", "stage": "student", "step": 0, "loss": 1.0}\n')
    done = {
        "kind": "rl",
        "domains": {"sort": {"pass_rate": 0.75}},
        "flops": dict.fromkeys(PHASES, 1.0),
        "seconds": dict.fromkeys(PHASES, 0.25),
        "steps": 2,
        "tokens": {},
        "peak_memory_bytes": 1,
        "wall_seconds": 1.0,
    }
    summary = {"run": "x", "seconds": 1.0, "weights_sha256": "0", "stages": {"student": done}}
    scores = {"sort": {"start": 0.25, "final": 0.75, "se": 0.02}}
    (a_run / "summary.json").write_text(json.dumps({**summary, "scores": scores}))
    measured = {"domain": "sort", "start": 0.25, "final": 0.75, "standard error": 0.02}
    at = drawn(runs)
    assert not at.error and "No forecast beside it" in text_of(at)
    table = next(table.value for table in at.dataframe if "final" in table.value.columns)
    assert table.to_dict("records") == [measured]
    recipe = catalogue.recipe("mixed_rl", ["sort"], amounts="tiny")
    (a_run / "config.toml").write_text(recipe_file.dump(recipe))
    (a_run / "resolved.json").write_text('{"model": "tiny"}')
    at = drawn(runs)
    assert not at.error
    table = next(table.value for table in at.dataframe if "final" in table.value.columns)
    told = answer(Choice(own=scenarios.dump(scenarios.of_recipe("mixed_rl", domains=["sort"])))).document[
        "scores"
    ]
    (row,) = table.to_dict("records")
    assert row["forecast P50"] == told["sort"]["p50"]
    assert {key: row[key] for key in measured} == measured
    assert (row["forecast"] == "inside") == (told["sort"]["p10"] <= 0.75 <= told["sort"]["p90"])


@pytest.fixture
def a_run_with_samples(a_run: Path) -> Path:
    """A student that learns from two teachers, under way, and one of its teachers."""
    places = {"teach1": ("rl", "sort", {}), "teach2": ("rl", "swap", {})}
    places["student"] = ("distill", "sort", {"teachers": [{"stage": "teach1"}, {"stage": "teach2"}]})
    for key, (kind, domain, more) in places.items():
        (a_run / "store" / key).mkdir()
        stage = {"kind": kind, "domains": {domain: 1.0}, **more}
        (a_run / "store" / key / "made_from.json").write_text(json.dumps({"stage": stage}))
    common = {
        "kind": "sample",
        "domain": "sort",
        "prompt": "s:ba",
        "answer": "a<b",
        "length": 3,
        "reward": 1.0,
    }
    tokens = {"tokens": ["a", "<", "b"], "student": [-0.5, None, -2.0]}
    taught = {"teachers": [[-0.25, None, -2.5], [-1.5, None, -1.0]], "own": [0]}
    logs = {
        "teach1": [{**common, **tokens, "step": 0, "advantage": [0.5, None, 0.5], "judged_reward": 0.25}],
        "student": [{**common, **tokens, **taught, "step": step} for step in (0, 1, 1)],
    }
    for key, rows in logs.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (a_run / "store" / key / "samples.jsonl").write_text(text + '{"kind": "sample", "ste')
    return a_run


def test_samples_of_a_run_under_way_show_each_teachers_score(a_run_with_samples: Path) -> None:
    at = drawn(runs, samples_table=True, sample_stage="distill sort")
    assert not at.error
    assert at.selectbox(key="sample_step").value == 1 and at.selectbox(key="sample_number").options == [
        "1",
        "2",
    ]
    assert at.selectbox(key="sample_teacher").options == ["its own", "rl sort (teac)", "rl swap"]
    assert "1 of 2 tokens more log-probability" in text_of(at) and "at token 3, 'b': -0.50" in text_of(at)
    table = next(frame.value for frame in at.dataframe if "text" in frame.value.columns)
    assert list(table["rl sort (teac) less student"].dropna()) == [0.25, -0.5]
    at.selectbox(key="sample_teacher").select("rl swap").run()
    assert not at.exception
    table = next(frame.value for frame in at.dataframe if "text" in frame.value.columns)
    assert list(table["log p rl swap"].dropna()) == [-1.5, -1.0]
    assert list(table["rl swap less student"].dropna()) == [-1.0, 1.0]
    assert "it learns from rl sort" in text_of(at)


def test_samples_of_reinforcement_learning_show_advantages(a_run_with_samples: Path) -> None:
    at = drawn(runs, sample_stage="rl sort (teac)", samples_table=True)
    assert not at.error
    assert "the reward model gives 0.25; mean advantage +0.50" in text_of(at)
    table = next(frame.value for frame in at.dataframe if "text" in frame.value.columns)
    assert list(table.columns) == ["token", "text", "log p", "advantage"]


def test_a_sample_that_another_stage_does_not_have_is_no_longer_chosen(a_run_with_samples: Path) -> None:
    at = drawn(runs, sample_stage="distill sort")
    at.selectbox(key="sample_number").select(2).run()
    assert at.selectbox(key="sample_step").value == 1
    at.selectbox(key="sample_stage").select("rl sort (teac)").run()
    assert not at.exception and not at.error
    assert at.selectbox(key="sample_step").value == 0 and at.selectbox(key="sample_number").value == 1
    assert "mean advantage +0.50" in text_of(at)


def test_samples_of_a_finished_run_have_its_own_names(a_run: Path) -> None:
    (a_run / "STATUS").write_text("done\n")
    row = {"stage": "student", "kind": "sample", "step": 4, "domain": "sort", "prompt": "s:ba", "answer": "a",
           "length": 1, "reward": 0.0, "tokens": ["a"], "student": [-0.5], "teachers": {"teacher_1": [-0.5]},
           "own": ["teacher_1"]}  # fmt: skip
    (a_run / "metrics.jsonl").write_text('{"kind": "step", "stage": "student", "step": 0, "loss": 1.0}\n')
    (a_run / "samples.jsonl").write_text(json.dumps(row) + "\n")
    at = drawn(runs)
    assert at.selectbox(key="sample_teacher").options == ["its own", "teacher_1"]
    assert "teacher\\_1 gives 0 of 1 tokens" in text_of(at)


def test_tokens_are_text_and_never_markup() -> None:
    from mopdsim.app.pages.samples import tokens_html

    shown = tokens_html(["<script>", '"', "x\n", ""], [-3.0, 0.5, None, 0.0], says='a "b" <c>')
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "\u21b5\n" in shown and "\u2205" in shown
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in shown
    assert shown.count("dashed") == 1 and shown.count("solid") == 2 and "not sampled" in shown


def test_interference_puts_gradients_of_runs_beside_k(a_run: Path) -> None:
    at = drawn(interference)
    table = next(table.value for table in at.dataframe if "gradient cosine" in table.value.columns)
    assert list(table["gradient cosine"]) == [0.75]


def test_runs_without_any_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOPD_RUNS", str(tmp_path / "none"))
    at = drawn(runs)
    assert "No runs in" in text_of(at)


def test_the_planners_frontier_becomes_a_scenario() -> None:
    question = (
        'domains = ["sort", "reverse"]\ndeadline_days = 0.02\nfamilies = ["mixed_rl", "mopd"]\ndraws = 50\n'
    )
    document = plan(loads(question)).to_document()
    for row in (document["frontier"][0], document["frontier"][-1]):
        scenario = scenarios.loads(questions.scenario_text(question, row["plan"]))
        assert scenario.recipe.domains == ("sort", "reverse")
        assert forecast(scenario).usd_N.mean() > 0
    chosen = scenarios.loads(questions.scenario_text(question, document["recommended"]))
    assert chosen.recipe == scenarios.loads(document["recommended"]["scenario"]).recipe
