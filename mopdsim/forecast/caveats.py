"""Where a forecast leaves what is known: one sentence each, the remedy included.

Leaves out: errors (a question that has no answer at all).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mopdsim.cost.constants import shipped
from mopdsim.cost.own_trainer import BFLOAT16
from mopdsim.cost.stage_cost import Bill
from mopdsim.facts.domains import Domain
from mopdsim.facts.hardware import WIDE, gpu
from mopdsim.facts.model import model, title
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import STUDIED, WORTH_DOUBLING, gain_of_doubling, relative_size
from mopdsim.quality.distillation import SIZES_B
from mopdsim.quality.step import Effort
from mopdsim.quality.world import World
from mopdsim.recipes.stage import (
    BOLD,
    ROOTS,
    SMALLER,
    Distill,
    RejectionSampling,
    RewardModel,
    Rl,
    default_amounts,
)

_KNOWN_TOGETHER = 3  # domains trained together in the studies that identify how conflict adds up
_STABLE_EXTRAPOLATION = 1.35
_SIZES_TRIED = 62.0  # times the parameters of the studied model: study `size_fresh`
_IDLE = 0.3  # of the reserved GPU-hours, from which on idle GPUs are warned of


def caveats(
    scenario: Scenario,
    domains: Mapping[str, Domain],
    efforts: Mapping[str, Effort],
    world: World,
    bills: Mapping[str, Bill],
    idle: float = 0.0,
) -> tuple[str, ...]:
    """What a reader must know before trusting the numbers. idle: share of the pools' GPU-hours that no stage takes."""
    return tuple([
        *_of_facts(scenario, domains),
        *_of_machine(scenario),
        *_of_small_pools(scenario),
        *_of_too_many_gpus(scenario, bills),
        *_of_idle_gpus(idle),
        *_of_recipe(scenario, efforts, world),
        *_of_judges(scenario),
        *_of_sizes(scenario, world),
        *_of_larger(scenario),
        *_of_bold_rates(scenario),
    ])  # fmt: skip


def _of_facts(scenario: Scenario, domains: Mapping[str, Domain]) -> Iterator[str]:
    unasked = [name for name, row in domains.items() if row.start.grade != "measured"]
    if unasked:
        yield (
            f"start scores of {', '.join(unasked)} are another model's or a prior: give this model's, "
            f"as in [domain.{unasked[0]}] start = {domains[unasked[0]].start.value:.2f}"
        )
    slow = [name for name, row in domains.items() if row.midpoint.grade == "prior"]
    if slow:
        yield (
            f"learning speeds of {', '.join(slow)} are priors over an order of magnitude: a pilot to 3 "
            "C_mid, given as midpoint = [P10, P90], narrows the scores most"
        )
    dialled = [name for name in domains if "?" in name]
    if dialled:
        yield (
            f"the options of {', '.join(dialled)} are not in the table: the plain domain's numbers are used"
        )
    if len({row.scope for row in domains.values()}) > 1:
        yield "domains of different scopes are mixed: no study supports how they act on each other"


def _of_machine(scenario: Scenario) -> Iterator[str]:
    device = gpu(scenario.gpu)
    if device.is_cpu:
        yield (
            "times on a CPU are this trainer's on two idle cores: expect a factor of 1.5 on others, more on busy ones"
        )
        if model(scenario.model).hidden >= WIDE and not scenario.model.startswith(STUDIED):
            yield (
                "times are of float32: where the processor multiplies bfloat16 a run computes in it, in about "
                f"{BFLOAT16:g} of the seconds, unless told `--dtype float32`"
            )
    else:
        fitted = shipped()["rl_steps"]
        for kind, name, known in (
            ("model", model(scenario.model).name, fitted.models),
            ("GPU", device.name, fitted.gpus),
        ):
            if name not in known:
                yield f"RL step times were never fitted on {kind} {name}: extrapolated, intervals are wider"
    if scenario.usd_per_gpu_hour is None and device.price_grade == "assumed":
        yield f"the price of {device.name} is assumed: give usd_per_gpu_hour"


def _of_small_pools(scenario: Scenario) -> Iterator[str]:
    """Pools that hold fewer GPUs than each stage was to take."""
    asked = scenario.gpus_per_stage or 0
    used = {scenario.pool(name) for name in scenario.recipe.stage.keys() - scenario.gpus_of.keys()}
    small = [
        f"{size} of pool {pool!r}" for pool, size in scenario.pools.items() if pool in used and size < asked
    ]
    if small:
        yield (
            f"gpus_per_stage = {asked}: there are {' and '.join(small)}, so stages there take these: lower it, or "
            "raise the pool"
        )


def _of_too_many_gpus(scenario: Scenario, bills: Mapping[str, Bill]) -> Iterator[str]:
    """Stages that half their GPUs would end nearly as soon, and stages that take less than their pool for that."""
    if gpu(scenario.gpu).is_cpu:
        return
    crowded, chosen = [], []
    for stage in scenario.recipe.stages:
        gpus = bills[stage.name].gpus
        gain = gain_of_doubling(scenario, stage, gpus)
        if gain < WORTH_DOUBLING:
            crowded.append((stage.name, gpus, gain))
            continue
        pool = scenario.pools[scenario.pool(stage.name)]
        if not {"gpus_of", "gpus_per_stage"} & scenario.stated and 1 < 2 * gpus <= pool:
            gain = gain_of_doubling(scenario, stage, 2 * gpus)
            if gain < WORTH_DOUBLING:
                chosen.append((stage.name, gpus, gain))
    if crowded:
        yield (
            f"GPUs of {_listed(crowded)}: twice the GPUs are only {_least(crowded):.2f} times as fast, so beyond half "
            "of them you mostly pay more: give gpus_per_stage or gpus_of"
        )
    if chosen:
        yield (
            f"GPUs of {_listed(chosen)}: less than the pool, since beyond these you mostly pay more (twice as many are "
            f"only {_least(chosen):.2f} times as fast): gpus_of changes it"
        )


def _listed(stages: list[tuple[str, int, float]]) -> str:
    return ", ".join(f"{name} ({gpus})" for name, gpus, _ in stages)


def _least(stages: list[tuple[str, int, float]]) -> float:
    return min(gain for _, _, gain in stages)


def _of_idle_gpus(idle: float) -> list[str]:
    if idle < _IDLE:
        return []
    return [
        f"{idle:.0%} of the pool's GPU-hours until the end are no stage's: whoever pays for the whole pool pays the "
        "reserved price; a smaller pool, more teams or gpus_of close the gap"
    ]


def _of_recipe(scenario: Scenario, efforts: Mapping[str, Effort], world: World) -> Iterator[str]:
    stages = scenario.recipe.stages
    short = [s.name for s in stages if isinstance(s, Rl) and _least_progress(s, efforts[s.name], world) < 1]
    if short:
        yield (
            f"RL ends before C_mid on a domain in {', '.join(short)}: the gain rests on the assumed speed, "
            "and a real run that short would not identify the asymptote"
        )
    crowded = [s.name for s in stages if isinstance(s, Rl) and len(s.domains) > _KNOWN_TOGETHER]
    if crowded:
        yield (
            f"more than {_KNOWN_TOGETHER} domains are trained together in {', '.join(crowded)}: how conflict "
            "adds up beyond that is a prior"
        )
    on_top = [s.name for s in stages if isinstance(s, Rl) and s.init not in ROOTS]
    if world.recovery and on_top:
        yield (
            f"{', '.join(on_top)} {'trains' if len(on_top) == 1 else 'train'} on from a trained model (a cascade, or a "
            "second round): not identified, since only 2606.30406 reports either and ranks cascades last; a wide prior"
        )
    far = [s.name for s in stages if isinstance(s, Distill) and s.extrapolation > _STABLE_EXTRAPOLATION]
    if far:
        yield (
            f"extrapolation above {_STABLE_EXTRAPOLATION:g} in {', '.join(far)}: 1.5 was unstable in ExOPD, "
            "and the forecast knows no such failure; stay near 1.25"
        )


def _of_judges(scenario: Scenario) -> Iterator[str]:
    stages = scenario.recipe.stages
    judges = [s.name for s in stages if isinstance(s, RewardModel)]
    if judges:
        yield (
            f"what {', '.join(judges)} {'wins' if len(judges) == 1 else 'win'} of the verifier's gain, and where that "
            "turns into over-optimisation, are priors over an order of magnitude: hold a check by verifiers or people"
        )
    free = [s.name for s in stages if isinstance(s, Rl) and s.reward_models and not s.kl_coefficient]
    if free:
        yield (
            f"nothing holds {', '.join(free)} to its start while a reward model judges: give it a kl_coefficient"
        )
    chosen = [s.name for s in stages if isinstance(s, RejectionSampling)]
    if chosen:
        yield (
            f"how much of a best-of-n's gain training on {', '.join(chosen)} brings is a prior: .12 to .42 of it"
        )


def _of_sizes(scenario: Scenario, world: World) -> Iterator[str]:
    if SMALLER not in scenario.recipe.roots:
        return
    unasked = [name for name in scenario.recipe.domains if name not in scenario.smaller_start]
    if unasked:
        yield (
            f"start scores of {scenario.smaller} on {', '.join(unasked)} follow from its size alone: give them, as in "
            f"[smaller_start] {unasked[0]} = [P10, P90]"
        )
    low, high = SIZES_B
    sizes = [size for size in world.sizes_b.values() if not low <= size <= high]
    if sizes:
        yield (
            f"the cap between {title(scenario.model)} and {scenario.smaller} was fitted from {low:g} to {high:g} "
            f"billion parameters: {', '.join(f'{size:.3g}' for size in sizes)} billion is extrapolated"
        )


def _of_larger(scenario: Scenario) -> Iterator[str]:
    """Of tiny domains on models of another size than the studied one."""
    ratio = relative_size(scenario)
    if ratio is None or ratio == 1:
        return
    if not ratio <= _SIZES_TRIED:
        yield (
            f"how size acts was measured up to {_SIZES_TRIED:g} times the parameters of {STUDIED!r}: "
            f"{title(scenario.model)} has {ratio:.3g} times as many"
        )
    usual = default_amounts("tiny", "rl").learning_rate
    rates = {
        s.name: scenario.recipe.amounts[s.name].learning_rate
        for s in scenario.recipe.stages
        if isinstance(s, Rl)
    }
    bold = [name for name, rate in rates.items() if rate > BOLD * usual]
    if ratio > 1 and bold:
        yield (
            f"{', '.join(bold)}: larger models broke at rates above {BOLD * usual:g} where the forecast saw no danger "
            "(studies size_again, size_fresh): try a lower learning_rate first"
        )


def _of_bold_rates(scenario: Scenario) -> Iterator[str]:
    """Of domains of small open models, where no breaking is modelled."""
    recipe = scenario.recipe
    if scenario.scope != "small" or recipe.amounts_name == "published":
        return
    bold = [
        s.name
        for s in recipe.stages
        if isinstance(s, Rl | Distill)
        and recipe.amounts[s.name].learning_rate
        > BOLD * default_amounts(recipe.amounts_name, s.kind).learning_rate
    ]
    if bold:
        yield (
            f"{', '.join(bold)}: the forecast does not know what a bold learning rate does here: on SmolLM2-135M four "
            "times the usual one brought more than foretold, sixteen times ruined the run (study breaking_real)"
        )


def _least_progress(stage: Rl, effort: Effort, world: World) -> float:
    """The least median C / C_mid among a stage's domains, at their share of the prompts."""
    total = sum(stage.domains.values())
    return min(
        share / total * float(np.median(effort.compute_N / world.midpoint_DN[world.index[name]]))
        for name, share in stage.domains.items()
    )
