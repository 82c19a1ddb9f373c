"""What speaks for the recommended plan and against it: causes of its lead, regret, published comparisons that it lost.

A score's distance from its base is split into causes that add up (the forecast's waterfall); two plans differ cause by
cause. Compute that runs out is booked with what training brings, since only their sum is comparable between recipes.
Of published studies, two strategies on the same domains are compared benchmark by benchmark; one lost where the 80%
interval of the mean difference, Student's t over the benchmarks, lies below nothing, and a study's largest loss counts.
Leaves out: the words (`mopdsim.plan.words`); variants of one strategy against each other; published studies of tiny
domains, of which our own runs tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.numbers import share
from mopdsim.plan import words
from mopdsim.plan.candidate import Plan, first_of_each
from mopdsim.plan.finalists import FLOOR, Finalist
from mopdsim.plan.question import Question
from mopdsim.quality.step import Cause
from mopdsim.validate.quality_rows import METHODS, read

Part = Cause | Literal["start"]

_SHOWN = 3
_LEAST = 0.1  # points: a smaller difference is no reason


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Against one rival: its lead in points of score, and the causes of it, largest first."""

    against: str
    points: float
    usd_ratio: float
    causes: tuple[tuple[Part, float], ...]

    @property
    def sentence(self) -> str:
        """In words."""
        ahead = f"{self.points:.1f} points {'ahead of' if self.points >= 0 else 'behind'}".replace("-", "")
        told = "; ".join(words.cause(cause, points) for cause, points in self.causes)
        return f"{ahead} {self.against}, at {self.usd_ratio:.2g} times its cost" + (
            f": {told}" if told else ""
        )

    def to_document(self) -> dict[str, Any]:
        return {**asdict(self), "causes": dict(self.causes), "sentence": self.sentence}


def reasons(question: Question, finalists: Sequence[Finalist]) -> list[Reason]:
    """The recommended plan against the best of each other family, in their order."""
    best = finalists[0]
    others = (one for one in finalists if one.plan.family != best.plan.family)
    return [_reason(question, best, rival) for rival in first_of_each(others, lambda one: one.plan.family)]


def _reason(question: Question, best: Finalist, rival: Finalist) -> Reason:
    ours, theirs = _causes(question, best), _causes(question, rival)
    ahead = {cause: 100 * (ours[cause] - theirs[cause]) for cause in ours}
    ranked = sorted(ahead.items(), key=lambda row: -abs(row[1]))
    return Reason(
        against=rival.plan.label,
        points=sum(ahead.values()),
        usd_ratio=float(np.median(best.forecast.usd_N) / np.median(rival.forecast.usd_N)),
        causes=tuple(row for row in ranked[:_SHOWN] if abs(row[1]) >= _LEAST),
    )


def _causes(question: Question, one: Finalist) -> dict[Part, float]:
    """Mean over draws of what counts, by causes that add up to it: weighted over domains, or of each draw's worst."""
    state = one.forecast.output
    assert state.waterfall is not None
    rows_DN: dict[Part, Array] = {"start": one.forecast.states[state.root].score_DN}
    rows_DN |= {cause: row_DN for cause, row_DN in state.waterfall.items()}
    if question.objective == "worst":
        lowest_N, draws_N = state.score_DN.argmin(axis=0), np.arange(state.score_DN.shape[1])
        found = {part: float(row_DN[lowest_N, draws_N].mean()) for part, row_DN in rows_DN.items()}
    else:
        weights_D = np.array([question.weights.get(name, 1.0) for name in question.domains])
        shares_D = weights_D / weights_D.sum()
        found = {part: float(shares_D @ row_DN.mean(axis=1)) for part, row_DN in rows_DN.items()}
    found["gain"] += found.pop("shortfall")
    return found


def regret(finalists: Sequence[Finalist]) -> dict[str, float]:
    """What being wrong costs: in what share of the worlds another finalist is ahead, and by how much it is there."""
    lost_N = np.max([one.utility_N for one in finalists], axis=0) - finalists[0].utility_N
    wrong_N = lost_N >= FLOOR
    loss = float(lost_N[wrong_N].mean()) if wrong_N.any() else 0.0
    return {"probability": float(wrong_N.mean()), "loss": loss}


POINTS, GAIN = "points", "share of the specialists' gain"  # units of a loss
_FEWEST = 3  # benchmarks
# Student's t at P90, from two degrees on
_T80 = (1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
_NORMAL = 1.282
_SAME = {"mopd_balanced": "mopd", "merge_sum": "merge_average"}  # variants of one strategy


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A study in which `strategy` lost to `to`. by: mean difference, low to high its 80% interval, in points of score,
    or in shares of the specialists' gain where the study gives no more."""

    study: str
    model: str
    strategy: str
    to: str
    by: float
    low: float
    high: float
    unit: str
    benchmarks: int

    @property
    def sentence(self) -> str:
        """In words."""
        winner, loser = words.STRATEGIES[self.to], words.STRATEGIES[self.strategy]
        ends = (self.by, self.low, self.high)
        mean, low, high = (f"{end:.1f}" if self.unit == POINTS else share(end) for end in ends)
        return (
            f"Published against it: in {self.study} ({self.model}) {winner} beat {loser} by {mean} "
            f"{self.unit.removeprefix('share ')} ({low} to {high}) on {self.benchmarks} benchmarks."
        )

    def to_document(self) -> dict[str, Any]:
        told = {key: value for key, value in asdict(self).items() if key != "strategy"}
        return {**told, "sentence": self.sentence}


def strategy_of(plan: Plan) -> str:
    """The published strategy that a plan follows; empty for one that trains a single domain."""
    match plan.family:
        case "single":
            return ""
        case "merge":
            return "merge_sum" if plan.scale else "merge_average"
        case "mopd":
            return "mopd_balanced" if plan.balance == "token_share" else "mopd"
        case "mixed_rl" | "cascade_rl" | "off_policy":
            return plan.family


def losses(strategy: str) -> list[Loss]:
    """The studies in which the strategy lost, each with its largest loss, the most benchmarks first."""
    found: dict[str, Loss] = {}
    for (study, model, _), scores in _by_study().items():
        own = scores.get(strategy, {})
        for other, theirs in scores.items():
            shared = sorted(own.keys() & theirs.keys())
            if _SAME.get(other, other) == _SAME.get(strategy, strategy) or len(shared) < _FEWEST:
                continue
            ahead = np.array([theirs[name][0] - own[name][0] for name in shared])
            freedom = len(shared) - 1
            wide = _T80[freedom - 2] if freedom - 2 < len(_T80) else _NORMAL
            mean, half = float(ahead.mean()), wide * float(ahead.std(ddof=1)) / len(shared) ** 0.5
            if mean > half and (study not in found or mean > found[study].by):
                found[study] = Loss(
                    study=study,
                    model=model,
                    strategy=strategy,
                    to=other,
                    by=mean,
                    low=mean - half,
                    high=mean + half,
                    unit=POINTS if own[shared[0]][1] else GAIN,
                    benchmarks=len(shared),
                )
    return sorted(found.values(), key=lambda loss: -loss.benchmarks)


@cache
def _by_study() -> dict[tuple[str, str, tuple[str, ...]], dict[str, dict[str, tuple[float, bool]]]]:
    """By study, model and trained domains: each strategy's scores by benchmark, and whether they are percentages."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, dict[str, tuple[float, bool]]]] = {}
    rows, _, _ = read()
    for row in rows:
        if row.in_set and row.method != "single_domain":
            by_strategy = found.setdefault((row.study, row.model, row.trained), {})
            cell = (row.score * row.scale, row.unit == "percent")
            by_strategy.setdefault(METHODS[row.method], {})[row.benchmark] = cell
    return found
