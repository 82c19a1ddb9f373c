"""The verb `mopd compare`: recipes in the same worlds, or with --all every system and rival at one budget.

Leaves out: the arithmetic (`mopdsim.forecast.compare`, `mopdsim.forecast.compare_all`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count, duration, interval, score, share, usd
from mopdsim.cli.flags import (
    Amounts,
    Budget,
    Deadline,
    Domains,
    Draws,
    GpuName,
    Gpus,
    Json,
    ModelName,
    Seed,
    Teams,
    emit,
    require_domains,
    scenario_keys,
    scenario_of,
)
from mopdsim.cli.texts import comparison_text


def compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|FILE ...", help="Two or more; the first is the baseline."),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="All published systems and the plain rivals, at one budget of training FLOPs."
        ),
    ] = False,
    budget_flops: Annotated[
        float | None,
        typer.Option(help="With --all: that budget [default: what mopd spends with its own amounts]."),
    ] = None,
    model: ModelName = None,
    gpu: GpuName = None,
    gpus: Gpus = None,
    domains: Domains = None,
    teams: Teams = None,
    budget: Budget = None,
    deadline: Deadline = None,
    amounts: Amounts = None,
    draws: Draws = None,
    seed: Seed = None,
    json_: Json = False,
) -> None:
    """Forecast several recipes in the same worlds: differences, the probability that one is better, or a tie.

    Example: mopd compare mixed_rl mopd merge --domains math,code
    """
    keys = scenario_keys(
        model=model, gpu=gpu, gpus=gpus, domains=domains, teams=teams, budget=budget, deadline=deadline,
        amounts=amounts, draws=draws, seed=seed,
    )  # fmt: skip
    if all_:
        from mopdsim.forecast.compare_all import compare_all

        if recipes:
            raise UsageError(
                f"--all compares every recipe, and {', '.join(recipes)} is named beside it: use one"
            )
        require_domains(keys)
        document = compare_all(budget_flops=budget_flops, **keys)
        return emit(document) if json_ else print(all_text(document))
    if budget_flops is not None:
        raise UsageError(f"budget_flops = {budget_flops:g}: belongs to --all: add that, or leave it out")
    from mopdsim.forecast.assumptions import assumptions
    from mopdsim.forecast.compare import compare as judge
    from mopdsim.forecast.forecast import forecast as run

    scenarios = [scenario_of(recipe, keys) for recipe in recipes or ()]
    document = judge([run(scenario) for scenario in scenarios])
    return emit(document) if json_ else print(comparison_text(document, assumptions(scenarios[0])))


def all_text(document: Mapping[str, Any]) -> str:
    """The table for people; a star marks a recipe that misses the budget by over 1%."""
    lines = [
        f"{document['model']} on {document['gpu']}, domains {', '.join(document['domains'])}; "
        f"{count(document['budget_flops'])} training FLOPs each; P50 (P10 to P90) of {count(document['draws'])} draws",
        f"{'recipe':<18}{'GPU-hours':>11}{'cost':>9}{'calendar':>11}  {'mean score':<20}{'worst domain':<20}"
        f"{'cap':>6}{'below start':>13}{'collapse':>10}{'stages':>8}{'teachers':>10}",
    ]
    for row in document["rows"]:
        cap = "-" if row["cap"] is None else score(row["cap"]["p50"])
        mark = "*" if row["off_budget"] else ""
        lines.append(
            f"{row['recipe'] + mark:<18}{count(row['gpu_hours']['p50']):>11}{usd(row['usd']['p50']):>9}"
            f"{duration(row['days']['p50']):>11}  {_three(row['mean']):<20}{_three(row['worst']):<20}{cap:>6}"
            f"{share(row['risk']['below_start']):>13}{share(row['risk']['collapse']):>10}{row['stages']:>8}"
            f"{row['teachers']:>10}"
        )
    lines += [
        f"* {row['recipe']}: {count(row['flops'])} FLOPs, {row['flops'] / document['budget_flops'] - 1:+.0%}: "
        f"{row['off_budget']}"
        for row in document["rows"]
        if row["off_budget"]
    ]
    return "\n".join(lines)


def _three(row: Mapping[str, float]) -> str:
    return f"{score(row['p50'])} ({interval(row, score)})"
