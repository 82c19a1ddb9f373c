"""All published systems and the plain rivals side by side: one model, the same domains, one budget of training FLOPs.

Every recipe's steps are scaled by one factor until its training FLOPs, teachers and data included, equal the budget
(`mopdsim.forecast.at_budget`); all meet the same worlds. cap: what the output's teachers could give, the mean over
domains of the best own teacher. below_start: probability that any domain ends under the base's score; collapse: that
a distillation on the way lost what it had gained. Leaves out: differences draw by draw (`mopdsim.forecast.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.forecast.at_budget import AtBudget, at_budget, training_flops
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.forecast.scenario import of_recipe
from mopdsim.recipes.recipe import BASE, Distill
from mopdsim.recipes.systems import SYSTEMS

DOMAINS = ("sort", "reverse", "shift", "swap", "brackets", "rle_decode")
RIVALS = ("mixed_rl", "cascade_rl", "mopd", "off_policy", "merge")
RECIPES = (*SYSTEMS, *RIVALS)
BUDGET_OF = "mopd"  # the recipe whose own amounts set the budget where none is given
COLLAPSED = 0.05  # of a score, lost on the way


def compare_all(
    *, domains: Sequence[str] = DOMAINS, budget_flops: float | None = None, **settings: Any
) -> dict[str, Any]:
    """The table as plain data. `settings`: other keys of a scenario file, for all recipes alike."""
    scenarios = {name: of_recipe(name, source=name, domains=list(domains), **settings) for name in RECIPES}
    budget = training_flops(scenarios[BUDGET_OF]) if budget_flops is None else budget_flops
    rows = [_row(at_budget(scenario, budget)) for scenario in scenarios.values()]
    first = scenarios[BUDGET_OF]
    return {
        "budget_flops": budget,
        "model": first.model,
        "gpu": first.gpu,
        "domains": list(domains),
        "draws": first.draws,
        "seed": first.seed,
        "rows": rows,
    }


def _row(scaled: AtBudget) -> dict[str, Any]:
    found = forecast(scaled.scenario)
    recipe = scaled.scenario.recipe
    cap_N = cap(found)
    return {
        "recipe": recipe.name,
        "flops": scaled.spent,
        "factor": scaled.factor,
        "off_budget": scaled.reason,
        "gpu_hours": quantiles(found.gpu_hours_N),
        "usd": quantiles(found.usd_N),
        "days": quantiles(found.days_N),
        "mean": found.mean_score,
        "worst": found.worst_score,
        "cap": None if cap_N is None else quantiles(cap_N),
        "risk": risk(found),
        "stages": len(recipe.stages),
        "teachers": len(recipe.taught_from),
    }


def cap(found: Forecast) -> Array | None:
    """Mean over domains of the best own teacher of the output's distillation, (N,); None where it has none."""
    output = found.scenario.recipe.stage[found.scenario.recipe.output]
    if not isinstance(output, Distill):
        return None
    best = [
        np.max(
            [
                found.states[teacher.stage].score_DN[found.world.index[domain]]
                for teacher in output.teachers
                if domain in teacher.domains
            ],
            axis=0,
        )
        for domain in output.domains
    ]
    return np.asarray(np.mean(best, axis=0))


def risk(found: Forecast) -> dict[str, float]:
    """Probabilities that any domain ends below the base's score, and that a collapse or a bold rate took more than
    `COLLAPSED` of one."""
    below_DN = found.scores_DN < found.states[BASE].score_DN
    booked: Mapping[Any, Array] = found.output.waterfall or {}
    lost_DN = booked.get("collapse", np.zeros_like(found.scores_DN))
    return {
        "below_start": float(np.mean(below_DN.any(axis=0))),
        "collapse": float(np.mean((lost_DN < -COLLAPSED).any(axis=0))),
    }
