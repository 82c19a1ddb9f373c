"""A scenario at a given budget, of training FLOPs or of dollars: every stage's steps times one common factor.

Training FLOPs are those of sampling, scoring and gradient, evaluation not counted, as in `Amounts.max_flops`. Steps are
whole, so stages that were alike may end a step apart; no stage has fewer than two (or than the one it had), so a budget
is met to within one stage's step, and a very small one not at all: `floored` names the stages that are already there.
Leaves out: merges, which spend nothing; a better split of the budget between stages (`mopd plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.base.documents import number
from mopdsim.base.numbers import score, usd
from mopdsim.belief.calibration import default_calibration
from mopdsim.cost.stage_cost import steps_within
from mopdsim.forecast.forecast import HOUR, forecast
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bills_of, length_of, seconds_of, with_gpus, world_of
from mopdsim.recipes.stage import Amounts

CLOSE = 0.01  # of the budget
_HALVINGS = 60
_LEAST_FACTOR, _MOST_FACTOR = 1e-9, 1e9


@dataclass(frozen=True, kw_only=True)
class AtBudget:
    """The scaled scenario: the factor on its steps, what it spends of the budget's kind, and the stages that cannot be
    cut further."""

    scenario: Scenario
    budget: float
    factor: float
    spent: float
    floored: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Within 1% of the budget."""
        return abs(self.spent / self.budget - 1) <= CLOSE

    @property
    def reason(self) -> str:
        """Why the budget is not met; empty where it is."""
        if self.met:
            return ""
        if self.spent > self.budget and self.floored:
            return f"{', '.join(self.floored)} cannot be cut further"
        return "its few steps are whole"


def at_budget(scenario: Scenario, flops: float) -> AtBudget:
    """The scenario whose forecast spends `flops` on training. UsageError for a budget that is no amount."""
    number(flops, "budget_flops", least=0, above=True)
    scenario = with_gpus(scenario)
    bills = bills_of(scenario)

    def spent(rows: Mapping[str, Amounts]) -> float:
        return sum(
            bills[name].step_flops * steps_within(row, bills[name].step_flops) for name, row in rows.items()
        )

    return _scaled_to(scenario, flops, spent)


def at_dollars(scenario: Scenario, dollars: float) -> AtBudget:
    """The scenario whose forecast costs so many dollars at the median. UsageError for a sum that is no amount."""
    number(dollars, "budget_usd", least=0, above=True)
    scenario = with_gpus(scenario)
    bills, world = bills_of(scenario), world_of(scenario, default_calibration())
    lengths_CN = np.stack([length_of(scenario, found, world) for found in bills.values()])
    gpus_C1 = np.array([[found.gpus] for found in bills.values()])

    def spent(rows: Mapping[str, Amounts]) -> float:
        steps_C = [
            steps_within(rows[name], found.step_flops) if name in rows else found.steps
            for name, found in bills.items()
        ]
        seconds_CN = seconds_of(scenario, [*bills], [*bills.values()], steps_C, lengths_CN)
        return float(np.median((seconds_CN * gpus_C1 / HOUR).sum(axis=0))) * scenario.price

    return _scaled_to(scenario, dollars, spent)


def bought(scenario: Scenario, budget: float) -> str:
    """What a budget of dollars buys of a recipe that costs more, in one sentence: a share of its steps with the score
    that they bring, or nothing, and then what its fewest steps cost."""
    found = at_dollars(scenario, budget)
    if found.spent > budget * (1 + CLOSE):
        return f"{usd(budget)} buys nothing of it: at its fewest steps it costs {usd(found.spent)}"
    mean = forecast(found.scenario).mean_score["p50"]
    return f"{usd(budget)} buys {100 * found.factor:.2g}% of its steps, which bring a mean score of {score(mean)}"


def _scaled_to(
    scenario: Scenario, budget: float, spent: Callable[[Mapping[str, Amounts]], float]
) -> AtBudget:
    """The scenario with the factor at which it spends the budget. Stages alike gain a step at the same factor: one
    after the other, as long as that comes closer."""
    amounts = scenario.recipe.amounts

    def scaled(factor: float) -> dict[str, Amounts]:
        return {name: row.scaled(factor) for name, row in amounts.items()}

    low, high = _LEAST_FACTOR, _MOST_FACTOR
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(scaled(middle)) <= budget else (low, middle)
    rows, more = scaled(low), scaled(high)
    for name in rows:
        tried = rows | {name: more[name]}
        if abs(spent(tried) - budget) < abs(spent(rows) - budget):
            rows = tried
    return AtBudget(
        scenario=replace(scenario, recipe=scenario.recipe.with_amounts(rows)),
        budget=budget,
        factor=low,
        spent=spent(rows),
        floored=tuple(name for name, row in rows.items() if row.steps == min(2, amounts[name].steps)),
    )


def training_flops(scenario: Scenario) -> float:
    """FLOPs of all stages at central values, evaluation not counted."""
    return sum(found.training_run_flops for found in bills_of(scenario).values())
