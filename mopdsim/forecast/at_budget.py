"""A scenario at a given budget of training FLOPs: every stage's steps times one common factor.

Training FLOPs are those of sampling, scoring and gradient, evaluation not counted, as in `Amounts.max_flops`. Steps are
whole, so stages that were alike may end a step apart; no stage has fewer than two (or than the one it had), so a budget
is met to within one stage's step, and a very small one not at all: `floored` names the stages that are already there.
Leaves out: merges, which spend nothing; a better split of the budget between stages (`mopd plan`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mopdsim.base.errors import UsageError
from mopdsim.cost.stage_cost import steps_within
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bills_of
from mopdsim.recipes.amounts import Amounts

CLOSE = 0.01  # of the budget
_HALVINGS = 60
_LEAST_FACTOR, _MOST_FACTOR = 1e-9, 1e9


@dataclass(frozen=True, kw_only=True)
class AtBudget:
    """The scaled scenario: the factor on its steps, its FLOPs, and the stages that cannot be cut further."""

    scenario: Scenario
    budget_flops: float
    factor: float
    flops: float
    floored: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Within 1% of the budget."""
        return abs(self.flops / self.budget_flops - 1) <= CLOSE

    @property
    def reason(self) -> str:
        """Why the budget is not met; empty where it is."""
        if self.met:
            return ""
        if self.flops > self.budget_flops and self.floored:
            return f"{', '.join(self.floored)} cannot be cut further"
        return "its few steps are whole"


def at_budget(scenario: Scenario, flops: float) -> AtBudget:
    """The scenario whose forecast spends `flops` on training. UsageError for a budget that is no amount."""
    if not (math.isfinite(flops) and flops > 0):
        raise UsageError(f"budget_flops = {flops}: must be a finite number above 0")
    amounts = scenario.recipe.amounts
    bills = bills_of(scenario)
    per_step = {name: bills[name].step_flops for name in amounts}

    def scaled(factor: float) -> dict[str, Amounts]:
        return {name: row.scaled(factor) for name, row in amounts.items()}

    def spent(rows: Mapping[str, Amounts]) -> float:
        return sum(per_step[name] * steps_within(row, per_step[name]) for name, row in rows.items())

    low, high = _LEAST_FACTOR, _MOST_FACTOR
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(scaled(middle)) <= flops else (low, middle)
    # Stages alike gain a step at the same factor: one after the other, as long as that comes closer.
    rows, more = scaled(low), scaled(high)
    for name in rows:
        tried = rows | {name: more[name]}
        if abs(spent(tried) - flops) < abs(spent(rows) - flops):
            rows = tried
    return AtBudget(
        scenario=replace(scenario, recipe=scenario.recipe.with_amounts(rows)),
        budget_flops=flops,
        factor=low,
        flops=spent(rows),
        floored=tuple(name for name, row in rows.items() if row.steps == min(2, amounts[name].steps)),
    )


def training_flops(scenario: Scenario) -> float:
    """FLOPs of all stages at central values, evaluation not counted."""
    return sum(found.training_run_flops for found in bills_of(scenario).values())
