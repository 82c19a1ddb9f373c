"""What each stage of a scenario runs on and spends: machine and bill, and in every draw length, effort and seconds.

Leaves out: central costs (`mopdsim.cost.stage_cost`), what the effort brings (`mopdsim.quality.walk`), when a stage
runs (`mopdsim.forecast.schedule`).
"""

from __future__ import annotations

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration, standard_normal
from mopdsim.cost.stage_cost import Bill, Machine, bill
from mopdsim.cost.stage_layout import Formats
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model
from mopdsim.forecast import ranges
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.schedule import Job, needs_of, stretched
from mopdsim.quality.walk import Effort
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.recipe import BASE, SMALLER, AnyStage, Distill

_BILLION = 1e9
STUDIED = "tiny"  # the model that the studies of scope "tiny" train


def world_of(scenario: Scenario, calibration: Calibration) -> World:
    """The scenario's worlds, a smaller model's too where the recipe has one. Sizes are total parameters."""
    roots = scenario.recipe.roots
    sizes = {root: model(scenario.model_of(root)).total_parameters / _BILLION for root in roots}
    return draw_world(
        calibration,
        scenario.domains,
        tuple(scenario.recipe.stage),
        scenario.scope,
        seed=scenario.seed,
        draws=scenario.draws,
        pairs=scenario.pairs,
        sizes_b=sizes if SMALLER in roots else None,
        smaller_starts=scenario.smaller_starts,
        relative_size=relative_size(scenario),
    )


def relative_size(scenario: Scenario) -> float | None:
    """Parameters of the scenario's base over those of the model that the studies of its scope trained; None where they
    trained many."""
    if scenario.scope != "tiny":
        return None
    return model(scenario.model_of(BASE)).active_parameters / model(STUDIED).active_parameters


def machine_of(scenario: Scenario, stage: AnyStage) -> Machine:
    """What a stage runs on: the model its weights grew from, and its teachers' where that is another."""
    recipe = scenario.recipe
    root = recipe.root_of(stage.name)
    taught = (
        [recipe.root_of(teacher.stage) for teacher in stage.teachers] if isinstance(stage, Distill) else []
    )
    other = next((name for name in taught if name != root), None)
    return Machine(
        model=model(scenario.model_of(root)),
        gpu=gpu(scenario.gpu),
        overlap=scenario.overlap,
        teacher=None if other is None else model(scenario.model_of(other)),
        formats=Formats(precision=scenario.precision, speculative_factor=scenario.speculative_factor),
    )


def bill_of(scenario: Scenario, stage: AnyStage, *, gpus: int) -> Bill:
    """A stage's central costs on so many GPUs. InfeasibleError, with the pool's size too, where the model fits no
    layout on them."""
    try:
        return bill(
            stage,
            scenario.recipe.amounts.get(stage.name),
            scenario.domains,
            machine_of(scenario, stage),
            gpus=gpus,
            response_tokens=ranges.central_length(scenario, stage.name),
        )
    except InfeasibleError as error:
        whole = scenario.pools[scenario.pool(stage.name)]
        raise InfeasibleError(
            f"stage {stage.name!r} has {gpus} of its pool's {whole} GPUs: {error}"
        ) from None


def length_of(scenario: Scenario, found: Bill, world: World) -> Array:
    """A stage's mean response length in each draw, relative to its bill's: by its own range or its domains'. (N,)"""
    own_N = ranges.own_length(scenario, found.name)
    return relative_length(found, world) if own_N is None else own_N


def relative_length(found: Bill, world: World) -> Array:
    """The mean response length of a stage's domains in each draw, relative to the bill's. (N,)"""
    if not found.shares:
        return np.ones(world.start_DN.shape[-1])
    lengths_N = sum(share * world.length_DN[world.index[name]] for name, share in found.shares.items())
    return np.asarray(lengths_N) / found.mean_length


def effort_of(scenario: Scenario, found: Bill, relative_length_N: Array) -> Effort:
    """RL compute per active parameter and gradient tokens, both in proportion to the length and to the amounts."""
    stage = scenario.recipe.stage[found.name]
    per_parameter = found.training_run_flops / machine_of(scenario, stage).model.active_parameters
    relative_N = relative_length_N * ranges.relative_amount(scenario, found.name)
    return Effort(compute_N=per_parameter * relative_N, tokens_N=found.gradient_tokens * relative_N)


def job_of(scenario: Scenario, found: Bill, relative_length_N: Array) -> Job:
    """A stage's job with its draws: amounts, lengths, overhead and the time model's error (both common to all stages),
    failures, reruns.
    """
    noise_N = standard_normal("time_model", scenario.seed, scenario.draws)
    once = found.once_seconds / sum(found.seconds.values())
    grown_N = once + (1 - once) * ranges.relative_amount(scenario, found.name)
    job = Job(
        name=found.name,
        seconds_N=found.seconds_at(relative_length_N, noise_N) * grown_N * ranges.overhead(scenario),
        gpus=found.gpus,
        needs=needs_of(scenario.recipe, found.name),
        pool=scenario.pool(found.name),
        priority=scenario.priority.get(found.name, 0.0),
    )
    return stretched(job, scenario.reliability, seed=scenario.seed)
