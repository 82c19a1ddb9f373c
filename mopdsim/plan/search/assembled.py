"""Plans of one round put together from pieces, many side by side: teachers gathered, then merged or distilled.

A student learns a lesson that is each domain's own teacher's score, moved by what the others gained or lost there; a
merge reads each teacher whole. Every teacher has the same number of GPUs, so that placing them is a matter of identical
machines. Axes: D domain, C candidate, K teacher, N draw.
Leaves out: several rounds (`mopdsim.plan.search.tabulated`), cascades (`mopdsim.plan.search.chained`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.forecast.schedule import slot_gpus
from mopdsim.plan.search.candidate import DISTILLED, Group, Plan, group_name, recipe_of
from mopdsim.plan.search.stock import Run, Stock, Trained
from mopdsim.quality.distillation import Lesson, follow
from mopdsim.quality.learning import merge
from mopdsim.quality.step import Step
from mopdsim.quality.walk import State, paced
from mopdsim.recipes.parts import REWARD_GROUP
from mopdsim.recipes.recipe import BASE, AnyStage, Distill, Merge


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What plans come to: scores, GPU-hours and days by draw; infinite hours where a stage does not fit."""

    scores_DCN: Array
    gpu_hours_CN: Array
    days_CN: Array


def assembled(plan: Plan) -> bool:
    """Whether a plan is one that this module evaluates."""
    return plan.family in ("mixed_rl", "single", "merge", "off_policy") or (
        plan.family == "mopd" and plan.rounds == 1
    )


def kind(plan: Plan) -> tuple[object, ...]:
    """Plans of one kind are evaluated side by side."""
    many = len(plan.groups) if plan.family == "merge" else 0
    return plan.family, plan.balance, plan.reward_mix, plan.scale, many


def runs_of(plan: Plan) -> list[Run]:
    """The RL runs that a plan is made of."""
    fixed = {"mixed_rl": "mixed", "single": "specialist"}.get(plan.family)
    return [
        (fixed or group_name(group), group, plan.normalizer, steps)
        for group, steps in zip(plan.groups, plan.rl_steps, strict=True)
    ]


class Assembly:
    """Evaluates plans of one kind from a stock of pieces."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self._last: dict[tuple[object, ...], AnyStage] = {}
        self._last_seconds: dict[tuple[object, ...], Array | None] = {}

    def last_stage(self, plan: Plan) -> Distill | Merge | None:
        """The student's or merge's stage as the plan's recipe has it, for this number of teachers."""
        if plan.family not in (*DISTILLED, "merge"):
            return None
        key = (*kind(plan), len(plan.groups))
        if key not in self._last:
            recipe = recipe_of(self.stock.question, plan)
            self._last[key] = recipe.stage[recipe.output]
        found = self._last[key]
        assert isinstance(found, Distill | Merge)
        return found

    def evaluate(self, plans: Sequence[Plan]) -> Outcomes:
        """Scores, hours and days of plans of one kind, whose runs are in stock."""
        states = [[self.stock.trained(run) for run in runs_of(plan)] for plan in plans]
        hours_CN, days_CN = self._costs(plans)
        stage = self.last_stage(plans[0])
        if stage is None:
            scores_DCN = np.stack([found[0].score_DN for found in states], axis=1)
        elif isinstance(stage, Merge):
            teachers = [
                State(
                    score_DN=np.stack([found[place].score_DN for found in states], axis=1),
                    kl_N=np.stack([found[place].kl_N for found in states]),
                    lineage=(name,),
                    waterfall=None,
                )
                for place, name in enumerate(stage.inputs)
            ]
            scores_DCN = self._merged(stage, teachers)
        else:
            scores_DCN = self._distilled(stage, plans, states)
        return Outcomes(scores_DCN=scores_DCN, gpu_hours_CN=hours_CN, days_CN=days_CN)

    def _base(self, count: int) -> State:
        start_DN = self.stock.world.start_DN
        shape = (len(start_DN), count, start_DN.shape[-1])
        return State(
            score_DN=np.broadcast_to(start_DN, shape), kl_N=np.zeros(shape[1:]), lineage=(), waterfall=None
        )

    def _merged(self, stage: Merge, teachers: Sequence[State]) -> Array:
        states = {BASE: self._base(teachers[0].score_DN.shape[1])}
        states |= dict(zip(stage.inputs, teachers, strict=True))
        step = Step(stage, states, self.stock.world)
        merge(stage, step, states)
        return step.score_DN

    def _distilled(self, stage: Distill, plans: Sequence[Plan], states: Sequence[Sequence[Trained]]) -> Array:
        """The student: on each domain its own teacher's score, moved by the others, as far as the farthest."""
        question, world = self.stock.question, self.stock.world
        taught_DCN = np.empty((len(question.domains), len(plans), question.base.draws))
        pulls_DCN, kl_CN = np.empty_like(taught_DCN), np.empty(taught_DCN.shape[1:])
        for place, found in enumerate(states):
            pull_DN = sum((piece.pull_DN for piece in found[1:]), found[0].pull_DN)
            for piece in found:
                taught_DCN[piece.places, place] = piece.score_DN[piece.places]
                pulls_DCN[piece.places, place] = (pull_DN - piece.pull_DN)[piece.places]
            kl_CN[place] = np.max([piece.kl_N for piece in found], axis=0)
        others_C = np.array([max(len(found) - 1, 1) for found in states])
        companions_DCN = pulls_DCN * others_C[:, None] ** -world.constants["pair_exponent"]
        places = np.array([world.index[name] for name in stage.domains])
        groupings = [plan.groups for plan in plans]
        if len(set(groupings)) == 1:  # one matrix for all candidates
            groupings = groupings[:1]
        lesson = Lesson(
            own_SN=taught_DCN[places],
            others_SN=taught_DCN[places],
            companions_SN=companions_DCN[places],
            within_SN=1.0,
            distance_N=kl_CN,
            apart_SSN=np.stack([_apart(groups, stage) for groups in groupings], axis=-1)[..., None],
        )
        samples = REWARD_GROUP if stage.reward_mix else 1
        steps_C = np.array([plan.distill_steps for plan in plans])
        one_step = question.amounts("distill", 1, group=samples)
        effort = self.stock.effort(stage, one_step, steps_C, plans[0].student_gpus)
        effort = paced(effort, one_step, question.amounts_name, stage.kind, world.constants)
        step = Step(stage, {BASE: self._base(len(plans))}, world)
        follow(stage, step, effort, lesson)
        return step.score_DN

    def _costs(self, plans: Sequence[Plan]) -> tuple[Array, Array]:
        """GPU-hours and days, (C, N); infinite where a stage does not fit."""
        draws = self.stock.question.base.draws
        hours_CN, days_CN = np.full((len(plans), draws), np.inf), np.full((len(plans), draws), np.inf)
        alike: dict[tuple[int, int, int], list[int]] = {}
        timed: list[tuple[list[Array], Array]] = []
        for plan in plans:
            runs = [self.stock.run_seconds(run, plan.gpus) for run in runs_of(plan)]
            last_gpus = plan.student_gpus if plan.family in DISTILLED else 1
            last = self._seconds_of_last(plan, last_gpus)
            fitting = [found for found in runs if found is not None]
            timed.append((fitting, np.zeros(draws) if last is None else last))
            if last is not None and len(fitting) == len(runs):
                alike.setdefault((len(runs), plan.gpus, last_gpus), []).append(len(timed) - 1)
        for (_, gpus, last_gpus), places in alike.items():
            runs_KCN = np.array([timed[place][0] for place in places]).swapaxes(0, 1)
            last_CN = np.array([timed[place][1] for place in places])
            hours_CN[places] = (runs_KCN.sum(axis=0) * gpus + last_CN * last_gpus) / HOUR
            days_CN[places] = (self._teachers_done(runs_KCN, gpus, last_gpus) + last_CN) / DAY
        return hours_CN, days_CN

    def _seconds_of_last(self, plan: Plan, gpus: int) -> Array | None:
        """Seconds of the student or the merge, (N,), remembered: none where a plan ends with its run."""
        key = (*kind(plan), len(plan.groups), plan.distill_steps, gpus)
        if key not in self._last_seconds:
            stage, question = self.last_stage(plan), self.stock.question
            found: Array | None = np.zeros((1, question.base.draws))
            if stage is not None:
                samples = REWARD_GROUP if plan.reward_mix else 1
                merged = plan.family == "merge"
                amounts = None if merged else question.amounts("distill", 1, group=samples)
                steps_C = np.array([max(plan.distill_steps, 1)])
                found = self.stock.seconds(stage, amounts, steps_C, gpus)
            self._last_seconds[key] = None if found is None else found[0]
        return self._last_seconds[key]

    def _teachers_done(self, runs_KCN: Array, gpus: int, last_gpus: int) -> Array:
        """Seconds until the last teacher is done: the longest first, each on the machine that is free first. (C, N)"""
        question, many = self.stock.question, len(runs_KCN)
        unit = slot_gpus(question.pool, [gpus, last_gpus])
        machines = min((question.pool // unit) // -(-gpus // unit), question.base.teams or many, many)
        if machines == 1:
            return np.asarray(runs_KCN.sum(axis=0))
        if machines == many:
            return np.asarray(runs_KCN.max(axis=0))
        order_KC = np.argsort(-np.median(runs_KCN, axis=2), axis=0, kind="stable")
        free_CNM = np.zeros((*runs_KCN.shape[1:], machines))
        for chosen_C in order_KC:
            free_CNM[:, :, 0] += runs_KCN[chosen_C, np.arange(len(chosen_C))]
            free_CNM.sort(axis=2)
        return np.asarray(free_CNM[:, :, -1])


def _apart(groups: Sequence[Group], stage: Distill) -> Array:
    """Whether two domains of the student are in different groups, 1 or 0. (S, S)"""
    group = {name: place for place, names in enumerate(groups) for name in names}
    places = np.array([group[name] for name in stage.domains])
    return np.asarray(places[:, None] != places, dtype=float)
