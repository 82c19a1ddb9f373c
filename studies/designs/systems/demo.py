"""The demonstration: a base from random weights, its specialists, one student distilled from all, and the rivals.

Every recipe spends the same training FLOPs, teachers counted, the common start and evaluation not: MOPD's specialists
and distillation set the budget; one mixed RL run gets it whole, the merged specialists train longer, off-policy
fine-tuning gets the distillation's share. Nothing trained is shipped. Leaves out: which recipe is better in general.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE, Distill, Recipe, Rl
from trainer.files.settings import Settings
from trainer.runs.execute import Progress, execute
from trainer.runs.plan import plan
from trainer.runs.run import manifest
from trainer.runs.store import Store

DOMAINS = ("sort", "sort_down", "reverse")
STUDENT_OF = {"mopd": "student", "mixed_rl": "mixed", "off_policy": "student", "merge": "merged"}
LABELS = {
    "mopd": "MOPD",
    "mixed_rl": "mixed RL",
    "off_policy": "off-policy fine-tuning",
    "merge": "merged specialists",
}

# Amounts, chosen by a sweep of rate and batch of the same size for every recipe (studies/LOG.md).
TEACHER_FLOPS = 0.06e12
DISTILL_FLOPS = 0.08e12
TEACHER = Amounts(
    steps=300, prompts_per_step=32, rollouts_per_prompt=8, learning_rate=1.5e-3, max_flops=TEACHER_FLOPS
)
MIXED = Amounts(steps=2400, prompts_per_step=32, rollouts_per_prompt=8, learning_rate=1.5e-3, max_flops=1.0)
STUDENT = Amounts(steps=1200, prompts_per_step=64, learning_rate=2e-3, max_flops=DISTILL_FLOPS)
OFF_POLICY = Amounts(steps=1200, prompts_per_step=64, learning_rate=2e-3, max_flops=DISTILL_FLOPS)
MERGE_SCALE = 0.5


def demo_recipes(domains: Sequence[str], *, factor: float = 1.0) -> dict[str, Recipe]:
    """The four recipes at matched FLOPs, `factor` times the demo's."""
    count = len(domains)
    teacher, student, off_policy = (
        amounts.model_copy(update={"max_flops": factor * (amounts.max_flops or 0.0)})
        for amounts in (TEACHER, STUDENT, OFF_POLICY)
    )
    budget = factor * (count * TEACHER_FLOPS + DISTILL_FLOPS)
    longer = teacher.model_copy(update={"max_flops": budget / count})
    made = {
        "mopd": catalogue.mopd(domains),
        "mixed_rl": catalogue.mixed_rl(domains),
        "off_policy": catalogue.off_policy(domains),
        "merge": catalogue.merge(domains, scale=MERGE_SCALE),
    }
    chosen: dict[str, Recipe] = {}
    for name, recipe in made.items():
        amounts = {}
        for stage in recipe.stages:
            if isinstance(stage, Rl):
                amounts[stage.name] = longer if name == "merge" else teacher
            elif isinstance(stage, Distill):
                amounts[stage.name] = student if stage.on_policy else off_policy
        if name == "mixed_rl":
            amounts["mixed"] = MIXED.model_copy(update={"max_flops": budget})
        chosen[name] = recipe.with_amounts(amounts)
    return chosen


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Share of the specialists' mean headroom that a student gained, with its standard error (delta method)."""

    value: float
    se: float


def recovery(
    start: Sequence[Mapping[str, float]],
    teacher: Sequence[Mapping[str, float]],
    student: Sequence[Mapping[str, float]],
) -> Recovery:
    """sum (student - start) / sum (teacher - start) over domains; the three samples are taken as independent, which
    overstates the error, since all are scored on the same prompts."""
    gain = sum(after["pass_rate"] - before["pass_rate"] for before, after in zip(start, student, strict=True))
    headroom = sum(
        after["pass_rate"] - before["pass_rate"] for before, after in zip(start, teacher, strict=True)
    )
    value = gain / headroom
    variance = sum(row["se"] ** 2 for row in student)
    variance += value**2 * sum(row["se"] ** 2 for row in teacher) + (1 - value) ** 2 * sum(
        row["se"] ** 2 for row in start
    )
    return Recovery(value=value, se=variance**0.5 / abs(headroom))


def run_demo(*, seed: int, out: Path, workers: int, threads: int, progress: Progress) -> dict[str, Any]:
    """Run everything that `out` does not hold yet; returns the document of `mopd demo --json`."""
    begin = time.perf_counter()
    made = demo_recipes(DOMAINS)
    settings = Settings(seed=seed, threads=threads, validation_items=100, test_items=500, evaluate_every=100)
    store = Store(root=out / "store")
    planned = plan(made, model="tiny", settings=settings, store=store)
    summaries = execute(planned, store, workers=workers, progress=progress)
    keys = planned.keys["mopd"]
    start = summaries[keys[BASE]]["domains"]
    own = {stage.name: next(iter(stage.domains)) for stage in made["mopd"].stages if isinstance(stage, Rl)}
    teacher = {domain: summaries[keys[name]]["domains"][domain] for name, domain in own.items()}
    table = {}
    for name, recipe in made.items():
        stages = {stage.name: summaries[planned.keys[name][stage.name]] for stage in recipe.stages}
        student = stages[recipe.output]["domains"]
        gained = recovery(*([side[d] for d in DOMAINS] for side in (start, teacher, student)))
        spent = {stage: _spent(summary) for stage, summary in stages.items()}
        table[name] = {
            "scores": {
                d: {
                    "start": start[d]["pass_rate"],
                    "teacher": teacher[d]["pass_rate"],
                    "student": student[d]["pass_rate"],
                }
                for d in DOMAINS
            },
            "probes": {
                d: {"start": start[d]["pass_rate"], "student": student[d]["pass_rate"]}
                for d in settings.probes
            },
            "recovery": gained.value,
            "recovery_se": gained.se,
            "flops": sum(spent.values()),
            "flops_student_alone": spent[recipe.output],
            "seconds": sum(summary["wall_seconds"] for summary in stages.values()),
            "forecast": forecast_of(recipe),
        }
    about = manifest("cpu")
    return {
        "domains": list(DOMAINS),
        "recipes": table,
        "finding": finding(table),
        "test_items": settings.test_items,
        "seed": seed,
        "workers": workers,
        "threads": threads,
        "device": about["device"],
        "versions": about["versions"],
        "seconds": time.perf_counter() - begin,
    }


def forecast_of(recipe: Recipe) -> dict[str, Any]:
    """What the simulator says of a recipe on the tiny model, knowing nothing of this run: scores and seconds of one
    process after the other, each as p10, p50, p90."""
    document = forecast(scenario.from_document({"recipe": recipe_file.to_document(recipe)})).to_document()
    seconds = {name: hours * 3600 for name, hours in document["gpu_hours"].items()}
    return {"scores": document["scores"], "seconds": seconds}


def finding(table: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence on who won, whoever it is, or that noise decides."""
    ranked = sorted(table, key=lambda name: -table[name]["recovery"])
    best, second = ranked[0], ranked[1]
    gap = table[best]["recovery"] - table[second]["recovery"]
    noise = (table[best]["recovery_se"] ** 2 + table[second]["recovery_se"] ** 2) ** 0.5
    shown = ", ".join(f"{LABELS[name]} {table[name]['recovery']:.0%}" for name in ranked)
    verdict = (
        f"{LABELS[best]} and {LABELS[second]} are tied within the noise of this one seed"
        if gap < 2 * noise
        else f"{LABELS[best]} leads {LABELS[second]} by {gap:.0%} of the headroom (se {noise:.0%}) on this one seed"
    )
    return f"At equal training FLOPs, teachers counted, the specialists' headroom is recovered as: {shown}; {verdict}."


def _spent(summary: Mapping[str, Any]) -> float:
    return sum(value for phase, value in summary["flops"].items() if phase != "evaluation")
