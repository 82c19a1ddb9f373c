"""The page Trace: a real run traced in a process of its own, and drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import carry_out, shrunk
from streamlit.testing.v1 import AppTest

from mopdsim.app import background
from mopdsim.app.pages.trace import causes, pull, tokens
from mopdsim.recipes import catalogue

SECONDS = 300


def trace() -> None:
    from mopdsim.app.pages import trace

    trace.page()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs lie."""
    monkeypatch.setenv("MOPD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def press(at: AppTest, label: str) -> None:
    """A button, by what stands on it."""
    next(one for one in at.button if one.label == label).click().run()


def after(at: AppTest) -> AppTest:
    """The page when the work that was begun is done."""
    keys = list(background._working)
    assert keys
    for key in keys:
        background._working[key].process.wait(timeout=SECONDS)
    at.run()
    assert not at.exception, at.exception
    return at


def test_without_runs_it_says_where_to_start_one(folder: Path) -> None:
    at = AppTest.from_function(trace, default_timeout=60).run()
    assert "No finished runs" in at.info[0].value


@pytest.mark.slow
def test_an_answer_and_a_report_of_a_run(folder: Path, model: Path) -> None:
    recipe = shrunk(catalogue.recipe("mopd", ["sort", "reverse"]), learning_rate=1e-2)
    carry_out(recipe, model, folder / "first")
    at = AppTest.from_function(trace, default_timeout=60).run()
    press(at, "Trace")
    assert "prompt: it is empty" in at.error[0].value
    at.text_input[0].set_value("s:ba")
    at.text_input[1].set_value("ba")
    press(at, "Trace")
    at = after(at)
    key = at.session_state["traced"]
    assert key == ("trace", str(folder / "first"), "--prompt", "s:ba", "--answer", "ba")
    document = background.known(key)
    assert document is not None
    (answer,) = document["answers"]
    assert f"Verdict: {answer['verdict']}" in " ".join(one.value for one in at.markdown)
    assert set(causes(answer).cause) == {"start", "teacher_1", "teacher_2", "nobody"}
    assert list(tokens(answer).columns) == ["token", "student", "start", "teacher_1", "teacher_2"]
    gap = answer["tokens"][0]["teachers"]["teacher_1"] - answer["tokens"][0]["start"]
    assert pull(answer, "teacher_1")[0] == pytest.approx(gap, abs=1e-3)
    press(at, "Report on the run")
    at = after(at)
    assert any("share of each cause" in one.value for one in at.code)


@pytest.mark.slow
def test_a_question_that_fails_is_one_sentence(folder: Path, model: Path) -> None:
    carry_out(shrunk(catalogue.recipe("single_domain", ["sort"])), model, folder / "alone")
    at = AppTest.from_function(trace, default_timeout=60).run()
    at.text_input[0].set_value("s:ba")
    press(at, "Trace")
    at = after(at)
    assert "has no student" in at.error[0].value


def test_effects_stand_beside_the_shares() -> None:
    share = {"share": 0.5, "low": 0.4, "high": 0.6}
    answer = {"shares": {"start": share, "a": share | {"share": 0.7}}, "effects": {"a": 1.5}, "tokens": []}
    found = causes(answer)
    assert list(found.cause) == ["a", "start"]
    assert found.effect_nats[0] == 1.5 and found.effect_nats.isna()[1]
