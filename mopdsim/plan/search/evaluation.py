"""What plans come to, remembered: the objective, hours, money, days, and whether the limits are kept.

A limit is kept where the `confidence` quantile of what it limits lies within it; a minimum where the score's lower
quantile does. Axes: P plan, D domain, C candidate of a batch, N draw. Leaves out: which plans to try
(`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import Calibration
from mopdsim.plan.question import Question
from mopdsim.plan.search import chains
from mopdsim.plan.search.candidate import TAUGHT, Plan
from mopdsim.plan.search.grouping import Grouping
from mopdsim.plan.search.rounds import Rounds, kind
from mopdsim.plan.search.stock import Outcomes, Stock

_BATCH = 32  # plans at a time: their arrays stay in the processor's cache
_SPLITS = 3  # halvings of the pool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One plan's figures. value: the objective. surely: the `confidence` quantile of each cost; median: its P50.
    lowest: the lower quantile of the score of each domain with a minimum. excess: by how much the worst limit is
    overrun, ln of the ratio for costs, missing score for minima; at most 0 where all are kept.
    """

    plan: Plan
    value: float
    surely: dict[str, float]
    median: dict[str, float]
    lowest: dict[str, float]
    excess: float

    @property
    def feasible(self) -> bool:
        """Whether the plan keeps every limit and minimum."""
        return self.excess <= 0


class Evaluator:
    """Evaluates plans for one question and remembers them, in the order of first evaluation."""

    def __init__(
        self, question: Question, calibration: Calibration | None = None, *, stock: Stock | None = None
    ) -> None:
        self.question = question
        self.options = splits(question.pool)
        self.stock = stock or Stock(question, calibration)
        self.rounds = Rounds(self.stock)
        self.found: dict[Plan, Outcome] = {}

    def evaluate(self, plans: Iterable[Plan]) -> list[Outcome]:
        """The outcomes of these plans, computed where they are new."""
        plans = list(plans)
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.found]
        known = {
            outcome.plan: outcome
            for batch, found in self.outcomes(new)
            for outcome in self._judged(batch, found)
        }
        self.found |= {plan: known[plan] for plan in new}
        return [self.found[plan] for plan in plans]

    def outcomes(self, plans: Sequence[Plan]) -> Iterable[tuple[Sequence[Plan], Outcomes]]:
        """The plans in batches of a kind, each with what its plans come to."""
        untaught = [plan for plan in plans if plan.family not in TAUGHT]
        for batch in _batches(untaught):
            yield batch, chains.evaluate(self.stock, batch)
        taught = [plan for plan in plans if plan.family in TAUGHT]
        self.rounds.prepare(taught)
        alike: dict[tuple[object, ...], list[Plan]] = {}
        for plan in taught:
            alike.setdefault(kind(plan), []).append(plan)
        for found in alike.values():
            for batch in _batches(sorted(found, key=_groups)):
                yield batch, self.rounds.evaluate(batch)

    def best(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Sorted: those within the limits by value, then the others by how little they miss them."""

        def rank(outcome: Outcome) -> tuple[float, float]:
            return (0.0, -outcome.value) if outcome.feasible else (1.0, outcome.excess)

        return sorted(outcomes, key=rank)

    def _judged(self, plans: Sequence[Plan], found: Outcomes) -> list[Outcome]:
        question, index = self.question, self.stock.world.index
        surely, median = {}, {}
        hours_CN, days_CN = np.sort(found.gpu_hours_CN, axis=1), np.sort(found.days_CN, axis=1)
        usd_CN = hours_CN * question.usd_per_gpu_hour
        for name, ordered_CN in (("gpu_hours", hours_CN), ("usd", usd_CN), ("days", days_CN)):
            surely[name] = ordered_CN[:, int(np.ceil(question.confidence * (ordered_CN.shape[1] - 1)))]
            median[name] = _middle(ordered_CN)
        lowest = {
            name: np.quantile(found.scores_DCN[index[name]], 1 - question.confidence, axis=1, method="lower")
            for name in question.minimum
        }
        over = [np.log(surely[name] / limit) for name, limit in question.limits.items()]
        over += [least - lowest[name] for name, least in question.minimum.items()]
        excess_C = np.max(over, axis=0)
        value_C = question.value(question.utility(found.scores_DCN))
        return [
            Outcome(
                plan=plan,
                value=float(value_C[place]),
                surely={name: float(row[place]) for name, row in surely.items()},
                median={name: float(row[place]) for name, row in median.items()},
                lowest={name: float(row[place]) for name, row in lowest.items()},
                excess=float(excess_C[place]),
            )
            for place, plan in enumerate(plans)
        ]


def _middle(ordered_CN: Array) -> Array:
    """The median of rows in ascending order, (C,)."""
    draws = ordered_CN.shape[1]
    return np.asarray((ordered_CN[:, (draws - 1) // 2] + ordered_CN[:, draws // 2]) / 2)


def splits(pool: int) -> tuple[int, ...]:
    """The numbers of GPUs that a stage may be given: the pool, its half, quarter and so on."""
    return tuple(dict.fromkeys(max(1, pool >> halvings) for halvings in range(_SPLITS + 1)))


def _groups(plan: Plan) -> Grouping:
    return plan.groups  # plans of one grouping side by side: much of their arithmetic is then common


def _batches(plans: Sequence[Plan]) -> list[Sequence[Plan]]:
    return [plans[first : first + _BATCH] for first in range(0, len(plans), _BATCH)]
