"""The demo's recipes on the real model, each of the same training FLOPs, teachers counted.

Merging has nothing to spend a distillation's share on but its specialists, so each of them trains on for a part of it.
Leaves out: which domains, and how they are run (`studies.designs.systems.demo`, `studies.designs.skill.real`).
"""

from __future__ import annotations

from collections.abc import Sequence

from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import assemble, specialists_of
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts, AnyStage, Merge, Rl, default_amounts
from studies.designs.builders import MERGE_SCALE, spending

TEACHER_FLOPS = 3.5e12
DISTILL_FLOPS = 15e12
OFF_POLICY = {"prompts_per_step": 16, "rollouts_per_prompt": 4, "learning_rate": 1e-4}  # as it did best
UNBOUNDED = 10_000  # steps, where FLOPs end a stage


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
