"""Published comparisons that speak against a plan: a study that ran its strategy and another, where it lost.

Two strategies of one study on the same domains are compared benchmark by benchmark. A strategy lost where the 80%
interval of the mean difference, Student's t over the benchmarks, lies below nothing. Of a study the largest loss
counts. Leaves out: variants of one strategy against each other; tiny domains, of which our own runs tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mopdsim.base.numbers import share
from mopdsim.plan.search.candidate import Plan
from mopdsim.validate.quality_rows import METHODS, read

_FEWEST = 3  # benchmarks
_T80 = (
    1.886,
    1.638,
    1.533,
    1.476,
    1.440,
    1.415,
    1.397,
    1.383,
    1.372,
)  # Student's t at P90, from two degrees on
_NORMAL = 1.282
_WORDS: Mapping[str, str] = {
    "mixed_rl": "mixed RL",
    "cascade_rl": "a cascade",
    "off_policy": "off-policy distillation",
    "merge_average": "averaging the weights",
    "merge_sum": "adding up the specialists' weights",
    "mopd": "MOPD",
    "mopd_balanced": "MOPD with equal shares of tokens",
}
_SAME = {"mopd_balanced": "mopd", "merge_sum": "merge_average"}  # variants of one strategy


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A study in which `strategy` lost to `to`. by: mean difference with its 80% interval, points of score, or shares
    of the specialists' gain where the study gives no more."""

    study: str
    model: str
    strategy: str
    to: str
    by: tuple[float, float, float]
    percent: bool
    benchmarks: int

    @property
    def sentence(self) -> str:
        """In words."""
        if self.percent:
            mean, low, high = (f"{value:.1f}" for value in self.by)
            amount = f"{mean} points ({low} to {high})"
        else:
            mean, low, high = (share(value) for value in self.by)
            amount = f"{mean} of the specialists' gain ({low} to {high})"
        return (
            f"Published against it: in {self.study} ({self.model}) {_WORDS[self.to]} beat {_WORDS[self.strategy]} by "
            f"{amount} on {self.benchmarks} benchmarks."
        )

    def to_document(self) -> dict[str, Any]:
        mean, low, high = self.by
        return {
            "study": self.study,
            "model": self.model,
            "to": self.to,
            "by": mean,
            "low": low,
            "high": high,
            "unit": "points" if self.percent else "share of the specialists' gain",
            "benchmarks": self.benchmarks,
            "sentence": self.sentence,
        }


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
            if mean > half and (study not in found or mean > found[study].by[0]):
                found[study] = Loss(
                    study=study,
                    model=model,
                    strategy=strategy,
                    to=other,
                    by=(mean, mean - half, mean + half),
                    percent=own[shared[0]][1],
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
