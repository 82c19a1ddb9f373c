"""Many candidates of one recipe at once: the forecast's numbers as arrays, for a planner that tries
thousands.

A candidate chooses the steps of every stage and, from a short list, its number of GPUs. Costs come from bills
tabulated once per stage and number of GPUs; quality and schedule are the forecast's own functions on arrays
with a candidate axis, so a candidate equals the forecast of its scenario to rounding (tested).
Axes: C candidate, J stage (the recipe's order), D domain, N draw, S slot of the pool.
Leaves out: recipes of different structure (one `Table` each), several pools, ceilings of FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.belief.calibration import Calibration, default_calibration, standard_normal
from mopdsim.cost.stage_cost import Bill
from mopdsim.facts.hardware import gpu
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.schedule import needs_of, poisson, runs, slot_gpus
from mopdsim.forecast.stage_draws import bill_of, machine_of, relative_length, world_of
from mopdsim.quality.walk import Effort, walk
from mopdsim.quality.world import World
from mopdsim.recipes.recipe import AnyStage

Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What candidates come to. fits_C: every stage fits its GPUs; where it does not, hours and days are
    infinite.
    """

    scores_DCN: Array
    gpu_hours_CN: Array
    usd_CN: Array
    days_CN: Array
    fits_C: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One structure, ready to evaluate candidates. options: the numbers of GPUs a stage may be given.

    Per step and by (stage, option): seconds, seconds at twice the length, seconds that do not grow with
    steps, standard deviation of the log error. compute_J: FLOPs per active parameter of a step; tokens_J:
    gradient tokens.
    """

    scenario: Scenario
    options: tuple[int, ...]
    world: World
    step_s_JO: Array
    longer_s_JO: Array
    once_s_JO: Array
    log_sd_JO: Array
    gpus_JO: Array
    compute_J: Array
    tokens_J: Array
    length_JN: Array
    usd_per_gpu_hour: float

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Stages in the recipe's order: axis J."""
        return tuple(self.scenario.recipe.stage)

    @cached_property
    def steps_J(self) -> Whole:
        """The recipe's own steps (1 for a merge)."""
        amounts = self.scenario.recipe.amounts
        return np.array([amounts[name].steps if name in amounts else 1 for name in self.names])

    def evaluate(self, steps_CJ: Whole, option_CJ: Whole) -> Evaluation:
        """Scores, hours, money and days of candidates: steps of each stage, and an index into `options`."""
        scenario = self.scenario
        if steps_CJ.shape != option_CJ.shape or steps_CJ.shape[1:] != (len(self.names),):
            raise UsageError(
                f"candidates of shape {steps_CJ.shape} and {option_CJ.shape}: both must be (candidates, "
                f"{len(self.names)} stages)"
            )
        seconds_JCN = np.stack(
            [self._seconds(place, steps_CJ, option_CJ) for place in range(len(self.names))]
        )
        stages = np.arange(len(self.names))
        gpus_CJ = self.gpus_JO[stages, option_CJ]
        hours_CN = np.einsum("jcn,cj->cn", seconds_JCN, gpus_CJ) / HOUR
        efforts = {
            name: Effort(
                compute_N=steps_CJ[:, place, None] * (self.compute_J[place] * self.length_JN[place]),
                tokens_N=steps_CJ[:, place, None] * (self.tokens_J[place] * self.length_JN[place]),
            )
            for place, name in enumerate(self.names)
        }
        final = walk(scenario.recipe, self.world, efforts, explain=False)[scenario.recipe.output]
        return Evaluation(
            scores_DCN=final.score_DN,
            gpu_hours_CN=hours_CN,
            usd_CN=hours_CN * self.usd_per_gpu_hour,
            days_CN=self._makespan(seconds_JCN, gpus_CJ) / DAY,
            fits_C=np.isfinite(hours_CN).all(axis=1),
        )

    def _seconds(self, place: int, steps_CJ: Whole, option_CJ: Whole) -> Array:
        """Seconds of one stage with sweeps, reruns and failures, (C, N)."""
        scenario, reliability = self.scenario, self.scenario.reliability
        name, steps_C, option_C = self.names[place], steps_CJ[:, place], option_CJ[:, place]
        once_C = self.once_s_JO[place, option_C]
        total_C = once_C + steps_C * self.step_s_JO[place, option_C]
        with np.errstate(invalid="ignore"):
            power_C = np.log2((once_C + steps_C * self.longer_s_JO[place, option_C]) / total_C)
        noise_N = standard_normal("time_model", scenario.seed, scenario.draws)
        growth_CN = np.exp(
            np.nan_to_num(power_C)[:, None] * np.log(self.length_JN[place])
            + self.log_sd_JO[place, option_C][:, None] * noise_N
        )
        work_CN = total_C[:, None] * growth_CN * runs(name, reliability, scenario.seed, scenario.draws)
        gpus_C = self.gpus_JO[place, option_C]
        expected_CN = work_CN / HOUR * gpus_C[:, None] * reliability.failures_per_gpu_hour
        failures_CN = poisson(
            f"failures:{name}", np.where(np.isfinite(expected_CN), expected_CN, 0.0), scenario.seed
        )
        return work_CN + failures_CN * reliability.seconds_per_failure

    @cached_property
    def _parents_JJ(self) -> NDArray[np.bool_]:
        """[child, parent]"""
        names = self.names
        return np.array(
            [[other in needs_of(self.scenario.recipe, name) for other in names] for name in names]
        )

    def _order(self, seconds_JCN: Array) -> Whole:
        """Stages in the order of placing, by candidate: priority, then the longest remaining path. (C, J)"""
        medians_JC = np.median(seconds_JCN, axis=2) if seconds_JCN.shape[2] > 1 else seconds_JCN[:, :, 0]
        tail_JC = np.zeros_like(medians_JC)
        for place in range(len(self.names) - 1, -1, -1):
            children = np.flatnonzero(self._parents_JJ[:, place])
            longest_C = tail_JC[children].max(axis=0) if len(children) else 0.0
            tail_JC[place] = medians_JC[place] + longest_C
        priority_J = np.array([self.scenario.priority.get(name, 0.0) for name in self.names])
        if not priority_J.any():
            return np.argsort(-tail_JC.T, axis=1, kind="stable")
        ready_CJ = np.zeros(tail_JC.T.shape, dtype=bool)
        order_CJ = np.zeros(tail_JC.T.shape, dtype=np.int64)
        candidates = np.arange(len(order_CJ))
        for turn in range(len(self.names)):
            open_CJ = ~ready_CJ & ((ready_CJ[:, None, :] | ~self._parents_JJ).all(axis=2))
            best_CJ = open_CJ & (
                priority_J == np.where(open_CJ, priority_J, -np.inf).max(axis=1, keepdims=True)
            )
            order_CJ[:, turn] = np.where(best_CJ, tail_JC.T, -np.inf).argmax(axis=1)
            ready_CJ[candidates, order_CJ[:, turn]] = True
        return order_CJ

    def _makespan(self, seconds_JCN: Array, gpus_CJ: Array) -> Array:
        """List scheduling of all candidates side by side: seconds until the last stage ends, (C, N)."""
        count, draws = seconds_JCN.shape[1:]
        order_CJ, candidates = self._order(seconds_JCN), np.arange(count)
        pool = next(iter(self.scenario.pools.values()))
        unit = slot_gpus(pool, [int(gpus) for gpus in np.unique(self.gpus_JO)])
        slots_CJ = np.minimum(-(-gpus_CJ.astype(np.int64) // unit), pool // unit)
        free_CNS = np.zeros((count, draws, pool // unit))
        teams = self.scenario.teams
        idle_CNS = None if teams is None or teams >= len(self.names) else np.zeros((count, draws, teams))
        ends_JCN = np.zeros_like(seconds_JCN)
        for turn in range(len(self.names)):
            stage_C = order_CJ[:, turn]
            start_CN = np.where(self._parents_JJ[stage_C].T[:, :, None], ends_JCN, 0.0).max(axis=0)
            slots_C = slots_CJ[candidates, stage_C]
            last = np.broadcast_to((slots_C - 1)[:, None, None], (count, draws, 1))
            start_CN = np.maximum(start_CN, np.take_along_axis(free_CNS, last, axis=2)[:, :, 0])
            if idle_CNS is not None:
                start_CN = np.maximum(start_CN, idle_CNS[:, :, 0])
            end_CN = start_CN + seconds_JCN[stage_C, candidates]
            ends_JCN[stage_C, candidates] = end_CN
            taken_CS = np.arange(free_CNS.shape[2]) < slots_C[:, None]
            free_CNS = np.sort(np.where(taken_CS[:, None, :], end_CN[:, :, None], free_CNS), axis=2)
            if idle_CNS is not None:
                idle_CNS[:, :, 0] = end_CN
                idle_CNS.sort(axis=2)
        return ends_JCN.max(axis=0)


def tabulate(
    scenario: Scenario, options: Sequence[int] | None = None, calibration: Calibration | None = None
) -> Table:
    """The table of a scenario with one pool. `options`: numbers of GPUs of a stage, none above the pool's."""
    if len(scenario.pools) != 1:
        raise UsageError(f"{len(scenario.pools)} pools: the search knows one; give gpus instead of pools")
    pool = next(iter(scenario.pools.values()))
    options = tuple(options or (pool,))
    if not all(1 <= option <= pool for option in options):
        raise UsageError(f"options {options}: each must be from 1 to the pool's {pool} GPUs")
    if scenario.ranges or scenario.overhead is not None:
        given = next(iter(scenario.ranges), "overhead")
        raise UsageError(
            f"{given} is a range: the search varies amounts itself; state them and remove the range"
        )
    recipe = scenario.recipe
    world = world_of(scenario, calibration or default_calibration())
    bills = [[_bill(scenario, stage, option) for option in options] for stage in recipe.stages]
    first = [next((found for found in row if found is not None), None) for row in bills]
    for stage, found in zip(recipe.stages, first, strict=True):
        if found is None:  # says which stage fits nowhere, and by how much
            bill_of(scenario, stage, gpus=max(options))
    known = [found for found in first if found is not None]
    per_step = np.array([[_by_growth(found) for found in row] for row in bills])
    return Table(
        scenario=scenario,
        options=options,
        world=_with_candidates(world),
        step_s_JO=per_step[:, :, 0],
        longer_s_JO=per_step[:, :, 1],
        once_s_JO=per_step[:, :, 2],
        log_sd_JO=np.array([[0.0 if found is None else found.log_sd for found in row] for row in bills]),
        gpus_JO=np.array(
            [
                [option if found is None else found.gpus for option, found in zip(options, row, strict=True)]
                for row in bills
            ]
        ),
        compute_J=np.array(
            [
                found.training_run_flops / found.steps / machine_of(scenario, stage).model.active_parameters
                for stage, found in zip(recipe.stages, known, strict=True)
            ]
        ),
        tokens_J=np.array([found.gradient_tokens / found.steps for found in known]),
        length_JN=np.stack([relative_length(found, world) for found in known]),
        usd_per_gpu_hour=scenario.usd_per_gpu_hour or gpu(scenario.gpu).usd_per_gpu_hour,
    )


def _bill(scenario: Scenario, stage: AnyStage, gpus: int) -> Bill | None:
    """A stage's bill on so many GPUs; None where it does not fit."""
    amounts = scenario.recipe.amounts.get(stage.name)
    if amounts is not None and amounts.max_flops is not None:
        raise UsageError(
            f"stage {stage.name!r} ends at max_flops: the search varies steps; remove the ceiling"
        )
    try:
        return bill_of(scenario, stage, gpus=gpus)
    except InfeasibleError:
        return None


def _by_growth(found: Bill | None) -> tuple[float, float, float]:
    """Seconds of a step, of a step with twice the length, and of what does not grow with steps."""
    if found is None:
        return math.inf, math.inf, math.inf
    total, once = sum(found.seconds.values()), found.once_seconds
    return (total - once) / found.steps, (found.longer_seconds - once) / found.steps, once


def _with_candidates(world: World) -> World:
    """The world with an axis of one for candidates before the draws."""
    arrays = {
        field.name: getattr(world, field.name)[..., None, :]
        for field in fields(World)
        if field.name.endswith("N")
    }
    spread = {name: row[..., None, :] for name, row in world.spread.items()}
    smaller = None if world.smaller is None else _with_candidates(world.smaller)
    return replace(world, **arrays, spread=spread, smaller=smaller)
