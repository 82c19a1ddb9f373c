"""Whole runs as scenario files against what was measured: how rows are judged, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.validate.intervals import held, interval_score, summary
from mopdsim.validate.scenarios import UNITS, validate
from mopdsim.validate.tables import published

TEXT = """
recipe = "single_domain"
domains = ["math"]
model = "Qwen3-1.7B"
gpu = "H100"
gpus = 8
draws = 50
"""


def table(folder: Path, *rows: str) -> Path:
    (folder / "scenarios").mkdir(exist_ok=True)
    (folder / "scenarios" / "run.toml").write_text(TEXT)
    path = folder / "runs.csv"
    path.write_text("\n".join(["# made for a test", "id,unit,measured,bound,stack", *rows]) + "\n")
    return path


def test_a_row_is_judged_as_its_forecast(tmp_path: Path) -> None:
    told = forecast(scenario.loads(TEXT)).to_document()
    middle = told["gpu_hours"]["p50"]
    report = validate(table(tmp_path, f"run,gpu_hours,{middle:.6f},", f"run,days,{1e3 * middle:.6f},"))
    right, far = report["predictions"]
    assert {key: right[key] for key in ("p10", "p50", "p90")} == told["gpu_hours"]
    assert right["inside_80"] and right["ratio"] == pytest.approx(1.0)
    assert far["p50"] == told["days"]["p50"] and not far["inside_80"]
    assert report["coverage_80"] == 0.5 and report["rows"] == 2


def test_a_step_has_no_evaluation_and_no_failures(tmp_path: Path) -> None:
    found = forecast(scenario.loads(TEXT + "[reliability]\nrerun_probability = 0.5\n"))
    name = found.scenario.recipe.stages[-1].name
    bill = found.bills[name]
    seconds = sum(value for phase, value in bill.seconds.items() if phase != "evaluation") / bill.steps
    assert np.median(UNITS["step_s"](found)) == pytest.approx(seconds, rel=0.25)
    calm = forecast(scenario.loads(TEXT + "[reliability]\nrerun_probability = 0.0\n"))
    np.testing.assert_array_equal(found.step_seconds_N(name), calm.step_seconds_N(name))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("other,gpu_hours,5,", "other.toml"),
        ("run,minutes,5,", "gpu_hours, days, step_s"),
        ("run,step_s,0,", "must be a positive number"),
        ("run,step_s,5,about", "upper, ceiling, lower, floor"),
        ("run,step_s,5,,verll", "'verl'"),
    ],
)
def test_a_row_that_cannot_be_read_is_a_miss_with_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    report = validate(table(tmp_path, row, "run,gpu_hours,1e14,upper"))
    assert reason in report["refused"][0]["reason"]
    assert report["rows"] == 2 and report["coverage_80"] == 0.5
    assert report["median_ratio"] is None


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        validate(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="id, unit, measured"):
        validate(tmp_path / "bad.csv")
    with pytest.raises(UsageError, match="no rows"):
        validate(table(tmp_path))


def test_bounds_are_held_by_the_median() -> None:
    told = {"p10": 1.0, "p50": 2.0, "p90": 4.0}
    assert held(told, 3.0, "") and not held(told, 5.0, "")
    assert held(told, 2.5, "upper") and not held(told, 1.5, "ceiling")
    assert held(told, 1.5, "lower") and not held(told, 2.5, "floor")


def test_a_refusal_is_a_miss_and_bounds_have_no_ratio() -> None:
    row: dict[str, Any] = {"p10": 1.0, "p50": 2.0, "p90": 4.0, "measured": 4.0, "inside_80": True}
    found = summary([row, {**row, "bound": "upper", "measured": 9.0}], refused=2)
    assert found == {
        "coverage_80": 0.5,
        "median_ratio": 0.5,
        "median_width": 4.0,
        "interval_score": round(math.log(4), 4),
    }


@given(st.floats(0.1, 2.0), st.floats(0.2, 3.0))
def test_the_true_quantiles_score_best(sd: float, factor: float) -> None:
    """Of all symmetric intervals of a lognormal truth, the one through its P10 and P90 has the least mean score."""
    truth = np.exp(sd * np.random.default_rng(0).standard_normal(2000))
    low, high = np.quantile(truth, [0.1, 0.9])

    def mean(power: float) -> float:
        return float(np.mean([interval_score(low**power, high**power, value) for value in truth]))

    assert mean(1.0) <= mean(factor) + 1e-3


def test_every_shipped_row_has_its_file() -> None:
    report = validate()
    assert report["rows"] == 13
    assert not [row for row in report["refused"] if "no such" in row["reason"]]
    ids = {path.stem for path in published("scenarios").with_suffix("").glob("*.toml")}
    assert ids == {row["id"] for row in [*report["predictions"], *report["refused"]]}
