"""Published scores per strategy against what the other studies say: `validate(path)` of a table like
data/published/quality.csv.

A row gives where a domain started, what its own specialist reached and what a strategy reached. The first two are told,
and the third is predicted by the hierarchical model of recovery (`mopdsim.validate.recovery`), fitted to all **other**
studies. Beside it stand simple rules, the best of them chosen with hindsight: the model ships where it is no worse than
'constant .70' and 'own expert'. Errors of percent rows are in points; those of normalised rows in recovery; where both
are counted together, a normalised row stands for 15 points of headroom, the median of the percent rows.
Leaves out: forecasts of the seven systems, who beats whom (`mopdsim.validate.quality_backtest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.validate.quality_backtest import back_test
from mopdsim.validate.quality_rows import METHODS, ZERO, Score, read
from mopdsim.validate.recovery import Recovery, fit

CONSTANT = 0.70  # of the specialists' headroom
RULES = ("own_expert", "constant_recovery")  # those that the model has to equal in order to ship
DRAWS = 4000


def validate(path: Path | None = None) -> dict[str, Any]:
    """The report: errors against simple rules, by study and method, and MOPD against its rivals."""
    rows, incomplete, refused = read(path)
    judged = [row for row in rows if not (row.method == "single_domain" and row.in_set)]
    if not judged:
        raise UsageError("no row can be predicted: give start, teacher and score of at least one strategy")
    studies = sorted({row.study for row in judged})
    models = {name: fit([row for row in judged if row.study != name]) for name in studies}
    drawn = [models[row.study].drawn(row, seed=0, draws=DRAWS) for row in judged]
    predictions = [
        _judge(row, score_N, recovery_elsewhere(row, judged), models[row.study])
        for row, score_N in zip(judged, drawn, strict=True)
    ]
    percent = [found for found in predictions if found["unit"] == "percent"]
    normalised = [found for found in predictions if found["unit"] == "normalised"]
    by_study = {
        name: _errors([p for p in predictions if p["study"] == name], in_points=True) for name in studies
    }
    worse = [name for name, found in by_study.items() if found["worse_than_rules"]]
    return {
        "kind": "quality",
        "rows": len(judged),
        "given": len(rows) - len(judged),
        "incomplete": incomplete,
        "refused": refused,
        "coverage_80": _mean([found["inside_80"] for found in predictions]),
        **_errors(percent),
        "normalised": _errors(normalised),
        "by_study": by_study,
        "worse_than_rules": worse,
        "by_method": {
            name: _errors([p for p in predictions if p["method"] == name], in_points=True)
            for name in sorted({p["method"] for p in predictions})
        },
        "not_identified": not_identified(judged),
        "back_test": back_test(predictions, drawn),
        "predictions": predictions,
    }


def not_identified(rows: Sequence[Score]) -> dict[str, list[str]]:
    """Strategies that one study alone has, by the study: nothing else says how they fare."""
    has: dict[str, set[str]] = {}
    for row in rows:
        if row.in_set and row.method != "single_domain":
            has.setdefault(METHODS[row.method], set()).add(row.study)
    return {name: sorted(own) for name, own in sorted(has.items()) if len(own) == 1}


def recovery_elsewhere(row: Score, rows: Sequence[Score]) -> float:
    """The share of the specialists' headroom that the row's method recovered in the other studies, on domains
    it was trained on. Where no other study has the method, the share of all methods; 1 where there are no
    such rows."""
    others = [other for other in rows if other.study != row.study and other.in_set]
    alike = [other for other in others if _family(other) == _family(row)] or others
    headroom = sum(other.teacher - other.start for other in alike)
    gained = sum(other.score - other.start for other in alike)
    return gained / headroom if headroom > 0 else 1.0


def _family(row: Score) -> str:
    """A method without its variant."""
    return row.method.partition("_")[0]


def _judge(row: Score, drawn_N: Array, recovered: float, model: Recovery) -> dict[str, Any]:
    """A row's prediction, its error and those of the simple rules, in the row's unit. recovered: in other studies."""
    low, middle, high = (float(value) for value in np.quantile(drawn_N, [0.1, 0.5, 0.9]))
    rules = {
        "no_change": row.start,
        "own_expert": row.teacher if row.in_set else row.start,
        "constant_recovery": row.start + CONSTANT * (row.teacher - row.start) * row.in_set,
        "recovery_elsewhere": row.start + recovered * (row.teacher - row.start) * row.in_set,
    }
    shift = 0.0 if row.unit == "percent" else ZERO
    shown = {"p10": low, "p50": middle, "p90": high, "measured": row.score}
    return {
        "line": row.line,
        "study": row.study,
        "model": row.model,
        "method": row.method,
        "trained_on": "+".join(row.trained),
        "domain": row.benchmark,
        "in_set": row.in_set,
        "unit": row.unit,
        "identified": not row.in_set or model.identified(METHODS[row.method]),
        **{key: (value - shift) * row.scale for key, value in shown.items()},
        "inside_80": low <= row.score <= high,
        "error": abs(middle - row.score) * row.scale,
        "points": 100.0 / row.scale,
        "baseline_errors": {name: abs(value - row.score) * row.scale for name, value in rules.items()},
    }


def _errors(predictions: Sequence[Mapping[str, Any]], *, in_points: bool = False) -> dict[str, Any]:
    """Median, P90 and mean absolute error, and the best simple rule's, in the rows' unit or all in points."""
    if not predictions:
        return {"count": 0}
    scales = [found["points"] if in_points else 1.0 for found in predictions]
    errors = [found["error"] * scale for found, scale in zip(predictions, scales, strict=True)]
    rules = {
        name: _mean(
            [f["baseline_errors"][name] * scale for f, scale in zip(predictions, scales, strict=True)]
        )
        for name in predictions[0]["baseline_errors"]
    }
    best = min(RULES, key=rules.__getitem__)
    return {
        "count": len(errors),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "mean_error": _mean(errors),
        "inside_80": _mean([found["inside_80"] for found in predictions]),
        "baseline_mean_errors": rules,
        "best_baseline": best,
        "worse_than_rules": _mean(errors) > rules[best],
        "naive_median_error": float(np.median([found["baseline_errors"][best] for found in predictions])),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
