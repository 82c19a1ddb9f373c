"""Published comparisons of MOPD with its rivals, called by the model: right, wrong or tie.

A comparison is of one MOPD variant and one rival in one study, over the benchmarks that both report of domains in the
trained set; normalised rows serve only where percent rows are missing. Scores nearer than `TIE` count as equal: who
calls equal what was not, or unequal what was, has said nothing wrong and nothing right. Of the difference stands an 80%
interval too, in which both predictions share what they have in common of their study; a wrong sign is `beyond` where
the measured difference lies outside it. Leaves out: the predictions
(`mopdsim.validate.quality`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np

from mopdsim.base.arrays import Array

TIE = {"percent": 1.0, "normalised": 0.05}  # in the row's unit
RIVALS = ("mixed_rl", "cascade_rl", "off_policy", "merge_average", "merge_task_arithmetic")
Verdict = Literal["right", "wrong", "tie"]
Row = Mapping[str, Any]


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
