"""Quality: a walk through a recipe's DAG that gives each stage's pass rate on every domain, in every draw.

RL climbs a domain's curve from where the score lies, q = q0 + (A - q0) / (1 + (C_mid / C)^B) (ScaleRL 2510.13786), so
that a run cut in two ends where the uncut run ends. Trained together, domains share the compute (effective share) and
scale each other's gain in logits by rho = exp(kbar). A FLOP counts for more at a higher rate and a smaller batch, and
a bold rate takes back (`mopdsim.quality.learning`). Distillation closes the gap to the cap exponentially in gradient
tokens; the cap is the own teacher's score, raised by what the other teachers gained there. Everything stays in [0, 1].
A reward model in the verifier's place wins a share of the gain and can be over-optimised; chosen samples are the
target of the fine-tuning that reads them. The `waterfall` splits a score's distance from its root into causes that add
up. K acts wherever domains meet in one model: trained together, distilled together, merged, or trained one after the
other. On rival domains no model passes their bound (`mopdsim.facts.domains`).
Leaves out: schedules, lengths that drift (they act through C and D only), hacking of verifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.quality.distillation import distill, merge
from mopdsim.quality.learning import (
    Dataset,
    Judge,
    break_down,
    broken,
    choose,
    imitate,
    learn_by_reward,
    paced,
    prefer,
    train_judge,
)
from mopdsim.quality.step import CAUSES, Cause, Effort, State, Step
from mopdsim.quality.world import World
from mopdsim.recipes import stage as kinds
from mopdsim.recipes.recipe import Recipe

_NOTHING = Effort(compute_N=np.zeros(1), tokens_N=np.zeros(1))


@dataclass(frozen=True, kw_only=True)
class Products:
    """What the stages of a recipe leave, by name: policies (roots included), reward models and datasets."""

    states: Mapping[str, State]
    judges: Mapping[str, Judge]
    datasets: Mapping[str, Dataset]


def walk(
    recipe: Recipe,
    world: World,
    efforts: Mapping[str, Effort],
    *,
    explain: bool = True,
    done: Mapping[str, State] | None = None,
) -> Mapping[str, State]:
    """The policy after every stage that leaves one, roots included: `products` without judges and datasets."""
    return products(recipe, world, efforts, explain=explain, done=done).states


def products(
    recipe: Recipe,
    world: World,
    efforts: Mapping[str, Effort],
    *,
    explain: bool = True,
    known: Mapping[str, Mapping[str, float]] | None = None,
    done: Mapping[str, State] | None = None,
) -> Products:
    """What every stage leaves. `efforts` names every stage that spends anything. known: scores that were measured, by
    stage and domain, from which the walk goes on. done: stages that are not walked again.

    Efforts may carry axes before the draws (candidates), (..., N), against which a world whose arrays have an
    axis of one there, (D, 1, N), is broadcast.
    """
    shape = np.broadcast_shapes(
        world.start_DN.shape[1:], *(effort.compute_N.shape for effort in efforts.values())
    )
    states = {root: _root(root, world, shape, explain) for root in recipe.roots}
    judges: dict[str, Judge] = {}
    datasets: dict[str, Dataset] = {}
    found = Products(states=states, judges=judges, datasets=datasets)
    for stage in recipe.stages:
        if done and stage.name in done:
            states[stage.name] = done[stage.name]
            continue
        own, effort = recipe.amounts.get(stage.name), efforts.get(stage.name, _NOTHING)
        match perform(stage, own, recipe.amounts_name, world, effort, found):
            case State() as state:
                states[stage.name] = _as_measured(state, world, (known or {}).get(stage.name, {}))
            case Judge() as judge:
                judges[stage.name] = judge
            case Dataset() as dataset:
                datasets[stage.name] = dataset
    return found


def perform(
    stage: kinds.AnyStage,
    own: kinds.Amounts | None,
    usual: kinds.AmountsName,
    world: World,
    effort: Effort,
    made: Products,
) -> State | Judge | Dataset:
    """What one stage leaves, given what those before it made. own: its amounts, None of a merge; usual: the set that
    they started from."""
    step = Step(stage, made.states, world)
    if isinstance(stage, kinds.Merge):
        return step.finish(merge(stage, step, made.states))
    assert own is not None  # a recipe has amounts of every other kind
    effort = paced(effort, own, usual, stage.kind, step.world.constants)
    match stage:
        case kinds.Rl():
            kl_N = learn_by_reward(stage, step, effort, made.judges, usual)
            break_down(step, broken(effort, own, usual, step.world.constants))
            return step.finish(kl_N)
        case kinds.Sft():
            return step.finish(imitate(stage, step, effort, made.datasets))
        case kinds.Distill():
            return step.finish(distill(stage, step, effort, made.states))
        case kinds.Preference():
            return step.finish(prefer(stage, step, effort, made.judges))
        case kinds.RewardModel():
            return train_judge(stage, step, effort, own.rollouts_per_prompt)
        case kinds.RejectionSampling():
            return choose(stage, step, own.rollouts_per_prompt, made.judges)
        case _:
            assert_never(stage)


def _as_measured(state: State, world: World, scores: Mapping[str, float]) -> State:
    """The state with these scores; what they differ by is booked as gain."""
    if not scores:
        return state
    score_DN = state.score_DN.copy()
    for name, score in scores.items():
        score_DN[world.index[name]] = score
    booked = state.waterfall
    if booked is not None:
        booked = {**booked, "gain": booked["gain"] + score_DN - state.score_DN}
    return replace(state, score_DN=score_DN, waterfall=booked)


def _root(root: str, world: World, shape: tuple[int, ...], explain: bool) -> State:
    """The model a recipe is run on, before any stage."""
    start_DN = np.broadcast_to(world.of(root).start_DN, (len(world.names), *shape))
    causes: dict[Cause, Array] | None = (
        {cause: np.zeros_like(start_DN) for cause in CAUSES} if explain else None
    )
    return State(root=root, score_DN=start_DN, kl_N=np.zeros(shape), lineage=(), waterfall=causes)
