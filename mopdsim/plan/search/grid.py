"""How many steps to try: halvings of what would use up all that the limits allow.

Leaves out: how steps are shared among teachers (`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mopdsim.base.errors import InfeasibleError
from mopdsim.facts.model import title
from mopdsim.plan.search.candidate import Plan
from mopdsim.plan.search.evaluation import Evaluator
from mopdsim.plan.search.moves import LEAST_STEPS

RL_HALVINGS, DISTILL_HALVINGS = 8, 7


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Total RL steps and distillation steps to try, most first."""

    rl: list[int]
    distill: list[int]


def grid(evaluator: Evaluator) -> Grid:
    """Halvings of the steps that would use up all that the limits allow. InfeasibleError where not one step fits.

    The evaluator is one of its own, for what is tried here may be of a family that the question leaves out.
    """
    question = evaluator.question
    domains, pool = question.domains, question.pool
    step, student_step = 64, 64
    mixed = Plan(family="mixed_rl", groups=(domains,), rl_steps=(step,), gpus=pool, student_gpus=pool)
    one = Plan(
        family="mopd",
        groups=(domains,),
        rl_steps=(step,),
        distill_steps=student_step,
        gpus=pool,
        student_gpus=pool,
    )
    alone, taught = (outcome.median["gpu_hours"] for outcome in evaluator.evaluate([mixed, one]))
    if not math.isfinite(taught):
        raise InfeasibleError(
            f"{title(question.base.model)} does not fit on {pool} x {question.base.gpu} for these domains: give more "
            "GPUs, a GPU with more memory or a smaller model"
        )
    hours = question.most_gpu_hours
    return Grid(
        rl=_halvings(hours / alone * step, RL_HALVINGS),
        distill=_halvings(hours / max(taught - alone, alone / 100) * student_step / 2, DISTILL_HALVINGS),
    )


def _halvings(most: float, count: int) -> list[int]:
    return list(dict.fromkeys(max(LEAST_STEPS, round(min(most, 1e6) / 2**place)) for place in range(count)))
