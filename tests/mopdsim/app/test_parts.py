"""Parts of the app's pages on their own: what changed, in words; the result on held-out runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from mopdsim.app import frames
from mopdsim.app.choice import Choice
from mopdsim.app.pages import calibration
from mopdsim.app.pages.plan_answer import FAMILY_TITLES
from mopdsim.base import numbers
from mopdsim.base.errors import UsageError
from mopdsim.plan.question import FAMILIES
from mopdsim.recipes import catalogue

TRIALS = [  # forecast, its P10 and P90, what came out; the last is of a domain that was not trained
    ("sort", 0.50, 0.40, 0.60, 0.55, True),
    ("reverse", 0.70, 0.60, 0.80, 0.90, True),
    ("shift", 0.10, 0.00, 0.20, 0.90, False),
]
GROUP = {
    "n": 2, "mae_points": 12.5, "bias_points": -12.5, "coverage_80": 0.5, "best_baseline": "no change",
    "best_baseline_mae_points": 25.0,
}  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    """A result as `mopd study fit` writes it, as far as the page reads it."""
    rows = [
        {"study": "gain", "run": "a/seed0", "strategy": "mopd", "domain": domain, "in_set": trained,
         "predicted": middle, "low": low, "high": high, "measured": truth}
        for domain, middle, low, high, truth, trained in TRIALS
    ]  # fmt: skip
    judged = {
        "runs": 1, "skill": 0.5, "skill_interval": [0.25, 0.75], "coverage_80_interval": [0.1, 0.9],
        "regret_points": 1.5, "best_constant_rule": "mixed_rl", "best_constant_rule_regret_points": 3.0,
    }  # fmt: skip
    return {
        "held_out": {**GROUP, **judged},
        "by_strategy": {"mopd": GROUP, "merge": {"n": 0}},
        "by_study": {"gain": GROUP},
        "trials": rows,
    }


def put(place: Path, text: str) -> None:
    path = place / calibration.HELD_OUT
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_no_result_is_none_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    assert calibration.read_held_out(tmp_path) is None
    put(tmp_path / "empty", '{"held_out": {"n": 0}, "trials": []}')
    assert calibration.read_held_out(tmp_path / "empty") is None
    for number, text in enumerate(("{", "[]", "{}", "null", "\x00")):
        put(tmp_path / str(number), text)
        with pytest.raises(UsageError, match="run `mopd study fit --all --report` again"):
            calibration.read_held_out(tmp_path / str(number))


def test_held_out_scores_are_those_of_trained_domains(document: dict[str, Any]) -> None:
    table = calibration.held_out_trials(document)
    assert list(table["80% interval"]) == ["inside", "outside"]
    assert list(table.residual.round(6)) == [-5.0, -20.0]
    groups = calibration.by_group(document, "by_strategy", "recipe")
    assert list(groups.recipe) == ["multi-teacher distillation"]
    said = calibration.held_out_finding(document["held_out"])
    assert "misses by 12.5 points and beats the best simple rule, which misses by 25.0" in said
    assert "does not beat" in calibration.held_out_finding({**document["held_out"], "skill": -0.1})


def test_the_page_shows_a_result_first_and_stands_without_one(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page() -> None:
        from mopdsim.app.pages import calibration

        calibration.page()

    put(tmp_path, json.dumps(document))
    monkeypatch.setattr(calibration, "RESULTS", tmp_path)
    at = AppTest.from_function(page, default_timeout=900).run()
    assert not at.exception and not at.error
    assert [metric.value for metric in at.metric] == ["12.5 points", "25.0 points", "50%", "1.5 points"]
    (tmp_path / calibration.HELD_OUT).write_text("{")
    at = AppTest.from_function(page, default_timeout=900).run()
    assert not at.exception
    assert len(at.error) == 1
    assert at.metric[0].label == "Measurements"


def test_studies_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prediction.json", "observations.csv"):
        path = tmp_path / "gain" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(calibration, "RESULTS", tmp_path)
    row = {"study": "gain", "predicted": True, "measured": True, "reported": False}
    assert calibration.studies().to_dict("records") == [row]


def test_domains_are_dealt_by_number_or_by_groups_whichever_came_last() -> None:
    groups = (("math", "swe"), ("instruction_following",))
    grouped = Choice(preset="three_specialists", teachers=3).changed(groups=groups)
    assert (grouped.teachers, grouped.groups) == (None, groups)
    counted = grouped.changed(teachers=2)
    assert (counted.teachers, counted.groups) == (2, None)
    assert grouped.changed(gpus=8).groups == groups and grouped.changed(recipe="merge").groups is None


def test_a_choice_says_what_it_changes() -> None:
    assert Choice().changes == ""
    changed = Choice(teachers=3, conflict=-0.2, budget_usd=1e6, domains=("math", "chat", "code"))
    assert changed.changes == "domains math, chat and code, budget $1M, teachers 3, conflict -0.2"
    assert Choice(pairs=(("math", "chat", 0.1, 0.2),)).changes == "own pairs"


def test_a_shift_of_all_pairs_is_one_changed_input() -> None:
    base = Choice().scenario()
    rows = frames.changed_inputs(base, Choice(conflict=-0.2).scenario()).to_dict("records")
    assert rows == [{"input": "K of every pair, moved by", "baseline": "+0.00", "now": "-0.20"}]
    one = Choice(pairs=(("math", "chat", 0.1, 0.2),)).scenario()
    assert list(frames.changed_inputs(base, one).input) == ["conflict math>chat"]
    assert frames.changed_inputs(base, base).empty


@pytest.mark.parametrize(("value", "text"), [(-42_900.0, "-$42.9K"), (3.0, "+$3"), (0.0, "+$0")])
def test_a_difference_has_its_sign_before_the_unit(value: float, text: str) -> None:
    assert numbers.signed(value, numbers.usd) == text


def test_systems_go_by_their_names() -> None:
    assert catalogue.recipe_title("deepseek_v4") == "DeepSeek-V4"
    assert catalogue.recipe_title("merge") == "weight merging"


def test_every_family_of_plans_has_a_title() -> None:
    assert set(FAMILY_TITLES) == set(FAMILIES)


def test_stages_of_rounds_are_called_by_domain_and_number() -> None:
    recipe = catalogue.mopd(("math", "code"), amounts="small", rounds=2)
    rows = pd.DataFrame({"stage": [stage.name for stage in recipe.stages]})
    names = set(frames.by_domains(rows, recipe).stage)
    assert {"math", "code", "math 2", "code 2", "student", "student 2"} <= names
    assert not any(name.startswith(("r1_", "r2_")) for name in names)
