"""The demonstration on a real open model: four kinds of short questions, their specialists, one student, the rivals.

As in `studies.designs.systems.demo` every recipe spends the same training FLOPs, teachers counted, the common start and
evaluation not. Merging has nothing to spend a distillation's share on but its specialists, so each of them trains on
for a part of it. Scores are of fixed test prompts: at temperature 1 and pass@8 from the same samples, and greedy;
recovery is of greedy gains, which no sharpening of the distribution alone brings about. Leaves out: which recipe is
better in general.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts, default_amounts
from mopdsim.recipes.parts import assemble, specialists_of
from mopdsim.recipes.recipe import BASE, AnyStage, Merge, Recipe, Rl
from studies.designs.builders import spending
from studies.designs.systems.demo import MERGE_SCALE, finding, recovery
from studies.designs.systems.side_by_side import Engine, Finished, about
from studies.framework.run import Run
from trainer.files.settings import FOR_REAL, Settings
from trainer.runs.compute import resolve_dtype

DOMAINS = catalogue.REAL_DOMAINS
FIGURES = {
    "t1": "pass_rate",
    "greedy": "greedy",
    "pass8": "pass_8",
}  # in the document, and in a stage's scores
TEACHER_FLOPS = 3.5e12
DISTILL_FLOPS = 15e12
OFF_POLICY = {"prompts_per_step": 16, "rollouts_per_prompt": 4, "learning_rate": 1e-4}  # as it did best
UNBOUNDED = 10_000  # steps, where FLOPs end a stage


def settings_of(*, seed: int, threads: int) -> Settings:
    """Few prompts, and of a specialist its own domain alone: evaluation would else cost as much as training. A
    checkpoint is 1.6 GB: one a few minutes."""
    own = {
        "validation_items": 8,
        "evaluate_every": UNBOUNDED,
        "score_others": "never",
        "checkpoint_every": 50,
    }
    return Settings.model_validate({**FOR_REAL, **own, "seed": seed, "threads": threads})


def real_recipes(domains: Sequence[str], *, factor: float = 1.0) -> dict[str, Recipe]:
    """The four recipes at matched FLOPs, `factor` times the demo's."""

    def capped(kind: str, flops: float) -> Amounts:
        own = default_amounts("real", kind)  # type: ignore[arg-type]
        return own.model_copy(update={"steps": UNBOUNDED, "max_flops": factor * flops})

    teacher, student = capped("rl", TEACHER_FLOPS), capped("distill", DISTILL_FLOPS)
    whole = capped("rl", len(domains) * TEACHER_FLOPS + DISTILL_FLOPS)
    each = whole.prompts_per_step  # of a specialist's domain; one run over all asks as many of every domain
    whole = whole.model_copy(update={"prompts_per_step": each * len(domains)})
    samples = student.model_copy(update=OFF_POLICY)
    mopd = catalogue.mopd(domains, amounts="real", balance="token_share")
    return {
        "mopd": spending(mopd, rl=teacher, distill=student),
        "mixed_rl": spending(catalogue.mixed_rl(domains, amounts="real"), rl=whole, distill=student),
        "off_policy": spending(catalogue.off_policy(domains, amounts="real"), rl=teacher, distill=samples),
        "merge": merged(domains, teacher, capped("rl", DISTILL_FLOPS / len(domains))),
    }


def merged(domains: Sequence[str], teacher: Amounts, longer: Amounts) -> Recipe:
    """The specialists of the other recipes, each trained on by `longer`, then merged."""
    first = specialists_of(domains, None)
    second = [Rl(name=f"{stage.name}_longer", init=stage.name, domains=stage.domains) for stage in first]
    merge = Merge(
        name="merged", inputs=tuple(s.name for s in second), method="task_arithmetic", scale=MERGE_SCALE
    )
    stages: list[AnyStage] = [*first, *second, merge]
    made = assemble("merge", domains, "real", stages)
    amounts = {stage.name: teacher for stage in first} | {stage.name: longer for stage in second}
    return made.with_amounts(amounts)


def run_real_demo(*, model: str, seed: int, threads: int, engine: Engine) -> dict[str, Any]:
    """Run what the store does not hold yet; returns the document of `mopd demo --model MODEL --json`."""
    begun = time.perf_counter()
    dtype = resolve_dtype("auto", model=model, device="cpu")
    settings = settings_of(seed=seed, threads=threads).model_copy(update={"dtype": dtype})
    made = real_recipes(DOMAINS)
    found = engine.carry_out(
        Run(name=name, recipe=recipe, settings=settings, model=model) for name, recipe in made.items()
    )
    mopd = found["mopd"]
    own = {stage.name: next(iter(stage.domains)) for stage in made["mopd"].stages if isinstance(stage, Rl)}
    start = mopd.domains(BASE)
    teacher = {domain: mopd.domains(name)[domain] for name, domain in own.items()}
    table = {name: row_of(run, start, teacher) for name, run in found.items()}
    return {
        "model": model,
        "domains": list(DOMAINS),
        "recipes": table,
        "finding": finding(table),
        "seed": seed,
        "prompts": {"t1": settings.test_items, "greedy": settings.greedy_items},
        "samples_per_prompt": settings.samples_per_prompt,
        "temperature": settings.temperature,
        "settings": settings.model_dump(mode="json"),
        "start_seconds": float(mopd.summaries[BASE]["wall_seconds"]),
        "workers": engine.workers,
        "threads": threads,
        **about("cpu", begun),
    }


def row_of(
    found: Finished, start: Mapping[str, Mapping[str, float]], teacher: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """One recipe's row of the document."""
    student = found.domains()
    sides = {"start": start, "teacher": teacher, "student": student}
    gained = recovery(*([side[d] for d in DOMAINS] for side in sides.values()), figure="greedy")
    return {
        "scores": {
            domain: {
                name: {shown: side[domain][key] for shown, key in FIGURES.items()}
                for name, side in sides.items()
            }
            for domain in DOMAINS
        },
        "recovery": gained.value,
        "recovery_se": gained.se,
        "flops": sum(found.flops.values()),
        "flops_student_alone": found.flops[found.run.recipe.output],
        "seconds": found.seconds,
        "steps": {stage.name: found.summaries[stage.name]["steps"] for stage in found.run.recipe.stages},
    }
