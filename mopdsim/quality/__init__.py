"""Quality: a walk through a recipe's DAG that gives each stage's pass rate on every domain, in every draw.

RL climbs a domain's curve from where the score lies, q = q0 + (A - q0) / (1 + (C_mid / C)^B) (ScaleRL
2510.13786), so that a run cut in two ends where the uncut run ends. Trained together, domains share the
compute (effective share) and scale each other's gain in logits by rho = exp(kbar), and C_mid by exp(-phi
kbar). Distillation closes the gap to the cap exponentially in gradient tokens. Everything stays in [0, 1];
pure distillation never passes the better of its start and its cap. The `waterfall` splits a score's distance
from the base into causes that add up.
Leaves out: learning rates, batch sizes and lengths that drift (they act through C and D only), reward
hacking.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import numpy as np

from mopdsim.interference import Array
from mopdsim.quality.distillation import distill
from mopdsim.quality.learning import climb, hill, imitate, learn_by_reward, merge
from mopdsim.quality.step import CAUSES, Cause, Effort, State, Step
from mopdsim.recipe import BASE, Distill, Merge, Recipe, Rl, Sft
from mopdsim.world import World

__all__ = ["CAUSES", "Cause", "Effort", "State", "climb", "hill", "walk"]


def walk(
    recipe: Recipe, world: World, efforts: Mapping[str, Effort], *, explain: bool = True
) -> dict[str, State]:
    """The state after every stage, "base" included. `efforts` names every trained stage.

    Efforts may carry axes before the draws (candidates), (..., N), against which a world whose arrays have an
    axis of one there, (D, 1, N), is broadcast.
    """
    shape = np.broadcast_shapes(
        world.start_DN.shape[1:], *(effort.compute_N.shape for effort in efforts.values())
    )
    start_DN = np.broadcast_to(world.start_DN, (len(world.names), *shape))
    causes: dict[Cause, Array] | None = (
        {cause: np.zeros_like(start_DN) for cause in CAUSES} if explain else None
    )
    states = {BASE: State(score_DN=start_DN, kl_N=np.zeros(shape), lineage=(), waterfall=causes)}
    for stage in recipe.stages:
        step = Step(stage, states, world)
        match stage:
            case Rl():
                kl_N = learn_by_reward(stage, step, efforts[stage.name])
            case Sft():
                kl_N = imitate(stage, step, efforts[stage.name])
            case Distill():
                kl_N = distill(stage, step, efforts[stage.name], states)
            case Merge():
                kl_N = merge(stage, step, states)
            case _:
                assert_never(stage)
        states[stage.name] = step.finish(kl_N)
    return states
