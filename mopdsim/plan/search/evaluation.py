"""What plans come to, remembered: the objective, hours, money, days, and whether the limits are kept.

A limit is kept where the `confidence` quantile of what it limits lies within it; a minimum where the score's lower
quantile does. Axes: P plan, D domain, C candidate of a batch, N draw. Leaves out: which plans to try
(`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mopdsim.belief.calibration import Calibration
from mopdsim.plan.question import Question
from mopdsim.plan.search.assembled import Assembly, Outcomes, assembled, kind, runs_of
from mopdsim.plan.search.candidate import Plan
from mopdsim.plan.search.chained import Chains
from mopdsim.plan.search.grouping import Grouping
from mopdsim.plan.search.stock import Stock
from mopdsim.plan.search.tabulated import Tables, table_key

Evaluate = Callable[[Sequence[Plan]], Outcomes]

COSTS = ("gpu_hours", "usd", "days")
_BATCH = 32  # plans at a time: their arrays stay in the processor's cache
_THREADS = 2
_SPLITS = 3  # halvings of the pool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One plan's figures. value: the objective. surely: the `confidence` quantile of each cost; median: its P50.
    lowest: the lower quantile of the score of each domain with a minimum.
    """

    plan: Plan
    value: float
    surely: dict[str, float]
    median: dict[str, float]
    lowest: dict[str, float]


class Evaluator:
    """Evaluates plans for one question and remembers them, in the order of first evaluation."""

    def __init__(self, question: Question, calibration: Calibration | None = None) -> None:
        self.question = question
        self.options = splits(question.pool)
        self.stock = Stock(question, calibration)
        self.assembly = Assembly(self.stock)
        self.chains = Chains(self.stock)
        self.tables = Tables(question, calibration)
        self.found: dict[Plan, Outcome] = {}

    def evaluate(self, plans: Iterable[Plan]) -> list[Outcome]:
        """The outcomes of these plans, computed where they are new."""
        plans = list(plans)
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.found]
        batches = self.batches(new)
        side_by_side = [pair for pair in batches if pair[1] == self.assembly.evaluate]
        with ThreadPoolExecutor(_THREADS) as threads:
            results = list(threads.map(self._judged, side_by_side))
        results += [self._judged(pair) for pair in batches if pair[1] != self.assembly.evaluate]
        known = {outcome.plan: outcome for batch in results for outcome in batch}
        self.found |= {plan: known[plan] for plan in new}
        return [self.found[plan] for plan in plans]

    def batches(self, plans: Sequence[Plan]) -> list[tuple[Sequence[Plan], Evaluate]]:
        """The plans in batches of a kind, each with what evaluates it; the pieces they share are made."""
        simple: dict[tuple[object, ...], list[Plan]] = {}
        tabled: dict[Plan, list[Plan]] = {}
        cascades = []
        for plan in plans:
            if plan.family == "cascade_rl":
                cascades.append(plan)
            elif assembled(plan):
                simple.setdefault(kind(plan), []).append(plan)
            else:
                tabled.setdefault(table_key(plan), []).append(plan)
        together = [plan for group in simple.values() for plan in group]
        for gpus in dict.fromkeys(plan.gpus for plan in together):
            self.stock.prepare((run for plan in together if plan.gpus == gpus for run in runs_of(plan)), gpus)
        found: list[tuple[Sequence[Plan], Evaluate]] = []
        for groups, evaluate in (
            ((sorted(group, key=_groups) for group in simple.values()), self.assembly.evaluate),
            ([cascades], self.chains.evaluate),
            (tabled.values(), self.tables.evaluate),
        ):
            found += [(batch, evaluate) for group in groups for batch in _batches(group)]
        return found

    def feasible(self, outcome: Outcome) -> bool:
        """Whether a plan keeps every limit and minimum."""
        return self.excess(outcome) <= 0

    def excess(self, outcome: Outcome) -> float:
        """By how much the worst limit is overrun: ln of the ratio for costs, missing score for minima."""
        limits = self.question.limits
        over = [np.log(outcome.surely[name] / limit) for name, limit in limits.items()]
        return float(max([*over, *self._missing(outcome)], default=-1.0))

    def _missing(self, outcome: Outcome) -> list[float]:
        return [least - outcome.lowest[name] for name, least in self.question.minimum.items()]

    def best(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Sorted: those within the limits by value, then the others by how little they miss them."""

        def rank(outcome: Outcome) -> tuple[float, ...]:
            excess = self.excess(outcome)
            return (0.0, -outcome.value) if excess <= 0 else (1.0, excess)

        return sorted(outcomes, key=rank)

    def _judged(self, batch: tuple[Sequence[Plan], Evaluate]) -> list[Outcome]:
        plans, evaluate = batch
        found = evaluate(plans)
        question = self.question
        costs = {
            "gpu_hours": found.gpu_hours_CN,
            "usd": found.gpu_hours_CN * question.usd_per_gpu_hour,
            "days": found.days_CN,
        }
        surely = {
            name: np.quantile(cost, question.confidence, axis=1, method="higher")
            for name, cost in costs.items()
        }
        median = {name: np.median(cost, axis=1) for name, cost in costs.items()}
        index = self.stock.world.index
        lowest = {
            name: np.quantile(found.scores_DCN[index[name]], 1 - question.confidence, axis=1, method="lower")
            for name in question.minimum
        }
        value_C = question.value(question.utility(found.scores_DCN))
        return [
            Outcome(
                plan=plan,
                value=float(value_C[place]),
                surely={name: float(row[place]) for name, row in surely.items()},
                median={name: float(row[place]) for name, row in median.items()},
                lowest={name: float(row[place]) for name, row in lowest.items()},
            )
            for place, plan in enumerate(plans)
        ]


def splits(pool: int) -> tuple[int, ...]:
    """The numbers of GPUs that a stage may be given: the pool, its half, quarter and so on."""
    return tuple(dict.fromkeys(max(1, pool >> halvings) for halvings in range(_SPLITS + 1)))


def _groups(plan: Plan) -> Grouping:
    return plan.groups  # plans of one grouping side by side: much of their arithmetic is then common


def _batches(plans: Sequence[Plan]) -> list[Sequence[Plan]]:
    return [plans[first : first + _BATCH] for first in range(0, len(plans), _BATCH)]
