"""Recipes side by side, run for real on one model, and the simulator's forecast of the same runs beside it.

All start from the same base and are scored on the same prompts. Leaves out: why one is better (the studies), one
seed's noise (`se` is of the test prompts alone).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.base.documents import number
from mopdsim.base.numbers import score, with_interval
from mopdsim.forecast import scenario
from mopdsim.forecast.at_budget import at_budget, training_flops
from mopdsim.forecast.compare import BUDGET_OF, cap
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE
from studies.designs.systems.side_by_side import Engine, Finished, about, forecast_row
from studies.framework.run import Run
from trainer.runs.plan import BUILT_IN

BELOW = 2.0  # standard errors under its start at which a domain counts as lost


def comparable(
    names: Sequence[str], domains: Sequence[str], *, model: str, scale: float, own: bool
) -> dict[str, Recipe]:
    """The catalogue's recipes over the same domains: `scale` times their own amounts, or times one common budget of
    training FLOPs, that of `mopd`."""
    made = {name: catalogue.recipe(name, domains) for name in names}
    if own:
        return {name: recipe.scaled(scale) for name, recipe in made.items()}
    number(scale, "scale", least=0, above=True)
    asked = {"model": model} if model in BUILT_IN else {}
    budget = scale * training_flops(scenario.of_recipe(BUDGET_OF, domains=list(domains), **asked))
    return {
        name: at_budget(scenario.of_recipe(name, domains=list(domains), **asked), budget).scenario.recipe
        for name in names
    }


def run_compare(runs: Sequence[Run], engine: Engine) -> dict[str, Any]:
    """Run what the store does not hold; the document of `mopd study compare --json`. The runs share model, settings and
    domains."""
    begun, first = time.perf_counter(), runs[0]
    rows = {
        name: {**measured(found), "forecast": forecast_row(found.run.recipe, first.model)}
        for name, found in engine.carry_out(runs).items()
    }
    return {
        "model": first.model,
        "domains": list(first.recipe.domains),
        "seed": first.settings.seed,
        "test_items": first.settings.test_items,
        "recipes": rows,
        "disagreement": disagreement(rows),
        **about(first.settings.device, begun),
    }


def measured(found: Finished) -> dict[str, Any]:
    """One recipe's row: scores of its output, cost of all its stages, what its teachers knew, what was lost."""
    recipe = found.run.recipe
    start, output = found.scores(BASE), found.domains()
    scores = {domain: output[domain]["pass_rate"] for domain in recipe.domains}
    se = {domain: output[domain]["se"] for domain in recipe.domains}
    best = cap(recipe, lambda stage, domain: found.scores(stage)[domain])
    return {
        "start": {domain: start[domain] for domain in recipe.domains},
        "scores": scores,
        "se": se,
        "mean": statistics.mean(scores.values()),
        "worst": min(scores.values()),
        "cap": None if best is None else float(best),
        "lost": [d for d in recipe.domains if scores[d] < start[d] - BELOW * se[d]],
        "flops": sum(found.flops.values()),
        "seconds": found.seconds,
        "stages": {
            stage.name: {
                "kind": stage.kind,
                "flops": found.flops[stage.name],
                "seconds": found.summaries[stage.name]["wall_seconds"],
                "steps": found.summaries[stage.name]["steps"],
                "scores": found.scores(stage.name),
            }
            for stage in recipe.stages
        },
    }


def disagreement(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where forecast and measurement part: coverage of P10 to P90, the largest miss, and the two rankings."""
    cells = {
        (name, domain): (row["scores"][domain], row["forecast"]["scores"][domain])
        for name, row in rows.items()
        for domain in row["scores"]
    }
    inside = [told["p10"] <= seen <= told["p90"] for seen, told in cells.values()]
    errors = {cell: seen - told["p50"] for cell, (seen, told) in cells.items()}
    recipe, domain = max(errors, key=lambda cell: abs(errors[cell]))
    seen, told = cells[recipe, domain]
    return {
        "cells": len(cells),
        "inside_80": sum(inside) / len(inside),
        "mean_error": statistics.mean(errors.values()),
        "mean_absolute_error": statistics.mean(map(abs, errors.values())),
        "largest": {"recipe": recipe, "domain": domain, "measured": seen, "forecast": told},
        "ranking_measured": sorted(rows, key=lambda name: -rows[name]["mean"]),
        "ranking_forecast": sorted(rows, key=lambda name: -rows[name]["forecast"]["mean"]["p50"]),
    }


def compare_text(result: Mapping[str, Any]) -> str:
    """Measured and forecast, a recipe a line, and where they part."""
    lines = [
        f"{result['model']}, seed {result['seed']}, {', '.join(result['domains'])}",
        "measured, and beside it the forecast: P50 (P10 to P90)",
        f"{'recipe':<18}{'mean':>7}  {'':<22}{'worst':>7}  {'':<22}{'cap':>6}  {'lost':<18}{'TFLOP':>7}{'seconds':>9}",
    ]
    for name, row in sorted(result["recipes"].items(), key=lambda item: -item[1]["mean"]):
        told = row["forecast"]
        mean, worst = (with_interval(told[key], score) for key in ("mean", "worst"))
        cap = "-" if row["cap"] is None else f"{row['cap']:.2f}"
        lines.append(
            f"{name:<18}{row['mean']:>7.3f}  {mean:<22}"
            f"{row['worst']:>7.3f}  {worst:<22}{cap:>6}  {', '.join(row['lost']) or '-':<18}"
            f"{row['flops'] / 1e12:>7.3f}{row['seconds']:>9.0f}"
        )
    found = result["disagreement"]
    worst = found["largest"]
    lines.append(
        f"{found['inside_80']:.0%} of {found['cells']} scores lie within P10 to P90; "
        f"mean error {found['mean_error']:+.3f}, mean absolute error {found['mean_absolute_error']:.3f}; "
        f"largest: {worst['recipe']} in {worst['domain']}, "
        f"{worst['measured']:.2f} against {worst['forecast']['p50']:.2f}"
    )
    return "\n".join(lines)
