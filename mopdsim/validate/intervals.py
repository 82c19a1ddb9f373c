"""How good an interval is: whether it holds the measurement, how wide it is, and both in one number; how large errors
are.

Intervals are judged in logarithms, because costs are judged by ratios. Leaves out: how an interval comes about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.forecast.forecast import quantiles

MISSED = 0.2  # the share of measurements that an 80% interval leaves out
UPPER, LOWER = ("upper", "ceiling"), ("lower", "floor")
BOUNDS = (*UPPER, *LOWER)


def interval_score(low: float, high: float, measured: float) -> float:
    """Width of the interval in log, and ten times the distance of a measurement that lies outside; smaller is better.

    Gneiting and Raftery (2007), equation 43, for an 80% interval: it is least, in the mean, for the true quantiles.
    """
    low, high, measured = (math.log(value) for value in (low, high, measured))
    return high - low + 2 / MISSED * (max(low - measured, 0.0) + max(measured - high, 0.0))


def held(told: Mapping[str, float], measured: float, bound: str = "") -> bool:
    """Whether a prediction holds: the measurement lies between P10 and P90, or P50 on the right side of a bound.
    UsageError for another bound."""
    if not bound:
        return told["p10"] <= measured <= told["p90"]
    if bound not in BOUNDS:
        raise UsageError(f"bound is {bound!r}; it must be empty or one of {', '.join(BOUNDS)}.")
    return told["p50"] <= measured if bound in UPPER else told["p50"] >= measured


def lognormal(middle: float, log_width: float) -> dict[str, float]:
    """P10, P50 and P90 of a lognormal whose 80% interval has this half-width in log."""
    return {"p10": middle * math.exp(-log_width), "p50": middle, "p90": middle * math.exp(log_width)}


def judged(drawn_N: Array, measured: float, *, bound: str = "") -> dict[str, Any]:
    """P10 to P90 of draws beside what was measured, whether they hold it, and by what factor less one P50 is off."""
    told = quantiles(drawn_N)
    return {
        **told,
        "measured": measured,
        "inside_80": held(told, measured, bound),
        "error": max(told["p50"] / measured, measured / told["p50"]) - 1,
    }


def errors_of(errors: Sequence[float] | Array) -> dict[str, float]:
    """The median and the P90 of errors."""
    return {"median_error": float(np.median(errors)), "p90_error": float(np.quantile(errors, 0.9))}


def summary(predictions: Sequence[Mapping[str, Any]], refused: int = 0) -> dict[str, Any]:
    """Coverage over all rows, a refusal being a miss; ratio of P50 to the measurement, width P90 / P10 and interval
    score, each a median over the rows that are no bounds (None where there are none)."""
    exact = [row for row in predictions if not row.get("bound")]

    def median(values: list[float]) -> float | None:
        return round(float(np.median(values)), 4) if values else None

    count = len(predictions) + refused
    return {
        "coverage_80": round(sum(bool(row["inside_80"]) for row in predictions) / count, 4)
        if count
        else None,
        "median_ratio": median([row["p50"] / row["measured"] for row in exact]),
        "median_width": median([row["p90"] / row["p10"] for row in exact]),
        "interval_score": median([interval_score(row["p10"], row["p90"], row["measured"]) for row in exact]),
    }
