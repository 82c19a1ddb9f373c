"""The demonstration: a base, its specialists, one student distilled from all, and the rivals; on `tiny` from random
weights, or on a real open model with four kinds of short questions.

Every recipe spends the same training FLOPs, teachers counted, the common start and evaluation not: MOPD's specialists
and distillation set the budget; one mixed RL run gets it whole, the merged specialists train longer, off-policy
fine-tuning gets the distillation's share (`real_recipes` on a real model). A real model's scores are at temperature 1
and pass@8 from the same samples, and greedy; its recovery is of greedy gains, which no sharpening of the distribution
alone brings about. Nothing trained is shipped. Leaves out: which recipe is better in general.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.belief.calibration import tested
from mopdsim.forecast.forecast import quantiles
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, Rl
from studies.designs.builders import MERGE_SCALE, spending
from studies.designs.systems.real_recipes import UNBOUNDED, real_recipes
from studies.designs.systems.side_by_side import Engine, Finished, about, told
from studies.framework.run import Run
from trainer.files.settings import FOR_REAL, Settings
from trainer.runs.compute import resolve_dtype
from trainer.runs.plan import TINY

Scored = Mapping[str, Mapping[str, float]]  # a score's figures and their standard errors, by domain
DOMAINS = ("sort", "sort_down", "reverse")
REAL_DOMAINS = catalogue.REAL_DOMAINS
FIGURES = {
    "t1": "pass_rate",
    "greedy": "greedy",
    "pass8": "pass_8",
}  # in the document, and in a stage's scores
ERRORS = {"pass_rate": "se", "greedy": "greedy_se"}
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


def settings_of(model: str, *, seed: int, threads: int) -> Settings:
    """On a real model few prompts, and of a specialist its own domain alone: evaluation would else cost as much as
    training. Its checkpoint is 1.6 GB: one a few minutes."""
    own: Mapping[str, Any]
    if model == TINY:
        own = {"validation_items": 100, "test_items": 500, "evaluate_every": 100}
    else:
        rare = {"validation_items": 8, "evaluate_every": UNBOUNDED, "checkpoint_every": 50}
        dtype = resolve_dtype("auto", model=model, device="cpu")
        own = {**FOR_REAL, **rare, "score_others": "never", "dtype": dtype}
    return Settings.model_validate({**own, "seed": seed, "threads": threads})


def run_demo(*, model: str, seed: int, threads: int, engine: Engine) -> dict[str, Any]:
    """Run everything that the store does not hold yet; returns the document of `mopd demo --json`."""
    begun = time.perf_counter()
    settings = settings_of(model, seed=seed, threads=threads)
    made = demo_recipes(DOMAINS) if model == TINY else real_recipes(REAL_DOMAINS)
    found = engine.carry_out(
        Run(name=name, recipe=recipe, settings=settings, model=model) for name, recipe in made.items()
    )
    mopd = found["mopd"]
    own = {stage.name: next(iter(stage.domains)) for stage in mopd.run.recipe.stages if isinstance(stage, Rl)}
    start, teacher = mopd.domains(BASE), {domain: mopd.domains(name)[domain] for name, domain in own.items()}
    shape = TINY if model == TINY else str(engine.store.weights(mopd.nodes[BASE].key) / "config.json")
    table = {name: row_of(run, start, teacher, shape) for name, run in found.items()}
    return {
        "model": model,
        "domains": list(teacher),
        "recipes": table,
        "finding": finding(table),
        "seed": seed,
        "test_items": settings.test_items,
        "prompts": {"t1": settings.test_items, "greedy": settings.greedy_items},
        "samples_per_prompt": settings.samples_per_prompt,
        "temperature": settings.temperature,
        "settings": settings.model_dump(mode="json"),
        "start_seconds": float(mopd.summaries[BASE]["wall_seconds"]),
        "workers": engine.workers,
        "threads": threads,
        **about("cpu", begun),
    }


def row_of(found: Finished, start: Scored, teacher: Scored, shape: str) -> dict[str, Any]:
    """One recipe's row of the document. shape: what the simulator finds the model by, `tiny` or the path of a
    config.json. The forecast is of scores at temperature 1, and takes the answers to one prompt for answers to as many
    prompts; its seconds are of `tiny` alone."""
    recipe, settings = found.run.recipe, found.run.settings
    sides = {"start": start, "teacher": teacher, "student": found.domains()}
    value, se = recovery(*([side[domain] for domain in teacher] for side in sides.values()))
    said, answers = told(recipe, shape), settings.test_items * settings.samples_per_prompt
    likely = {
        domain: quantiles(tested(said.likely_DN[place], answers, key=f"{recipe.name}:{domain}"))
        for domain, place in said.world.index.items()
    }
    seconds = {"seconds": quantiles(said.gpu_hours_N * 3600)} if shape == TINY else {}
    return {
        "scores": {
            domain: {name: _figures(side[domain]) for name, side in sides.items()} for domain in teacher
        },
        "recovery": value,
        "recovery_se": se,
        "flops": sum(found.flops.values()),
        "flops_student_alone": found.flops[recipe.output],
        "seconds": found.seconds,
        "forecast": {"scores": likely, **seconds},
        "steps": {stage.name: found.summaries[stage.name]["steps"] for stage in recipe.stages},
    }


def _figures(score: Mapping[str, float]) -> dict[str, float] | float:
    """A real model's figures by name; of `tiny`, which is scored at temperature 1 alone, that number."""
    found = {shown: score[key] for shown, key in FIGURES.items() if key in score}
    return found if len(found) > 1 else found["t1"]


def recovery(
    start: Sequence[Mapping[str, float]],
    teacher: Sequence[Mapping[str, float]],
    student: Sequence[Mapping[str, float]],
) -> tuple[float, float]:
    """Share of the specialists' mean gain that a student has too, sum (student - start) / sum (teacher - start) over
    domains, of greedy scores where there are any; and its standard error (delta method). The three samples are taken as
    independent, which overstates the error, since all are scored on the same prompts."""
    figure = "greedy" if "greedy" in student[0] else "pass_rate"
    error = ERRORS[figure]
    gain = sum(after[figure] - before[figure] for before, after in zip(start, student, strict=True))
    whole = sum(after[figure] - before[figure] for before, after in zip(start, teacher, strict=True))
    value = gain / whole
    variance = sum(row[error] ** 2 for row in student)
    variance += value**2 * sum(row[error] ** 2 for row in teacher)
    variance += (1 - value) ** 2 * sum(row[error] ** 2 for row in start)
    return value, variance**0.5 / abs(whole)


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
        else f"{LABELS[best]} leads {LABELS[second]} by {gap:.0%} of it (se {noise:.0%}) on this one seed"
    )
    return f"At equal training FLOPs, teachers counted, of the specialists' gains are recovered: {shown}; {verdict}."
