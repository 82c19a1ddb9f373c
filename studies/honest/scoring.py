"""How good a forecast was: CRPS, coverage of its intervals, and what its choices would have lost.

Axes: N forecast, M member of an ensemble. Leaves out: the rivals (`studies.honest.baselines`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mopdsim.base.errors import UsageError

LEVELS = (0.5, 0.8, 0.9)


def crps(ensemble_NM: ArrayLike, truth_N: ArrayLike) -> NDArray[np.float64]:
    """Continuous ranked probability score of each forecast: E|X - y| - E|X - X'| / 2 over the members (Gneiting and
    Raftery 2007), in the units of the truth; of a single number it is the absolute error."""
    members_NM = np.sort(np.asarray(ensemble_NM, dtype=float), axis=1)
    truth_N = np.asarray(truth_N, dtype=float)
    if members_NM.shape[0] != truth_N.shape[0]:
        raise UsageError(f"{members_NM.shape[0]} ensembles for {truth_N.shape[0]} truths: give one each")
    count = members_NM.shape[1]
    error_N = np.abs(members_NM - truth_N[:, None]).mean(axis=1)
    rank_M = 2 * np.arange(1, count + 1) - count - 1
    return error_N - (members_NM * rank_M).sum(axis=1) / count**2


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often intervals of a level held the truth: share, its exact 95% binomial interval, mean width."""

    share: float
    low: float
    high: float
    mean_width: float


def coverage(ensemble_NM: ArrayLike, truth_N: ArrayLike, level: float) -> Coverage:
    """Of the ensembles' central intervals. The binomial interval is Clopper and Pearson's: it takes the forecasts as
    independent, which those of one run are not."""
    truth_N = np.asarray(truth_N, dtype=float)
    low_N, high_N = np.quantile(
        np.asarray(ensemble_NM, dtype=float), [(1 - level) / 2, (1 + level) / 2], axis=1
    )
    inside = int(((low_N <= truth_N) & (truth_N <= high_N)).sum())
    low, high = exact_interval(inside, len(truth_N))
    width = float((high_N - low_N).mean())
    return Coverage(share=inside / len(truth_N), low=low, high=high, mean_width=width)


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95% interval of a proportion (1934)."""
    from scipy import stats

    found = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def regret(chosen: Sequence[Sequence[str]], measured: Sequence[Mapping[str, float]]) -> float:
    """Mean score lost by following a rule instead of the best recipe of each condition. chosen: by condition, the
    recipes that the rule would take (several: a tie). measured: their scores."""
    return float(np.mean([lost(names, scores) for names, scores in zip(chosen, measured, strict=True)]))


def lost(names: Sequence[str], scores: Mapping[str, float]) -> float:
    """Score lost in one condition by taking these recipes, which count with their mean, instead of the best."""
    return max(scores.values()) - float(np.mean([scores[name] for name in names]))


def choose(predicted: Mapping[str, float], *, tie: float) -> tuple[str, ...]:
    """The recipe predicted to score highest, with all that lie within `tie` of it."""
    best = max(predicted.values())
    return tuple(sorted(name for name, value in predicted.items() if value >= best - tie))


def best_constant_rule(measured: Sequence[Mapping[str, float]]) -> tuple[str, float] | None:
    """Always the same recipe: the one with the least regret, among those that every condition measured, and its regret;
    None where there is none."""
    common = sorted(set.intersection(*map(set, measured)))
    found = {name: regret([[name]] * len(measured), measured) for name in common}
    return min(found.items(), key=lambda row: row[1], default=None)
