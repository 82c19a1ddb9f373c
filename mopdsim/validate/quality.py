"""Published scores per strategy against what the other studies say: `validate(path)` of a table like
data/published/quality.csv.

A row gives where a domain started, what its own specialist reached and what a strategy reached. The first two are told,
and the third is predicted by the hierarchical model of recovery (`mopdsim.validate.recovery`), fitted to all **other**
studies. Beside it stand simple rules, the best of them chosen with hindsight: the model ships where it is no worse than
'constant .70' and 'own expert'. Errors of percent rows are in points; those of normalised rows in recovery; where both
are counted together, a normalised row stands for 15 points of headroom, the median of the percent rows.
`back_test` calls the published comparisons of one MOPD variant with one rival in one study, over the benchmarks that
both report of trained domains; normalised rows serve only where percent rows are missing. Scores nearer than `TIE`
count as equal: who calls equal what was not, or unequal what was, has said nothing wrong and nothing right. A
difference has an 80% interval, in which both predictions share what they have in common of their study; a wrong sign
is `beyond` where the measured difference lies outside it.
Leaves out: forecasts of the seven systems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.forecast.forecast import quantiles
from mopdsim.validate.intervals import errors_of, held
from mopdsim.validate.quality_rows import METHODS, ZERO, Score, read
from mopdsim.validate.recovery import Recovery, fit

CONSTANT = 0.70  # of the specialists' headroom
RULES = ("own_expert", "constant_recovery")  # those that the model has to equal in order to ship
DRAWS = 4000
TIE = {"percent": 1.0, "normalised": 0.05}  # in the row's unit
RIVALS = ("mixed_rl", "cascade_rl", "off_policy", "merge_average", "merge_task_arithmetic")
Verdict = Literal["right", "wrong", "tie"]
Row = Mapping[str, Any]


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
    told = quantiles(drawn_N)
    rules = {
        "no_change": row.start,
        "own_expert": row.teacher if row.in_set else row.start,
        "constant_recovery": row.start + CONSTANT * (row.teacher - row.start) * row.in_set,
        "recovery_elsewhere": row.start + recovered * (row.teacher - row.start) * row.in_set,
    }
    shift = 0.0 if row.unit == "percent" else ZERO
    shown = {**told, "measured": row.score}
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
        "inside_80": held(told, row.score),
        "error": abs(told["p50"] - row.score) * row.scale,
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
        **errors_of(errors),
        "mean_error": _mean(errors),
        "inside_80": _mean([found["inside_80"] for found in predictions]),
        "baseline_mean_errors": rules,
        "best_baseline": best,
        "worse_than_rules": _mean(errors) > rules[best],
        "naive_median_error": float(np.median([found["baseline_errors"][best] for found in predictions])),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def back_test(predictions: Sequence[Row], drawn: Sequence[Array]) -> dict[str, Any]:
    """Counts of verdicts and the comparisons. predictions: rows of `quality.validate`; drawn: of each its draws, as
    probabilities."""
    by_line = {row["line"]: drawn_N for row, drawn_N in zip(predictions, drawn, strict=True)}
    compared = list(_compared(predictions, by_line))
    counts = {word: sum(row["verdict"] == word for row in compared) for word in ("right", "wrong", "tie")}
    beyond = sum(row["verdict"] == "wrong" and row["beyond"] for row in compared)
    mixed = [row for row in compared if row["rival"] == "mixed_rl"]
    return {
        "comparisons": len(compared),
        **counts,
        "wrong_beyond": beyond,
        "against_mixed_rl": [_in_words(row) for row in mixed],
        "rows": compared,
    }


def _in_words(row: Row) -> str:
    """A comparison with mixed RL as a sentence."""
    unit = "points" if row["unit"] == "percent" else "of the headroom"
    low, high = row["lead_p10"], row["lead_p90"]
    return (
        f"{row['study']}: {row['mopd']} less mixed RL {row['predicted_lead']:+.2f} ({low:+.2f} to {high:+.2f}) "
        f"forecast, {row['measured_lead']:+.2f} measured, {unit}: {row['verdict']}"
        + ", beyond the interval"
        * row["beyond"]
    )


def verdict(predicted: float, measured: float, tie: float) -> Verdict:
    """Of two differences."""
    said, was = (0 if abs(value) <= tie else 1 if value > 0 else -1 for value in (predicted, measured))
    if said == was:
        return "right"
    return "tie" if 0 in (said, was) else "wrong"


def _compared(predictions: Sequence[Row], drawn: Mapping[int, Array]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in predictions:
        if row["in_set"]:
            own = groups.setdefault((row["study"], row["model"], row["trained_on"]), {})
            own.setdefault(row["method"], []).append(row)
    for (study, model, _), by_method in groups.items():
        variants = sorted(name for name in by_method if name.startswith("mopd"))
        rivals = [name for name in RIVALS if name in by_method]
        for variant, rival in product(variants, rivals):
            pairs = _shared(by_method[variant], by_method[rival])
            if pairs:
                yield {
                    "study": study,
                    "model": model,
                    "mopd": variant,
                    "rival": rival,
                    **_judged(pairs, drawn),
                }


def _shared(ours: Sequence[Row], theirs: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of the same benchmark and unit, percent ones where there are any."""
    pairs = [
        (one, other)
        for one, other in product(ours, theirs)
        if (one["domain"], one["unit"]) == (other["domain"], other["unit"])
    ]
    percent = [pair for pair in pairs if pair[0]["unit"] == "percent"]
    return percent or pairs


def _judged(pairs: Sequence[tuple[Row, Row]], drawn: Mapping[int, Array]) -> dict[str, Any]:
    unit = pairs[0][0]["unit"]
    lead = {
        key: sum(one[key] - other[key] for one, other in pairs) / len(pairs) for key in ("p50", "measured")
    }
    scale = 100.0 / pairs[0][0]["points"]
    lead_N = scale * np.mean([drawn[one["line"]] - drawn[other["line"]] for one, other in pairs], axis=0)
    low, high = (float(end) for end in np.quantile(lead_N, [0.1, 0.9]))
    return {
        "benchmarks": len(pairs),
        "unit": unit,
        "predicted_lead": lead["p50"],
        "measured_lead": lead["measured"],
        "lead_p10": low,
        "lead_p90": high,
        "beyond": not low <= lead["measured"] <= high,
        "verdict": verdict(lead["p50"], lead["measured"], TIE[unit]),
    }
