"""The demonstration: a base from random weights, its specialists, one student distilled from all, and the rivals.

Every recipe spends the same training FLOPs, teachers counted, the common start and evaluation not: MOPD's specialists
and distillation set the budget; one mixed RL run gets it whole, the merged specialists train longer, off-policy
fine-tuning gets the distillation's share. Nothing trained is shipped. Leaves out: which recipe is better in general.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE, Recipe, Rl
from studies.designs.builders import MERGE_SCALE, spending
from studies.designs.systems.side_by_side import Engine, Finished, about, forecast_row, scores_of_a_test
from studies.framework.run import Run
from trainer.files.settings import Settings

Scored = Mapping[str, Mapping[str, float]]  # pass rate and its standard error, by domain
DOMAINS = ("sort", "sort_down", "reverse")
LABELS = {
    "mopd": "MOPD", "mixed_rl": "mixed RL", "off_policy": "off-policy fine-tuning", "merge": "merged specialists",
}  # fmt: skip

# Amounts, chosen by a sweep of rate and batch of the same size for every recipe (studies/LOG.md).
TEACHER_FLOPS = 0.06e12
DISTILL_FLOPS = 0.08e12
TEACHER = Amounts(steps=300, prompts_per_step=32, rollouts_per_prompt=8, learning_rate=1.5e-3)
MIXED = TEACHER.model_copy(update={"steps": 2400})
STUDENT = Amounts(steps=1200, prompts_per_step=64, learning_rate=2e-3)


def demo_recipes(domains: Sequence[str]) -> dict[str, Recipe]:
    """The four recipes at matched FLOPs."""

    def capped(amounts: Amounts, flops: float) -> Amounts:
        return amounts.model_copy(update={"max_flops": flops})

    budget = len(domains) * TEACHER_FLOPS + DISTILL_FLOPS
    teacher, longer = capped(TEACHER, TEACHER_FLOPS), capped(TEACHER, budget / len(domains))
    student = capped(STUDENT, DISTILL_FLOPS)
    merged = catalogue.merge(domains, scale=MERGE_SCALE)
    return {
        "mopd": spending(catalogue.mopd(domains), rl=teacher, distill=student),
        "mixed_rl": spending(catalogue.mixed_rl(domains), rl=capped(MIXED, budget), distill=student),
        "off_policy": spending(catalogue.off_policy(domains), rl=teacher, distill=student),
        "merge": spending(merged, rl=longer, distill=student),
    }


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Share of the specialists' mean headroom that a student gained, with its standard error (delta method)."""

    value: float
    se: float


def recovery(
    start: Sequence[Mapping[str, float]],
    teacher: Sequence[Mapping[str, float]],
    student: Sequence[Mapping[str, float]],
    *,
    figure: Literal["pass_rate", "greedy"] = "pass_rate",
) -> Recovery:
    """sum (student - start) / sum (teacher - start) of a figure over domains; the three samples are taken as
    independent, which overstates the error, since all are scored on the same prompts."""
    error = {"pass_rate": "se", "greedy": "greedy_se"}[figure]
    gain = sum(after[figure] - before[figure] for before, after in zip(start, student, strict=True))
    headroom = sum(after[figure] - before[figure] for before, after in zip(start, teacher, strict=True))
    value = gain / headroom
    variance = sum(row[error] ** 2 for row in student)
    variance += value**2 * sum(row[error] ** 2 for row in teacher) + (1 - value) ** 2 * sum(
        row[error] ** 2 for row in start
    )
    return Recovery(value=value, se=variance**0.5 / abs(headroom))


def run_demo(*, seed: int, threads: int, engine: Engine) -> dict[str, Any]:
    """Run everything that the store does not hold yet; returns the document of `mopd demo --json`."""
    begun = time.perf_counter()
    settings = Settings(seed=seed, threads=threads, validation_items=100, test_items=500, evaluate_every=100)
    made = demo_recipes(DOMAINS)
    found = engine.carry_out(Run(name=name, recipe=made[name], settings=settings) for name in made)
    start, teacher = before_the_student(found["mopd"])
    table = {name: _row(run, start, teacher) for name, run in found.items()}
    return {
        "domains": list(DOMAINS),
        "recipes": table,
        "finding": finding(table),
        "test_items": settings.test_items,
        "seed": seed,
        "workers": engine.workers,
        "threads": threads,
        **about("cpu", begun),
    }


def before_the_student(mopd: Finished) -> tuple[Scored, Scored]:
    """Scores by domain of the start, and of each domain's own specialist."""
    own = {stage.name: next(iter(stage.domains)) for stage in mopd.run.recipe.stages if isinstance(stage, Rl)}
    return mopd.domains(BASE), {domain: mopd.domains(name)[domain] for name, domain in own.items()}


def gained(
    found: Finished, start: Scored, teacher: Scored, *, figure: Literal["pass_rate", "greedy"] = "pass_rate"
) -> dict[str, float]:
    """What a recipe recovered, and at what cost."""
    sides = (start, teacher, found.domains())
    won = recovery(*([side[domain] for domain in teacher] for side in sides), figure=figure)
    return {
        "recovery": won.value,
        "recovery_se": won.se,
        "flops": sum(found.flops.values()),
        "flops_student_alone": found.flops[found.run.recipe.output],
        "seconds": found.seconds,
    }


def _row(found: Finished, start: Scored, teacher: Scored) -> dict[str, Any]:
    """One recipe's row of the document."""
    sides = {"start": start, "teacher": teacher, "student": found.domains()}
    told, probed = forecast_row(found.run.recipe), found.run.settings.probes
    return {
        "scores": {d: {name: side[d]["pass_rate"] for name, side in sides.items()} for d in DOMAINS},
        "probes": {d: {name: sides[name][d]["pass_rate"] for name in ("start", "student")} for d in probed},
        **gained(found, start, teacher),
        "forecast": {
            "scores": scores_of_a_test(found.run.recipe, found.run.settings.test_items),
            "seconds": told["seconds"],
        },
    }


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
