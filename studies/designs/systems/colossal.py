"""Are ten small specialist runs cheaper than one colossal one? Total cost at equal worst-domain score.

Multi-teacher distillation (one teacher a domain) and mixed RL run at several budgets of equal training FLOPs, at the
same sweep of the RL rate, of which each budget's best (by worst domain, over seeds) counts. The cost of a worst-domain
score is read off each curve (log FLOPs, linear between budgets, never falling). Development is then counted for both
by one rule: a sweep multiplies every trained stage alike, a change of one domain's data or reward repeats what
`mopdsim.forecast.schedule.affected_by` says: all of a mixed run, one teacher and the distillation of the other.
Leaves out: wall-clock (`mopd forecast`), changes that need no full repeat.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.forecast.schedule import affected_by
from mopdsim.recipes.recipe import Recipe, Rl
from studies.designs.systems.demo import demo_recipes
from studies.designs.systems.side_by_side import Engine, told
from studies.framework.run import Run
from trainer.files.settings import Settings

DOMAINS = (
    "sort", "sort_down", "sort_long", "reverse", "rotate", "shift", "shift_back", "brackets", "rle_decode", "swap",
)  # fmt: skip
RECIPES = ("mopd", "mixed_rl")
BUDGETS = (0.25, 0.5, 1.0, 2.0)
RATES = (7e-4, 1.5e-3)
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
CHANGES = (0, 1, 3, 10)
SWEEP_RUNS, SWEEP_FRACTION = 4, 0.25  # Olmo 3 swept four learning rates; a quarter of a run each, prior


def run_colossal(
    *,
    seeds: Sequence[int],
    budgets: Sequence[float] = BUDGETS,
    rates: Sequence[float] = RATES,
    domains: Sequence[str] = DOMAINS,
    engine: Engine,
) -> dict[str, Any]:
    """Run what the store does not hold; the document of `mopd study colossal --json`."""
    made = {
        (name, factor, rate): _at_rate(recipe, rate)
        for factor, rate in itertools.product(budgets, rates)
        for name, recipe in demo_recipes(domains, factor=factor).items()
        if name in RECIPES
    }
    runs = [
        Run(
            name=f"{name}/x{factor:g}/rate{rate:g}/seed{seed}",
            recipe=recipe,
            settings=Settings(seed=seed, validation_items=100, test_items=400, evaluate_every=1000),
            factors={"recipe": name, "label": f"{name} x{factor:g} at {rate:g}"},
        )
        for seed in seeds
        for (name, factor, rate), recipe in made.items()
    ]
    found = engine.carry_out(runs)
    rows = []
    for run in runs:
        scores = [found[run.name].scores()[domain] for domain in run.recipe.domains]
        rows.append(_row(run, run.settings.seed, scores, found[run.name].flops))
    forecasts = []
    for run in runs[: len(made)]:
        medians, flops = _forecast(run.recipe)
        forecasts.append(_row(run, None, medians, flops))
    return {
        "domains": list(domains),
        "seeds": list(seeds),
        "sweep": {"runs": SWEEP_RUNS, "fraction": SWEEP_FRACTION},
        "measured": {"rows": rows, "cost_of_score": cost_table(rows)},
        "forecast": {"rows": forecasts, "cost_of_score": cost_table(forecasts)},
    }


def _at_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with this learning rate in every RL stage."""
    own = {stage.name: recipe.amounts[stage.name] for stage in recipe.stages if isinstance(stage, Rl)}
    return recipe.with_amounts(
        {name: amounts.model_copy(update={"learning_rate": rate}) for name, amounts in own.items()}
    )


def _forecast(recipe: Recipe) -> tuple[list[float], dict[str, float]]:
    """The simulator's median score of each domain and FLOPs of each stage."""
    found = told(recipe)
    medians = [statistics.median(row_N.tolist()) for row_N in found.scores_DN]
    return medians, {name: bill.training_run_flops for name, bill in found.bills.items()}


def _row(run: Run, seed: int | None, scores: Sequence[float], spent: Mapping[str, float]) -> dict[str, Any]:
    changes = [sum(spent[name] for name in affected_by(run.recipe, domain)) for domain in run.recipe.domains]
    return {
        **run.factors,
        "seed": seed,
        "worst": min(scores),
        "mean": statistics.mean(scores),
        "flops": sum(spent.values()),
        "flops_of_a_change": statistics.mean(changes),
    }


def cost_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every target score and number of changes: total FLOPs of each recipe (None: no budget reached it; least: the
    least budget tried did, so that less might do)."""
    curves = {name: _curve([row for row in rows if row["recipe"] == name]) for name in RECIPES}
    table = []
    for target, changes in itertools.product(TARGETS, CHANGES):
        costs = {name: _total(curve, target, changes) for name, curve in curves.items()}
        both = [cost for cost in costs.values() if cost is not None]
        table.append(
            {
                "worst_score": target,
                "changes": changes,
                "flops": costs,
                "least": {name: bool(curve) and curve[0][0] >= target for name, curve in curves.items()},
                "ratio": both[0] / both[1] if len(both) == len(RECIPES) else None,
            }
        )
    return table


Curve = list[tuple[float, float, float]]  # worst score, FLOPs, FLOPs of a change


def _curve(rows: Sequence[Mapping[str, Any]]) -> Curve:
    """Means over seeds by label, the best rate of each budget, cheapest first, scores made never to fall."""
    by_label = itertools.groupby(sorted(rows, key=lambda row: row["label"]), key=lambda row: row["label"])
    best: dict[str, tuple[float, float, float]] = {}
    for label, own in ((label, list(group)) for label, group in by_label):
        budget = label.partition(" at ")[0]
        worst, flops, change = (
            statistics.mean(row[key] for row in own) for key in ("worst", "flops", "flops_of_a_change")
        )
        best[budget] = max(best.get(budget, (-1.0, 0.0, 0.0)), (worst, flops, change))
    points: Curve = []
    for worst, flops, change in sorted(best.values(), key=lambda point: point[1]):
        points.append((max(worst, points[-1][0] if points else 0.0), flops, change))
    return points


def _total(curve: Curve, target: float, changes: int) -> float | None:
    """FLOPs of sweep, run and changes at the cheapest budget that reaches the target; the cheapest budget tried where
    that already does."""
    reached = [place for place, point in enumerate(curve) if point[0] >= target]
    if not reached:
        return None
    place = reached[0]
    flops, change = curve[place][1:]
    if place:
        (low, cheap, small), (high, dear, large) = curve[place - 1], curve[place]
        share = (target - low) / (high - low)
        flops = math.exp(math.log(cheap) + share * math.log(dear / cheap))
        change = small + share * (large - small)
    return flops * (1 + SWEEP_RUNS * SWEEP_FRACTION) + changes * change
