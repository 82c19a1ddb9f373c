"""What plans come to, remembered: the objective, hours, money, days, and whether the limits are kept.

A limit is kept where the `confidence` quantile of what it limits lies within it; a minimum where the score's lower
quantile does. Axes: P plan, D domain, C candidate of a batch, N draw. Leaves out: which plans to try
(`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.base.arrays import Array, middle
from mopdsim.belief.calibration import Calibration
from mopdsim.plan.question import Question
from mopdsim.plan.search import chains
from mopdsim.plan.search.candidate import TAUGHT, Plan
from mopdsim.plan.search.grouping import Grouping
from mopdsim.plan.search.rounds import Rounds, kind
from mopdsim.plan.search.stock import Stock

_BATCH = 32  # plans at a time: their arrays stay in the processor's cache
_FIRST = 8  # plans priced at a time until one keeps the limits
_SPLITS = 3  # halvings of the pool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One plan's figures. value: the objective, not a number where a limit is overrun and nobody asked. surely: the
    `confidence` quantile of each cost; median: its P50. lowest: the lower quantile of the score of each domain with a
    minimum. excess: by how much the worst limit is overrun, ln of the ratio for costs, missing score for minima; at
    most 0 where all are kept.
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
        self._scored: dict[Plan, tuple[float, dict[str, float]]] = {}

    def on(self, question: Question) -> Evaluator:
        """An evaluator for a question that has another pool: what plans score is the same there, and known."""
        twin = Evaluator(question, stock=self.stock.on(question))
        twin._scored = self._scored
        return twin

    def evaluate(self, plans: Iterable[Plan]) -> list[Outcome]:
        """The outcomes of these plans, computed where they are new; what is beyond a limit is not scored, unless a
        minimum is asked."""
        plans = list(plans)
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.found]
        costs = self._priced(new)
        limits = self.question.limits
        within = [plan for plan in new if all(costs[plan][0][name] <= most for name, most in limits.items())]
        scored = self._scores(new if self.question.minimum else within)
        for plan in new:
            value, lowest = scored.get(plan, (math.nan, {}))
            surely, median = costs[plan]
            excess = [math.log(surely[name] / limit) for name, limit in limits.items()]
            excess += [least - lowest[name] for name, least in self.question.minimum.items()]
            self.found[plan] = Outcome(
                plan=plan, value=value, surely=surely, median=median, lowest=lowest, excess=max(excess)
            )
        return [self.found[plan] for plan in plans]

    def valued(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Outcomes beyond a limit, scored."""
        outcomes = list(outcomes)
        scored = self._scores([outcome.plan for outcome in outcomes])
        return [replace(outcome, value=scored[outcome.plan][0]) for outcome in outcomes]

    def first_within(self, plans: Iterable[Plan]) -> Outcome | None:
        """The best of the plans that keep the limits: the best of all are priced first, the others not at all."""
        scored = self._scores([*dict.fromkeys(plans)])
        ranked = sorted(scored, key=lambda plan: -scored[plan][0])
        for first in range(0, len(ranked), _FIRST):
            for outcome in self.evaluate(ranked[first : first + _FIRST]):
                if outcome.feasible:
                    return outcome
        return None

    def best(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Sorted: those within the limits by value, then the others by how little they miss them."""

        def rank(outcome: Outcome) -> tuple[float, float]:
            return (0.0, -outcome.value) if outcome.feasible else (1.0, outcome.excess)

        return sorted(outcomes, key=rank)

    def _priced(self, plans: Sequence[Plan]) -> dict[Plan, tuple[dict[str, float], dict[str, float]]]:
        """Each plan's costs by name: with the asked confidence, and the medians."""
        confidence, usd = self.question.confidence, self.question.usd_per_gpu_hour
        self.rounds.time([plan for plan in plans if plan.family in TAUGHT])
        found = {}
        for batch in _batches(plans, lambda plan: (plan.family in TAUGHT, plan.rounds, len(plan.groups))):
            taught = batch[0].family in TAUGHT
            costs = self.rounds.costs(batch) if taught else chains.costs(self.stock, batch)
            draws = costs.days_CN.shape[1]
            sure, ends = int(np.ceil(confidence * (draws - 1))), {(draws - 1) // 2, draws // 2}
            hours_CN, days_CN = (np.partition(row_CN, sorted({sure, *ends}), axis=1) for row_CN in costs)
            rows = {"gpu_hours": hours_CN, "usd": hours_CN * usd, "days": days_CN}
            surely = {name: row_CN[:, sure].tolist() for name, row_CN in rows.items()}
            median = {name: middle(row_CN).tolist() for name, row_CN in rows.items()}
            for place, plan in enumerate(batch):
                found[plan] = (
                    {name: row_C[place] for name, row_C in surely.items()},
                    {name: row_C[place] for name, row_C in median.items()},
                )
        return found

    def _scores(self, plans: Sequence[Plan]) -> dict[Plan, tuple[float, dict[str, float]]]:
        """Each plan's objective, and the lower quantile of the score of each domain with a minimum. Plans that differ
        in their GPUs alone score the same."""
        question, index = self.question, self.stock.world.index
        learning = {plan: plan.but(gpus=0, student_gpus=0) for plan in plans}
        new = [plan for plan in dict.fromkeys(learning.values()) if plan not in self._scored]
        for batch, scores_DCN in self.scores(new):
            value_C = question.value(question.utility(scores_DCN)).tolist()
            lowest = {
                name: np.quantile(scores_DCN[index[name]], 1 - question.confidence, axis=1, method="lower")
                for name in question.minimum
            }
            for place, plan in enumerate(batch):
                lows = {name: float(low_C[place]) for name, low_C in lowest.items()}
                self._scored[plan] = value_C[place], lows
        return {plan: self._scored[like] for plan, like in learning.items()}

    def scores(self, plans: Sequence[Plan]) -> Iterator[tuple[list[Plan], Array]]:
        """The plans in batches of a kind, each with the scores of its plans by draw, (D, C, N)."""
        by_groups = sorted(plans, key=_groups)
        self.rounds.prepare([plan for plan in by_groups if plan.family in TAUGHT])
        for batch in _batches(by_groups, lambda plan: kind(plan) if plan.family in TAUGHT else ()):
            taught = batch[0].family in TAUGHT
            yield batch, self.rounds.scores(batch) if taught else chains.scores(self.stock, batch)


def splits(pool: int) -> tuple[int, ...]:
    """The numbers of GPUs that a stage may be given: the pool, its half, quarter and so on."""
    return tuple(dict.fromkeys(max(1, pool >> halvings) for halvings in range(_SPLITS + 1)))


def _groups(plan: Plan) -> Grouping:
    return plan.groups  # plans of one grouping side by side: much of their arithmetic is then common


def _batches(plans: Sequence[Plan], kind_of: Callable[[Plan], object]) -> Iterator[list[Plan]]:
    """The plans in batches of a kind."""
    alike: dict[object, list[Plan]] = {}
    for plan in plans:
        alike.setdefault(kind_of(plan), []).append(plan)
    for found in alike.values():
        yield from (found[first : first + _BATCH] for first in range(0, len(found), _BATCH))
