"""Validation reports and the calibration as tables: predicted against measured, parameters with their grades, studies.

Leaves out: the validation itself (`mopdsim.validate.cost`), the page (`mopdsim.app.pages.calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mopdsim.belief.calibration import Calibration
from mopdsim.cost.constants import KINDS, parse
from mopdsim.facts.domains import P90, Scope

RESULTS = Path(__file__).parents[3] / "studies" / "results"


STEPS = {"predicted": "prediction.json", "measured": "observations.csv", "reported": "report.md"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One validation: its title, what a measurement is, whether its scale is a ratio, and what it was measured on."""

    title: str
    unit: str
    ratio: bool
    scope: str


VALIDATIONS: Mapping[str, Kind] = {
    "rl_steps": Kind(
        title="RL step times",
        unit="seconds of a step",
        ratio=True,
        scope="Published steps of RL on models of 3 to 671 billion parameters on H100, GB200, A800 and H20, most of "
        "them of one framework. Each model is left out of the fit that forecasts it.",
    ),
    "train_throughput": Kind(
        title="Training throughput",
        unit="seconds a token and GPU",
        ratio=True,
        scope="Published pre-training and fine-tuning of dense and expert models, most of them tuned by the vendor. "
        "Your stack may be slower: measure a step.",
    ),
    "quality": Kind(
        title="Scores of published recipes",
        unit="benchmark points",
        ratio=False,
        scope="Benchmarks of published post-training studies, each study forecast from the others.",
    ),
    "project_totals": Kind(
        title="Totals of published projects",
        unit="FLOPs or GPU-hours",
        ratio=True,
        scope="Whole published runs, forecast from what their papers state; what they leave out is drawn from priors.",
    ),
}


def report(kind: str) -> dict[str, Any]:
    """The report of `mopd validate KIND --json`."""
    if kind == "quality":
        from mopdsim.validate.quality import validate as of_quality

        return of_quality()
    if kind == "project_totals":
        from mopdsim.validate.projects import validate as of_projects

        return of_projects()
    from mopdsim.validate.cost import validate as of_times

    return of_times(kind).as_json()


def predictions(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row a measurement: what, measured, P10, P50, P90, whether inside, and the residual."""
    rows = []
    for row in document["predictions"]:
        low, middle, high = (row.get(new, row.get(old)) for new, old in _ENDS)
        measured = row["measured"]
        what = " ".join(
            str(row[key]) for key in ("row", "study", "model", "method", "stage", "domain") if key in row
        )
        inside = "inside" if low <= measured <= high else "outside"
        ratio = math.log2(middle / measured) if middle > 0 and measured > 0 else math.nan
        unit = _UNITS.get(str(row.get("unit")), "")
        rows.append((what, unit, measured, low, middle, high, inside, middle - measured, ratio))
    columns = [
        "what",
        "unit",
        "measured",
        "P10",
        "P50",
        "P90",
        "80% interval",
        "residual",
        "log2 of the ratio",
    ]
    return pd.DataFrame(rows, columns=columns)


_UNITS = {"flop": "FLOPs", "gpu_hours": "GPU-hours"}  # of rows that say which
_ENDS = (("low", "p10"), ("predicted", "p50"), ("high", "p90"))


def left_out(document: Mapping[str, Any]) -> pd.DataFrame:
    """Errors by what was left out of the fit, or by study and method."""
    rows = []
    for scheme, found in (document.get("schemes") or document.get("by_study") or {}).items():
        if count := found.get("rows", found.get("count")):
            rows.append((scheme, count, found["median_error"], found["p90_error"]))
    return pd.DataFrame(rows, columns=["left out", "rows", "median error", "P90 error"])


def parameters(calibration: Calibration, scope: Scope) -> pd.DataFrame:
    """Every parameter of the quality model at this scope: P10, P50, P90, grade and source."""
    rows = []
    for name, parameter in calibration.parameters.items():
        found = parameter.at(scope)
        low, high = (_moved(parameter.distribution, found.value, sign * P90 * found.sd) for sign in (-1, 1))
        rows.append((name, low, found.value, high, parameter.distribution, found.grade, found.source))
    return pd.DataFrame(rows, columns=["parameter", "P10", "P50", "P90", "distribution", "grade", "rests on"])


def _moved(distribution: str, value: float, shift: float) -> float:
    """A value moved on the scale on which its sd is stated."""
    if distribution == "lognormal":
        return value * math.exp(shift)
    if distribution == "logit" and 0 < value < 1:
        return 1 / (1 + math.exp(-math.log(value / (1 - value)) - shift))
    return value + shift


def studies() -> pd.DataFrame:
    """Studies with files on disk: which are predicted, measured and reported."""
    found = sorted(path for path in RESULTS.glob("*") if path.is_dir()) if RESULTS.is_dir() else []
    rows = [(path.name, *((path / file).is_file() for file in STEPS.values())) for path in found]
    return pd.DataFrame(rows, columns=["study", *STEPS])


def refitted(kind: str, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Constants of a refit beside the textbook values they were drawn to, with P10 and P90."""
    constants = parse(kind, dict(entry)).constants
    textbook = KINDS[kind]()
    rows = []
    for place, name in enumerate(constants.names()):
        sd = math.sqrt(max(0.0, entry["log_covariance"][place][place]))
        value = getattr(constants, name)
        ends = (value * math.exp(-P90 * sd), value, value * math.exp(P90 * sd))
        rows.append((name, getattr(textbook, name), *ends, "fitted"))
    return pd.DataFrame(rows, columns=["constant", "textbook", "P10", "P50", "P90", "grade"])
