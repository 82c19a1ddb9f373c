"""Quality: a walk through a recipe's DAG that gives each stage's pass rate on every domain, in every draw.

RL climbs a domain's curve from where the score lies, q = q0 + (A - q0) / (1 + (C_mid / C)^B) (ScaleRL
2510.13786), so that a run cut in two ends where the uncut run ends. Trained together, domains share the
compute (effective share) and scale each other's gain in logits by rho = exp(kbar), and C_mid by exp(-phi
kbar). A FLOP counts for more at a higher rate and a smaller batch (`mopdsim.quality.pace`). Distillation closes
the gap to the cap exponentially in gradient tokens; the cap is the own teacher's score, raised by what the other
teachers gained there. Everything stays in [0, 1]. A reward model in the verifier's place wins a share of the gain and
can be over-optimised; chosen samples are the target of the fine-tuning that reads them. The `waterfall` splits a
score's distance from its root into causes that add up.
Leaves out: schedules, lengths that drift (they act through C and D only), hacking of verifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from mopdsim.interference import Array
from mopdsim.quality.distillation import distill
from mopdsim.quality.feedback import Dataset, Judge, choose, prefer, train_judge
from mopdsim.quality.learning import climb, hill, imitate, learn_by_reward, merge
from mopdsim.quality.pace import paced
from mopdsim.quality.step import CAUSES, Cause, Effort, State, Step
from mopdsim.recipe import Distill, Merge, Preference, Recipe, RejectionSampling, RewardModel, Rl, Sft
from mopdsim.world import World

__all__ = [
    "CAUSES", "Cause", "Dataset", "Effort", "Judge", "Products", "State", "climb", "hill", "paced", "products", "walk",
]  # fmt: skip

_NOTHING = Effort(compute_N=np.zeros(1), tokens_N=np.zeros(1))


@dataclass(frozen=True, kw_only=True)
class Products:
    """What the stages of a recipe leave, by name: policies (roots included), reward models and datasets."""

    states: Mapping[str, State]
    judges: Mapping[str, Judge]
    datasets: Mapping[str, Dataset]


def walk(
    recipe: Recipe, world: World, efforts: Mapping[str, Effort], *, explain: bool = True
) -> Mapping[str, State]:
    """The policy after every stage that leaves one, roots included: `products` without judges and datasets."""
    return products(recipe, world, efforts, explain=explain).states


def products(
    recipe: Recipe, world: World, efforts: Mapping[str, Effort], *, explain: bool = True
) -> Products:
    """What every stage leaves. `efforts` names every stage that spends anything.

    Efforts may carry axes before the draws (candidates), (..., N), against which a world whose arrays have an
    axis of one there, (D, 1, N), is broadcast.
    """
    shape = np.broadcast_shapes(
        world.start_DN.shape[1:], *(effort.compute_N.shape for effort in efforts.values())
    )
    states = {root: _root(root, world, shape, explain) for root in recipe.roots}
    judges: dict[str, Judge] = {}
    datasets: dict[str, Dataset] = {}
    for stage in recipe.stages:
        step = Step(stage, states, world)
        effort = efforts.get(stage.name, _NOTHING)
        if not isinstance(stage, Merge):
            amounts = recipe.amounts[stage.name]
            effort = paced(effort, amounts, recipe.amounts_name, stage.kind, step.world.constants)
        match stage:
            case Rl():
                kl_N = learn_by_reward(stage, step, effort, judges)
            case Sft():
                kl_N = imitate(stage, step, effort, datasets)
            case Distill():
                kl_N = distill(stage, step, effort, states)
            case Merge():
                kl_N = merge(stage, step, states)
            case Preference():
                kl_N = prefer(stage, step, effort, judges)
            case RewardModel():
                rollouts = recipe.amounts[stage.name].rollouts_per_prompt
                judges[stage.name] = train_judge(stage, step, effort, rollouts)
                continue
            case RejectionSampling():
                rollouts = recipe.amounts[stage.name].rollouts_per_prompt
                datasets[stage.name] = choose(stage, step, rollouts, judges)
                continue
            case _:
                assert_never(stage)
        states[stage.name] = step.finish(kl_N)
    return Products(states=states, judges=judges, datasets=datasets)


def _root(root: str, world: World, shape: tuple[int, ...], explain: bool) -> State:
    """The model a recipe is run on, before any stage."""
    start_DN = np.broadcast_to(world.of(root).start_DN, (len(world.names), *shape))
    causes: dict[Cause, Array] | None = (
        {cause: np.zeros_like(start_DN) for cause in CAUSES} if explain else None
    )
    return State(root=root, score_DN=start_DN, kl_N=np.zeros(shape), lineage=(), waterfall=causes)
