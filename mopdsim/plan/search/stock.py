"""Pieces that many plans share: a teacher of some domains after so many steps, and the seconds of any stage.

A teacher that two plans share is trained once here. Scores come from the forecast's own walk through a recipe of that
one stage, seconds from its bill and its draws of failures and reruns, so that plans put together from pieces equal
their forecasts (tested). Axes: D domain, C candidate, N draw. Leaves out: putting them together
(`mopdsim.plan.search.assembled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration, default_calibration, standard_normal
from mopdsim.cost.stage_cost import Bill, bill
from mopdsim.forecast.forecast import HOUR
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.schedule import poisson
from mopdsim.forecast.schedule import runs as reruns
from mopdsim.forecast.stage_draws import machine_of, relative_length
from mopdsim.plan.question import Question
from mopdsim.plan.search.candidate import Group, Plan, scenario_of
from mopdsim.plan.search.tables import tabulate
from mopdsim.quality.distillation import mistaken, pull
from mopdsim.quality.walk import Effort, walk
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.parts import assemble, specialist
from mopdsim.recipes.recipe import AnyStage, Rl
from mopdsim.recipes.stage_fields import Normalizer

Run = tuple[str, Group, Normalizer, int]  # stage name, domains, normaliser, steps of one RL run

STUDENT = "student"  # the catalogue's name of a distillation


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What an RL run leaves: scores of all domains, (D, N), its pull on each as a companion, logits, the places of
    the domains that it trained, (S,), and nats a token from the base, (N,)."""

    score_DN: Array
    pull_DN: Array
    places: NDArray[np.intp]
    kl_N: Array


class Stock:
    """Memory of pieces, for one question."""

    def __init__(self, question: Question, calibration: Calibration | None = None) -> None:
        self.question = question
        self.calibration = calibration or default_calibration()
        self.domains = question.base.domains
        plain = simplest(question)
        self.machine = machine_of(plain, plain.recipe.stage[STUDENT])
        self.world = tabulate(plain, calibration=self.calibration).world
        self._trained: dict[Run, Trained] = {}
        self._run_seconds: dict[tuple[Run, int], Array | None] = {}
        self._bills: dict[tuple[str, Amounts | None, int], Bill | None] = {}

    def seeded(self, stages: tuple[str, ...]) -> World:
        """The world with what is drawn for these stages by name: the spread of seeds, (D, 1, N), and luck, (N,)."""
        base = self.question.base
        world = draw_world(
            self.calibration, self.domains, stages, base.scope, seed=base.seed, draws=base.draws
        )
        spread = {name: row_DN[:, None, :] for name, row_DN in world.spread.items()}
        return replace(self.world, spread=spread, luck=world.luck)

    def trained(self, run: Run) -> Trained:
        """A run's result; `prepare` must have been told of it."""
        return self._trained[run]

    def prepare(self, runs: Iterable[Run], gpus: int) -> None:
        """Trains and times on so many GPUs the runs that are not in stock, those of one group and normaliser side by
        side."""
        untrained: dict[tuple[str, Group, Normalizer], list[int]] = {}
        untimed: dict[tuple[str, Group, Normalizer], list[int]] = {}
        for run in dict.fromkeys(runs):
            if run not in self._trained:
                untrained.setdefault(run[:3], []).append(run[3])
            if (run, gpus) not in self._run_seconds:
                untimed.setdefault(run[:3], []).append(run[3])
        world = (
            self.seeded(tuple(dict.fromkeys(name for name, _, _ in untrained))) if untrained else self.world
        )
        for key, counts in untrained.items():
            self._train(run_stage(*key), counts, world, gpus)
        for key, counts in untimed.items():
            seconds_CN = self.seconds(run_stage(*key), self.question.amounts("rl", 1), np.array(counts), gpus)
            for place, count in enumerate(counts):
                found = None if seconds_CN is None else seconds_CN[place]
                self._run_seconds[(*key, count), gpus] = found

    def _train(self, stage: Rl, steps: Sequence[int], world: World, gpus: int) -> None:
        recipe = assemble("single_domain", self.question.domains, self.question.amounts_name, [stage])
        one_step = self.question.amounts("rl", 1)
        recipe = recipe.with_amounts({stage.name: one_step})
        effort = self.effort(stage, one_step, np.array(steps), gpus)
        state = walk(recipe, world, {stage.name: effort}, explain=False)[stage.name]
        kl_CN = np.broadcast_to(state.kl_N, effort.compute_N.shape)
        places = np.array([self.world.index[name] for name in stage.domains])
        mistaken_DCN = mistaken(self.world.spill_DDN[places])
        pull_DCN = pull(self.world.start_DN, state.score_DN, mistaken_DCN, self.world.constants)
        for place, count in enumerate(steps):
            run = (stage.name, tuple(stage.domains), stage.normalizer, count)
            self._trained[run] = Trained(
                score_DN=state.score_DN[:, place],
                pull_DN=pull_DCN[:, place],
                places=places,
                kl_N=kl_CN[place],
            )

    def effort(self, stage: AnyStage, one_step: Amounts, steps_C: Array, gpus: int) -> Effort:
        """What the stage spends after so many steps, (C, N); both grow with steps and with the draws' lengths. They do
        not depend on the GPUs: where a step does not fit on these, its bill is that on the whole pool."""
        found = self.step_bill(stage, one_step, gpus) or self.step_bill(stage, one_step, self.question.pool)
        if found is None:
            raise InfeasibleError(
                f"stage {stage.name!r} does not fit on {self.question.pool} GPUs: give more"
            )
        relative_N = relative_length(found, self.world)[0]
        per_parameter = found.training_run_flops / found.steps / self.machine.model.active_parameters
        grown_CN = steps_C[:, None] * relative_N
        return Effort(
            compute_N=grown_CN * per_parameter, tokens_N=grown_CN * (found.gradient_tokens / found.steps)
        )

    def step_bill(self, stage: AnyStage, one_step: Amounts | None, gpus: int) -> Bill | None:
        """The bill of one step on so many GPUs, remembered; None where it does not fit."""
        key = (stage.model_dump_json(), one_step, gpus)
        if key not in self._bills:
            try:
                self._bills[key] = bill(stage, one_step, self.domains, self.machine, gpus=gpus)
            except InfeasibleError:
                self._bills[key] = None
        return self._bills[key]

    def run_seconds(self, run: Run, gpus: int) -> Array | None:
        """A run's seconds, (N,); None where it does not fit. `prepare` must have been told of it."""
        return self._run_seconds[run, gpus]

    def seconds(
        self, stage: AnyStage, one_step: Amounts | None, steps_C: NDArray[np.int64], gpus: int
    ) -> Array | None:
        """A stage's seconds after so many steps, sweeps, reruns and failures included, (C, N); None where it does not
        fit. Everything in a step's bill but its evaluations grows with steps."""
        base = self.question.base
        found = self.step_bill(stage, one_step, gpus)
        if found is None:
            return None
        once = found.once_seconds
        total_C = once + steps_C * (sum(found.seconds.values()) - once)
        power_C = np.log2((once + steps_C * (found.longer_seconds - once)) / total_C)
        growth_CN = power_C[:, None] * np.log(np.ravel(relative_length(found, self.world)))
        noise_N = found.log_sd * standard_normal("time_model", base.seed, base.draws)
        job_CN = total_C[:, None] * np.exp(growth_CN + noise_N)
        job_CN = job_CN * reruns(stage.name, base.reliability, base.seed, base.draws)
        expected_CN = job_CN / HOUR * found.gpus * base.reliability.failures_per_gpu_hour
        failures_CN = poisson(f"failures:{stage.name}", expected_CN, base.seed)
        return np.asarray(job_CN + failures_CN * base.reliability.seconds_per_failure)


def run_stage(name: str, group: Group, normalizer: Normalizer) -> Rl:
    """An RL stage on these domains, starting from the base."""
    return specialist(name, group).model_copy(update={"normalizer": normalizer})


def simplest(question: Question) -> Scenario:
    """A scenario with a teacher and a student: what every plan shares is read off it."""
    pool = question.pool
    plan = Plan(
        family="mopd",
        groups=(question.domains,),
        rl_steps=(2,),
        distill_steps=2,
        gpus=pool,
        student_gpus=pool,
    )
    return scenario_of(question, plan)
