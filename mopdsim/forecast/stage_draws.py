"""What each stage of a scenario runs on and spends: machine and bill, and in every draw length, effort and seconds.

The planner's search calls the same functions with many numbers of steps at once. Where a source gives a range of what a
stage spends (steps, batch, length), that is a lognormal through its P10 and P90: a bill is computed once, at the
recipe's amounts and the range's middle length; seconds, FLOPs and tokens are then taken in proportion to the amounts
and, as for every stage, to the power of the length that the bill found. A stage that nobody gives a number of GPUs
takes the fewest that doublings are worth (`with_gpus`). Axes: C candidate, N draw. Leaves out: central costs
(`mopdsim.cost.stage_cost`), what the effort brings (`mopdsim.quality.walk`), when a stage runs
(`mopdsim.forecast.schedule`); ceilings of FLOPs; best-of-n and group sizes in the quality model, which keep the
recipe's own rollouts_per_prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration, sample, standard_normal
from mopdsim.cost.rlstep import Overlap
from mopdsim.cost.stage_cost import Bill, batch_of, bill, bill_together, seconds_after
from mopdsim.cost.stage_seconds import Machine, step_flops, waiting_share
from mopdsim.facts.domains import Estimate, domains
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.schedule import stretched
from mopdsim.quality.learning import learnt
from mopdsim.quality.step import Effort
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.stage import BASE, SMALLER, Amounts, AnyStage, Distill, Merge, Rl, SpendingStage

Steps = NDArray[np.int64] | int  # (C,), or one number

_BILLION = 1e9
# updates behind, `lag` more where generation never waits
STALENESS: Mapping[Overlap, float] = {"synchronous": 0.0, "one_step_off": 1.0, "asynchronous": 1.0}
_MACHINE = (  # keys that a scenario and its stages' machine share
    "overlap", "trainer_share", "lag", "lora", "packed", "evaluations", "epochs", "sampled_per_trained",
    "environment_slots", "precision", "speculative_factor",
)  # fmt: skip
STUDIED = "tiny"  # the model that the studies of scope "tiny" train


def world_of(scenario: Scenario, calibration: Calibration) -> World:
    """The scenario's worlds, a smaller model's too where the recipe has one. Sizes are total parameters."""
    roots = scenario.recipe.roots
    sizes = {root: model(scenario.model_of(root)).total_parameters / _BILLION for root in roots}
    world = draw_world(
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
    if scenario.specialists:
        world = learnt(
            world,
            scenario.specialists,
            active_parameters=model(scenario.model_of(BASE)).active_parameters,
            usual=scenario.recipe.amounts_name,
        )
    return world if scenario.conflict_shift is None else world.shifted(conflict=scenario.conflict_shift)


def conflicts_of(scenario: Scenario, calibration: Calibration) -> dict[str, Estimate]:
    """What is known of K by pair "source>target": the scenario's own or the calibration's, with its shift."""
    rows, given, shift = scenario.domains, scenario.pairs, scenario.conflict_shift or 0.0
    found = {}
    for source, target in permutations(rows, 2):
        pair = f"{source}>{target}"
        known = given.get(pair) or calibration.pair("conflict", rows[source], rows[target], scenario.scope)
        found[pair] = replace(known, value=known.value + shift)
    return found


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
        teacher=None if other is None else model(scenario.model_of(other)),
        stack=scenario.software,
        value_model=None if scenario.value_model is None else model(scenario.value_model),
        **{key: getattr(scenario, key) for key in _MACHINE},
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
            response_tokens=central_length(scenario, stage.name),
        )
    except InfeasibleError as error:
        whole = scenario.pools[scenario.pool(stage.name)]
        raise InfeasibleError(
            f"stage {stage.name!r} has {gpus} of its pool's {whole} GPUs: {error}"
        ) from None


def taken_gpus(scenario: Scenario, stage: AnyStage, found: Bill) -> int:
    """GPUs that a stage with this bill takes from its pool: all, or where other stages may fill its waiting, the share
    of its step in which they are busy, at least half (two stages share, and switching costs nothing)."""
    if not scenario.fill_idle or found.batch is None:
        return found.gpus
    waiting = waiting_share(found.batch, machine_of(scenario, stage), found.gpus)
    return math.ceil(found.gpus * max(1.0 - waiting, 0.5))


def bills_of(scenario: Scenario) -> dict[str, Bill]:
    """Every stage's central costs on the GPUs that the scenario gives it."""
    gpus_of = {name: scenario.stage_gpus(name) for name in scenario.recipe.stage}
    time_steps(scenario, gpus_of)
    return {
        stage.name: bill_of(scenario, stage, gpus=gpus_of[stage.name]) for stage in scenario.recipe.stages
    }


def time_steps(scenario: Scenario, gpus_of: Mapping[str, int]) -> None:
    """Works out the steps of these stages on so many GPUs side by side, so that `bill_of` each is fast."""
    alike: dict[tuple[Machine, int], list[tuple[SpendingStage, Amounts, float | None]]] = {}
    for name, gpus in gpus_of.items():
        stage = scenario.recipe.stage[name]
        if not isinstance(stage, Merge):
            own = scenario.recipe.amounts[name], central_length(scenario, name)
            alike.setdefault((machine_of(scenario, stage), gpus), []).append((stage, *own))
    for (machine, gpus), stages in alike.items():
        bill_together(stages, scenario.domains, machine, gpus=gpus)


def length_of(scenario: Scenario, found: Bill, world: World) -> Array:
    """A stage's mean response length in each draw, relative to its bill's: by its own range or its domains'. (N,)"""
    own = scenario.range_of(found.name, "response_tokens")
    if own is not None:
        return drawn(scenario, own, f"ranges:{found.name}.response_tokens") / math.sqrt(own[0] * own[1])
    if not found.shares:
        return np.ones(world.start_DN.shape[-1])
    lengths_N = sum(share * world.length_DN[world.index[name]] for name, share in found.shares.items())
    return np.asarray(lengths_N) / found.mean_length


def effort_of(
    scenario: Scenario,
    stage: AnyStage,
    amounts: Amounts | None,
    machine: Machine,
    steps_C: Steps,
    constants: Mapping[str, Array],
) -> Effort:
    """What a stage learns from, (C, N), or (N,) for one number of steps: the FLOPs of sampling and gradient per active
    parameter, and gradient tokens, in proportion to the amounts.

    Learning follows updates and the samples they train on. Scoring passes (a KL term, old log-probabilities, values)
    and whatever else is only spent are no part of it. Nor is length: answers count as long as those of the domains'
    table, since C_mid and D_d are stated for those. Samples drawn by older weights than they train count for less.
    """
    if isinstance(stage, Merge) or amounts is None:
        return Effort(compute_N=np.zeros(scenario.draws), tokens_N=np.zeros(scenario.draws))
    usual = {name: domains()[scenario.domains[name].row] for name in stage.domains}
    batch = batch_of(stage, amounts, usual, overlapped=False)
    flops = step_flops(batch, machine)
    relative_N = fresh(scenario.overlap, stage, constants, lag=scenario.lag) * relative_amount(
        scenario, stage.name
    )
    steps_CN = np.asarray(steps_C, dtype=float)[..., None] * relative_N
    return Effort(
        compute_N=steps_CN * ((flops["generation"] + flops["training"]) / machine.model.active_parameters),
        tokens_N=steps_CN * (batch.trained_sequences * batch.response_tokens),
    )


def fresh(overlap: Overlap, stage: AnyStage, constants: Mapping[str, Array], *, lag: int = 1) -> Array:
    """What stale samples are worth beside fresh ones, (N,): exp(-c s), s the updates between sampling and training: of
    overlapped generation, `lag` steps behind where it never waits, and of the later updates on one batch."""
    behind = STALENESS[overlap] + (lag if overlap == "asynchronous" else 0)
    if isinstance(stage, Rl):
        stale = behind + (stage.updates_per_batch - 1) / 2
    else:
        stale = behind if isinstance(stage, Distill) and stage.on_policy else 0.0
    return np.asarray(np.exp(-np.ravel(constants["staleness_cost"]) * stale))


def seconds_of(
    scenario: Scenario,
    names: Sequence[str],
    bills: Sequence[Bill],
    steps_C: Sequence[int],
    relative_length_CN: Array,
) -> Array:
    """Seconds of stages, each by its name and bill after so many steps, with their draws: amounts, lengths, overhead
    and the time model's error (both common to all stages), failures, reruns. (C, N)"""
    noise_N = standard_normal("time_model", scenario.seed, scenario.draws)
    amounts_CN = np.stack([relative_amount(scenario, name) for name in names])
    seconds_CN = seconds_after(bills, steps_C, relative_length_CN, noise_N, amounts_CN)
    gpus_C = [found.gpus for found in bills]
    return stretched(
        names, seconds_CN * overhead_of(scenario), gpus_C, scenario.reliability, seed=scenario.seed
    )


WORTH_DOUBLING = 1.25  # times as fast that twice the GPUs should at least be


def with_gpus(scenario: Scenario) -> Scenario:
    """The scenario with a number of GPUs for each stage that should not have its whole pool.

    From its whole pool downwards a stage is halved as long as twice the GPUs would gain it less than `WORTH_DOUBLING`
    times the speed: beyond that one mostly pays more. Half of a pool is another team's, or stands idle. A recipe of one
    stage keeps its pool, whose size is then that stage's own. Deadlines play no part, nor what other stages want.
    """
    stages = [stage for stage in scenario.recipe.stages if not isinstance(stage, Merge)]
    if scenario.gpus_per_stage is not None or len(stages) < 2 or gpu(scenario.gpu).is_cpu:
        return scenario
    halved = [stage for stage in stages if stage.name not in scenario.gpus_of]
    chosen = {stage.name: scenario.stage_gpus(stage.name) for stage in halved}
    while halved:
        for share in (1, 2):  # all of them at once: that is faster
            time_steps(scenario, {stage.name: max(chosen[stage.name] // share, 1) for stage in halved})
        halved = [
            stage
            for stage in halved
            if gain_of_doubling(scenario, stage, chosen[stage.name]) < WORTH_DOUBLING
        ]
        chosen |= {stage.name: chosen[stage.name] // 2 for stage in halved}
    return replace(scenario, gpus_of={**chosen, **scenario.gpus_of})


def gain_of_doubling(scenario: Scenario, stage: AnyStage, gpus: int) -> float:
    """Times as fast as on half of so many GPUs; infinite where half are too few."""
    if gpus < 2:
        return float("inf")
    try:
        few, many = (bill_of(scenario, stage, gpus=number) for number in (gpus // 2, gpus))
    except InfeasibleError:
        return float("inf")
    return sum(few.seconds.values()) / sum(many.seconds.values())


PROJECT_LOG_SD = 0.15  # of a project's half-normal log overhead; tests, reruns and failures are apart; prior
_AMOUNTS = ("steps", "prompts_per_step", "rollouts_per_prompt")


def central_length(scenario: Scenario, stage: str) -> float | None:
    """A stage's own mean response length, None where its domains' holds."""
    ends = scenario.range_of(stage, "response_tokens")
    return None if ends is None else math.sqrt(ends[0] * ends[1])


def relative_amount(scenario: Scenario, stage: str) -> Array:
    """What a stage spends in each draw, relative to the recipe's amounts. (N,)"""
    relative_N = np.ones(scenario.draws)
    for key in _AMOUNTS:
        ends = scenario.range_of(stage, key)
        if ends is not None:
            central = getattr(scenario.recipe.amounts[stage], key)
            relative_N = relative_N * drawn(scenario, ends, f"ranges:{stage}.{key}") / central
    return relative_N


def overhead_of(scenario: Scenario) -> Array:
    """One factor on all seconds: what a whole project spends beyond its planned steps on restarts, debugging and tests,
    never below 1, where the scenario gives none; 1 on a CPU, whose runs are this trainer's own. (N,)"""
    if scenario.overhead is not None:
        return drawn(scenario, scenario.overhead, "overhead")
    if gpu(scenario.gpu).is_cpu:
        return np.ones(scenario.draws)
    return project_overhead(scenario.seed, scenario.draws)


def project_overhead(seed: int, draws: int) -> Array:
    """A project's factor where nothing is known of it: half-normal in log. (N,)"""
    return np.exp(PROJECT_LOG_SD * np.abs(standard_normal("overhead", seed, draws)))


def drawn(scenario: Scenario, ends: tuple[float, float], key: str) -> Array:
    """Draws of a lognormal through P10 and P90. (N,)"""
    middle = Estimate.times(*ends, grade="prior", source=key)
    return sample(middle, "lognormal", key, seed=scenario.seed, draws=scenario.draws)
