"""Recipes side by side, run for real on one model, and the simulator's forecast of the same runs beside it.

All start from the same base and are scored on the same prompts. FLOPs and seconds are those of a recipe's own stages,
teachers and data included, the common start and evaluation not; stages that two recipes share are run once and count
in both. Leaves out: why one is better (the studies), one seed's noise (`se` is of the test prompts alone).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.forecast import scenario
from mopdsim.forecast.at_budget import at_budget, training_flops
from mopdsim.forecast.compare_all import BUDGET_OF
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE, Distill, Recipe
from trainer.files.settings import Settings
from trainer.runs.execute import Progress, execute
from trainer.runs.plan import BUILT_IN, plan
from trainer.runs.run import manifest
from trainer.runs.store import Store

BELOW = 2.0  # standard errors under its start at which a domain counts as lost


def comparable(
    names: Sequence[str], domains: Sequence[str], *, model: str, scale: float, own: bool
) -> dict[str, Recipe]:
    """The catalogue's recipes over the same domains: `scale` times their own amounts, or times one common budget of
    training FLOPs, that of `mopd`."""
    made = {name: catalogue.recipe(name, domains) for name in names}
    if own:
        return {name: recipe.scaled(scale) for name, recipe in made.items()}
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"scale {scale}: must be a positive number, for example 0.1")
    asked = {"model": model} if model in BUILT_IN else {}
    budget = scale * training_flops(scenario.of_recipe(BUDGET_OF, domains=list(domains), **asked))
    return {
        name: at_budget(scenario.of_recipe(name, domains=list(domains), **asked), budget).scenario.recipe
        for name in names
    }


def run_compare(
    made: Mapping[str, Recipe],
    *,
    model: str,
    settings: Settings,
    store: Store,
    workers: int,
    progress: Progress,
    start_amounts: Amounts | None = None,
) -> dict[str, Any]:
    """Run what the store does not hold; the document of `mopd study compare --json`. Recipes share their domains.

    start_amounts: of tiny's start, in place of the default.
    """
    begin = time.perf_counter()
    planned = plan(made, model=model, settings=settings, store=store, start_amounts=start_amounts)
    summaries = execute(planned, store, workers=workers, progress=progress)
    rows = {
        name: {**measured(recipe, planned.keys[name], summaries), "forecast": forecast_row(recipe, model)}
        for name, recipe in made.items()
    }
    about = manifest(settings.device)
    return {
        "model": model,
        "domains": list(next(iter(made.values())).domains),
        "seed": settings.seed,
        "test_items": settings.test_items,
        "recipes": rows,
        "disagreement": disagreement(rows),
        "device": about["device"],
        "versions": about["versions"],
        "seconds": time.perf_counter() - begin,
    }


def measured(
    recipe: Recipe, keys: Mapping[str, str], summaries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """One recipe's row: scores of its output, cost of all its stages, what its teachers knew, what was lost."""
    stages = {stage.name: summaries[keys[stage.name]] for stage in recipe.stages}
    start, output = summaries[keys[BASE]]["domains"], stages[recipe.output]["domains"]
    scores = {domain: output[domain]["pass_rate"] for domain in recipe.domains}
    flops = {name: _spent(summary) for name, summary in stages.items()}
    return {
        "start": {domain: start[domain]["pass_rate"] for domain in recipe.domains},
        "scores": scores,
        "se": {domain: output[domain]["se"] for domain in recipe.domains},
        "mean": statistics.mean(scores.values()),
        "worst": min(scores.values()),
        "cap": _cap(recipe, stages),
        "lost": [
            domain
            for domain in recipe.domains
            if scores[domain] < start[domain]["pass_rate"] - BELOW * output[domain]["se"]
        ],
        "flops": sum(flops.values()),
        "seconds": sum(summary["wall_seconds"] for summary in stages.values()),
        "stages": {
            name: {
                "kind": recipe.stage[name].kind,
                "flops": flops[name],
                "seconds": summary["wall_seconds"],
                "steps": summary["steps"],
                "scores": {
                    d: row["pass_rate"] for d, row in summary.get("domains", {}).items() if "pass_rate" in row
                },
            }
            for name, summary in stages.items()
        },
    }


def _spent(summary: Mapping[str, Any]) -> float:
    return float(sum(value for phase, value in summary["flops"].items() if phase != "evaluation"))


def _cap(recipe: Recipe, stages: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean over domains of the best own teacher's score, of the output's own distillation; None without one."""
    output = recipe.stage[recipe.output]
    if not isinstance(output, Distill):
        return None
    best = []
    for domain in output.domains:
        own = [t.stage for t in output.teachers if domain in t.domains and t.stage in stages]
        best += [max(stages[name]["domains"][domain]["pass_rate"] for name in own)] if own else []
    return statistics.mean(best) if best else None


def forecast_row(recipe: Recipe, model: str) -> dict[str, Any]:
    """What the simulator says of the same recipe, knowing nothing of the run."""
    document = {"recipe": recipe_file.to_document(recipe), "model": model}
    found: Forecast = forecast(scenario.from_document(document))
    scores = zip(found.world.names, found.scores_DN, strict=True)
    return {
        "scores": {name: quantiles(row_N) for name, row_N in scores},
        "mean": quantiles(found.scores_DN.mean(axis=0)),
        "worst": quantiles(found.scores_DN.min(axis=0)),
        "flops": sum(bill.training_run_flops for bill in found.bills.values()),
        "seconds": quantiles(found.gpu_hours_N * 3600),
    }


def disagreement(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where forecast and measurement part: coverage of P10 to P90, the largest miss, and the two rankings."""
    cells = {
        (name, domain): (row["scores"][domain], row["forecast"]["scores"][domain])
        for name, row in rows.items()
        for domain in row["scores"]
    }
    inside = [told["p10"] <= seen <= told["p90"] for seen, told in cells.values()]
    worst = max(cells, key=lambda cell: abs(cells[cell][0] - cells[cell][1]["p50"]))
    return {
        "cells": len(cells),
        "inside_80": sum(inside) / len(inside),
        "mean_error": statistics.mean(seen - told["p50"] for seen, told in cells.values()),
        "mean_absolute_error": statistics.mean(abs(seen - told["p50"]) for seen, told in cells.values()),
        "largest": {
            "recipe": worst[0],
            "domain": worst[1],
            "measured": cells[worst][0],
            "forecast": cells[worst][1],
        },
        "ranking_measured": sorted(rows, key=lambda name: -rows[name]["mean"]),
        "ranking_forecast": sorted(rows, key=lambda name: -rows[name]["forecast"]["mean"]["p50"]),
    }
