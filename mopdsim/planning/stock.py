"""Pieces that many plans share: a teacher of some domains after so many steps, and the seconds of any stage.

A teacher that two plans share is trained once here. Scores come from the forecast's own walk through a recipe of that
one stage, seconds from its bill and its draws of failures and reruns, so that plans put together from pieces equal
their forecasts (tested). Axes: D domain, C candidate, N draw. Leaves out: putting them together
(`mopdsim.planning.assembled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.amounts import Amounts
from mopdsim.calibration import Calibration, default_calibration, standard_normal
from mopdsim.errors import InfeasibleError
from mopdsim.interference import Array
from mopdsim.planning.candidate import Group, Plan, scenario_of
from mopdsim.planning.question import Question
from mopdsim.quality import Effort, walk
from mopdsim.recipe import AnyStage, Rl
from mopdsim.recipe_parts import assemble, specialist
from mopdsim.scenario import Scenario
from mopdsim.schedule import Job, stretched
from mopdsim.search import tabulate
from mopdsim.stage_cost import Bill, bill
from mopdsim.stage_draws import machine_of, relative_length
from mopdsim.stage_fields import Normalizer
from mopdsim.world import draw_world

Run = tuple[str, Group, Normalizer, int]  # stage name, domains, normaliser, steps of one RL run

STUDENT = "student"  # the catalogue's name of a distillation


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What an RL run leaves: scores of all domains, (D, N), and nats a token from the base, (N,)."""

    score_DN: Array
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
        self._steps: dict[tuple[str, Amounts], Bill] = {}

    def seeds(self, stages: tuple[str, ...]) -> dict[str, Array]:
        """The seed-to-seed draws of these stages, (D, 1, N)."""
        base = self.question.base
        world = draw_world(
            self.calibration, self.domains, stages, base.scope, seed=base.seed, draws=base.draws
        )
        return {name: row_DN[:, None, :] for name, row_DN in world.spread.items()}

    def trained(self, run: Run) -> Trained:
        """A run's result; `train` must have been told of it."""
        return self._trained[run]

    def train(self, runs: Iterable[Run], gpus: int) -> None:
        """Computes the runs that are not in stock, those of one group and normaliser side by side. gpus: where their
        bills will be asked for next, which are dear to make."""
        wanted: dict[tuple[str, Group, Normalizer], list[int]] = {}
        for name, group, normalizer, steps in dict.fromkeys(runs):
            if (name, group, normalizer, steps) not in self._trained:
                wanted.setdefault((name, group, normalizer), []).append(steps)
        if not wanted:
            return
        seeds = self.seeds(tuple(dict.fromkeys(name for name, _, _ in wanted)))
        for (name, group, normalizer), counts in wanted.items():
            self._train(run_stage(name, group, normalizer), counts, seeds, gpus)

    def _train(self, stage: Rl, steps: Sequence[int], seeds: Mapping[str, Array], gpus: int) -> None:
        recipe = assemble("single_domain", self.question.domains, self.question.amounts_name, [stage])
        one_step = self.question.amounts("rl", 1)
        recipe = recipe.with_amounts({stage.name: one_step})
        effort = self.effort(stage, one_step, np.array(steps), gpus)
        world = replace(self.world, spread={stage.name: seeds[stage.name]})
        state = walk(recipe, world, {stage.name: effort}, explain=False)[stage.name]
        kl_CN = np.broadcast_to(state.kl_N, effort.compute_N.shape)
        for place, count in enumerate(steps):
            run = (stage.name, tuple(stage.domains), stage.normalizer, count)
            self._trained[run] = Trained(score_DN=state.score_DN[:, place], kl_N=kl_CN[place])

    def effort(self, stage: AnyStage, one_step: Amounts, steps_C: Array, gpus: int) -> Effort:
        """What the stage spends after so many steps, (C, N); both grow with steps and with the draws' lengths."""
        found = self._step_bill(stage, one_step, gpus)
        relative_N = relative_length(found, self.world)[0]
        per_parameter = found.training_run_flops / found.steps / self.machine.model.active_parameters
        grown_CN = steps_C[:, None] * relative_N
        return Effort(
            compute_N=grown_CN * per_parameter, tokens_N=grown_CN * (found.gradient_tokens / found.steps)
        )

    def _step_bill(self, stage: AnyStage, one_step: Amounts, gpus: int) -> Bill:
        """A step's bill, whose FLOPs and tokens do not depend on the GPUs: on these, or else on the whole pool."""
        key = (stage.model_dump_json(), one_step)
        if key not in self._steps:
            try:
                self._steps[key] = bill(stage, one_step, self.domains, self.machine, gpus=gpus)
            except InfeasibleError:
                self._steps[key] = bill(stage, one_step, self.domains, self.machine, gpus=self.question.pool)
        return self._steps[key]

    def run_seconds(self, run: Run, gpus: int) -> Array | None:
        """A run's seconds, (N,), remembered."""
        if (run, gpus) not in self._run_seconds:
            name, group, normalizer, steps = run
            stage = run_stage(name, group, normalizer)
            self._run_seconds[run, gpus] = self.seconds(stage, self.question.amounts("rl", steps), gpus)
        return self._run_seconds[run, gpus]

    def seconds(self, stage: AnyStage, amounts: Amounts | None, gpus: int) -> Array | None:
        """A stage's seconds by draw, sweeps, reruns and failures included, (N,); None where it does not fit."""
        base = self.question.base
        try:
            found = bill(stage, amounts, self.domains, self.machine, gpus=gpus)
        except InfeasibleError:
            return None
        relative_N = np.ravel(relative_length(found, self.world))
        noise_N = standard_normal("time_model", base.seed, base.draws)
        job = Job(name=stage.name, seconds_N=found.seconds_at(relative_N, noise_N), gpus=found.gpus)
        return stretched(job, base.reliability, seed=base.seed).seconds_N


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
