"""What plans come to, many side by side and remembered: the objective, hours, money, days, whether limits are kept.

A limit is kept where the `confidence` quantile of what it limits lies within it; a minimum where the score's lower
quantile does. Plans without a teacher are chains: one RL run, or one domain after the other; runs follow one another,
so that seconds add up, and beginnings that two cascades share are walked once. Plans with teachers go in rounds:
teachers are trained, then merged or distilled. A student learns a lesson that is each domain's own teacher's score,
moved by what the others gained or lost there; a merge reads each teacher whole. Every teacher has the same number of
GPUs, so that placing them is a matter of identical machines. Axes: P plan, D domain, C candidate of a batch, K teacher,
N draw.
Leaves out: the pieces (`mopdsim.plan.stock`), which plans to try (`mopdsim.plan.explore`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array, middle
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.forecast.schedule import placed, slot_gpus, slots_of
from mopdsim.plan.candidate import DISTILLED, TAUGHT, Group, Plan, group_name, recipe_of
from mopdsim.plan.grouping import Grouping
from mopdsim.plan.question import Family, Question
from mopdsim.plan.stock import Kind, Path, Run, Shares, Stock, Timed, Trained, equal_shares, rl_kind
from mopdsim.quality.distillation import Lesson, companions, follow, merge
from mopdsim.quality.learning import paced
from mopdsim.quality.step import Effort, State, Step
from mopdsim.recipes.catalogue import cascade_shares
from mopdsim.recipes.stage import Distill, Merge, Normalizer


def kind(plan: Plan) -> tuple[object, ...]:
    """Plans of one kind are scored side by side: their last stages are the same."""
    return plan.family, plan.balance, plan.reward_mix, plan.scale, plan.rounds, len(plan.groups)


def runs_of(plan: Plan, number: int = 0) -> Path:
    """The RL runs of a plan's round, the first being number 0: teachers, or without a student one after the other."""
    prefix = f"r{number + 1}_" if plan.rounds > 1 else ""
    kinds = _kinds(plan.family, plan.groups, plan.normalizer, plan.replay, prefix, goes_on=number > 0)
    return tuple(map(Run, kinds, plan.rl_steps))


@cache
def _kinds(
    family: Family, groups: Grouping, normalizer: Normalizer, replay: float, prefix: str, *, goes_on: bool
) -> tuple[Kind, ...]:
    match family:
        case "mixed_rl":
            return (rl_kind("mixed", equal_shares(groups[0]), normalizer),)
        case "single":
            return (rl_kind("specialist", equal_shares(groups[0]), normalizer),)
        case "cascade_rl":
            order = [group[0] for group in groups]
            return tuple(
                rl_kind(f"step_{place + 1}", _shares(order, place, replay), normalizer, goes_on=place > 0)
                for place in range(len(order))
            )
        case "mopd" | "off_policy" | "merge":
            return tuple(
                rl_kind(prefix + group_name(group), equal_shares(group), normalizer, goes_on=goes_on)
                for group in groups
            )


def _shares(order: Sequence[str], place: int, replay: float) -> Shares:
    """Shares of the prompts in one step of a cascade, its own domain first; in which order the domains before were
    trained does not matter."""
    own, *old = cascade_shares(order, place, replay).items()
    return own, *sorted(old)


def _last_gpus(plan: Plan) -> int:
    """GPUs of a round's student; a merge takes one."""
    return plan.student_gpus if plan.family in DISTILLED else 1


def _shape(plan: Plan) -> tuple[object, ...]:
    """Plans of one shape are priced side by side: as many stages on as many GPUs."""
    return plan.family in TAUGHT, plan.rounds, len(plan.groups), plan.gpus, _last_gpus(plan)


@cache
def _dealt(groups: Grouping, domains: Group) -> NDArray[np.intp]:
    """The place of each domain's group, (S,)."""
    group = {name: place for place, names in enumerate(groups) for name in names}
    return np.array([group[name] for name in domains])


_BATCH = 16  # plans at a time: memory for larger arrays comes from the system anew each time
_FIRST = 8  # plans priced at a time until one keeps the limits
_SPLITS = 3  # halvings of the pool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One plan's figures. value: the objective, not a number where a limit is overrun and nobody asked. surely: the
    `confidence` quantile of each cost; median: its P50. lowest: the lower quantile of the score of each domain with a
    minimum. excess: by how much the worst limit is overrun, ln of the ratio for costs, missing score for minima; at
    most 0 where all are kept.
    """

    plan: Plan
    value: float
    surely: dict[str, float]
    median: dict[str, float]
    lowest: dict[str, float]
    excess: float

    @property
    def feasible(self) -> bool:
        """Whether the plan keeps every limit and minimum."""
        return self.excess <= 0


class Evaluator:
    """Evaluates plans for one question and remembers them, in the order of first evaluation."""

    def __init__(self, question: Question, stock: Stock | None = None) -> None:
        self.question = question
        self.options = splits(question.pool)
        self.stock = stock or Stock(question)
        self.found: dict[Plan, Outcome] = {}
        self._scored: dict[Plan, tuple[float, dict[str, float]]] = {}
        self._lasts: dict[tuple[object, ...], list[Kind]] = {}

    def on(self, question: Question) -> Evaluator:
        """An evaluator for a question that has another pool: what plans score is the same there, and known."""
        twin = Evaluator(question, self.stock.on(question))
        twin._scored = self._scored
        return twin

    def evaluate(self, plans: Iterable[Plan]) -> list[Outcome]:
        """The outcomes of these plans, computed where they are new; what is beyond a limit is not scored, unless a
        minimum is asked."""
        plans = list(plans)
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.found]
        costs = self._priced(new)
        limits = self.question.limits
        within = [plan for plan in new if all(costs[plan][0][name] <= most for name, most in limits.items())]
        scored = self._scores(new if self.question.minimum else within)
        for plan in new:
            value, lowest = scored.get(plan, (math.nan, {}))
            surely, median = costs[plan]
            excess = [math.log(surely[name] / limit) for name, limit in limits.items()]
            excess += [least - lowest[name] for name, least in self.question.minimum.items()]
            self.found[plan] = Outcome(
                plan=plan, value=value, surely=surely, median=median, lowest=lowest, excess=max(excess)
            )
        return [self.found[plan] for plan in plans]

    def valued(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Outcomes beyond a limit, scored."""
        outcomes = list(outcomes)
        scored = self._scores([outcome.plan for outcome in outcomes])
        return [replace(outcome, value=scored[outcome.plan][0]) for outcome in outcomes]

    def first_within(self, plans: Iterable[Plan]) -> Outcome | None:
        """The best of the plans that keep the limits: the best of all are priced first, the others not at all."""
        scored = self._scores([*dict.fromkeys(plans)])
        ranked = sorted(scored, key=lambda plan: -scored[plan][0])
        for first in range(0, len(ranked), _FIRST):
            for outcome in self.evaluate(ranked[first : first + _FIRST]):
                if outcome.feasible:
                    return outcome
        return None

    def best(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Sorted: those within the limits by value, then the others by how little they miss them."""

        def rank(outcome: Outcome) -> tuple[float, float]:
            return (0.0, -outcome.value) if outcome.feasible else (1.0, outcome.excess)

        return sorted(outcomes, key=rank)

    def _priced(self, plans: Sequence[Plan]) -> dict[Plan, tuple[dict[str, float], dict[str, float]]]:
        """Each plan's costs by name: with the asked confidence, and the medians."""
        confidence, usd = self.question.confidence, self.question.usd_per_gpu_hour
        stages = {plan: self._stages(plan) for plan in plans}
        runs = [*dict.fromkeys(run for own in stages.values() for run in own)]
        timed = dict(zip(runs, self.stock.seconds(runs), strict=True))
        found = {}
        for batch in _batches(plans, _shape):
            costs = self._costs(batch, [[timed[run] for run in stages[plan]] for plan in batch])
            draws = costs[0].shape[1]
            sure, ends = int(np.ceil(confidence * (draws - 1))), {(draws - 1) // 2, draws // 2}
            hours_CN, days_CN = (np.partition(row_CN, sorted({sure, *ends}), axis=1) for row_CN in costs)
            rows = {"gpu_hours": hours_CN, "usd": hours_CN * usd, "days": days_CN}
            surely = {name: row_CN[:, sure].tolist() for name, row_CN in rows.items()}
            median = {name: middle(row_CN).tolist() for name, row_CN in rows.items()}
            for place, plan in enumerate(batch):
                found[plan] = (
                    {name: row_C[place] for name, row_C in surely.items()},
                    {name: row_C[place] for name, row_C in median.items()},
                )
        return found

    def _stages(self, plan: Plan) -> list[tuple[Run, int]]:
        """All stages of a plan with their GPUs, round by round, a round's student or merge last."""
        found: list[tuple[Run, int]] = []
        for number in range(plan.rounds):
            found += ((run, plan.gpus) for run in runs_of(plan, number))
            if plan.family in TAUGHT:
                last = Run(self._last(plan, number), max(plan.distill_steps, 1))
                found.append((last, _last_gpus(plan)))
        return found

    def _last(self, plan: Plan, number: int) -> Kind:
        """A round's student or merge as the plan's recipe has it, for this number of teachers."""
        key = kind(plan)
        if key not in self._lasts:
            stages = recipe_of(self.question, plan).stages
            self._lasts[key] = [Kind(stage) for stage in stages if isinstance(stage, Distill | Merge)]
        return self._lasts[key][number]

    def _costs(self, plans: Sequence[Plan], stages: Sequence[Sequence[Timed]]) -> tuple[Array, Array]:
        """GPU-hours and days of plans with as many stages on as many GPUs, (C, N) each; infinite where one does not
        fit."""
        one, many = plans[0], len(plans[0].groups)
        if one.family not in TAUGHT:
            seconds_CN = np.array(
                [[run.seconds_N for run in column] for column in zip(*stages, strict=True)]
            ).sum(axis=0)
            return seconds_CN * one.gpus / HOUR, seconds_CN / DAY
        hours, days, last_gpus = [], [], _last_gpus(one)
        for first in range(0, one.rounds * (many + 1), many + 1):
            longest_first = [sorted(row[first : first + many], key=lambda run: -run.median) for row in stages]
            runs_KCN = np.array(
                [[run.seconds_N for run in column] for column in zip(*longest_first, strict=True)]
            )
            last_CN = np.array([row[first + many].seconds_N for row in stages])
            hours.append((runs_KCN.sum(axis=0) * one.gpus + last_CN * last_gpus) / HOUR)
            days.append((self._teachers_done(runs_KCN, one.gpus, last_gpus) + last_CN) / DAY)
        return np.sum(hours, axis=0), np.sum(days, axis=0)

    def _teachers_done(self, runs_KCN: Array, gpus: int, last_gpus: int) -> Array:
        """Seconds until the last teacher is done, the longest first, each on the machine that is free. (C, N)"""
        question, many = self.question, len(runs_KCN)
        unit = slot_gpus(question.pool, [gpus, last_gpus])
        side_by_side = (question.pool // unit) // slots_of(question.pool, unit, gpus)
        at_once = min(side_by_side, question.base.teams or many, many)
        free_CNS = np.stack(list(runs_KCN[:at_once]), axis=-1)
        for seconds_CN in runs_KCN[at_once:]:
            placed([(free_CNS, 1)], np.zeros(1), seconds_CN)
        return np.asarray(free_CNS.max(axis=-1))

    def _scores(self, plans: Sequence[Plan]) -> dict[Plan, tuple[float, dict[str, float]]]:
        """Each plan's objective, and the lower quantile of the score of each domain with a minimum. Plans that differ
        in their GPUs alone score the same."""
        question, index = self.question, self.stock.world.index
        learning = {plan: plan.but(gpus=0, student_gpus=0) for plan in plans}
        new = [plan for plan in dict.fromkeys(learning.values()) if plan not in self._scored]
        for batch, scores_DCN in self.scores(new):
            value_C = question.value(question.utility(scores_DCN)).tolist()
            lowest = {
                name: np.quantile(scores_DCN[index[name]], 1 - question.confidence, axis=1, method="lower")
                for name in question.minimum
            }
            for place, plan in enumerate(batch):
                lows = {name: float(low_C[place]) for name, low_C in lowest.items()}
                self._scored[plan] = value_C[place], lows
        return {plan: self._scored[like] for plan, like in learning.items()}

    def scores(self, plans: Sequence[Plan]) -> Iterator[tuple[list[Plan], Array]]:
        """The plans in batches, each with the scores of its plans by draw, (D, C, N)."""
        # plans of one grouping side by side: much of their arithmetic is then common
        by_groups = sorted(plans, key=lambda plan: plan.groups)
        chains = (plan for plan in by_groups if plan.family not in TAUGHT)
        for batch in _alike(chains, lambda plan: len(plan.groups)):
            ends = self.stock.trained(map(runs_of, batch))
            yield batch, np.stack([end.score_DN for end in ends], axis=1)
        yield from self._taught([plan for plan in by_groups if plan.family in TAUGHT])

    def _taught(self, plans: list[Plan]) -> Iterator[tuple[list[Plan], Array]]:
        """The same of plans with teachers: in every round the teachers of all together, then what becomes of them in
        batches of a kind."""
        stock, number = self.stock, 0
        before: dict[Plan, Array] = {}  # scores after the rounds so far
        while plans:
            runs = [run for plan in plans for run in runs_of(plan, number)]
            if number:
                start_DCN = np.stack([before[plan] for plan in plans for _ in plan.groups], axis=1)
                pieces = iter(stock.train(runs, replace(stock.base, score_DN=start_DCN), teaches=True))
            else:
                pieces = iter(stock.trained((run,) for run in runs))
            teachers = {plan: [*islice(pieces, len(plan.groups))] for plan in plans}
            for batch in _batches(plans, kind):
                init = stock.base
                if number:
                    init = replace(init, score_DN=np.stack([before[plan] for plan in batch], axis=1))
                score_DCN = self._end(batch, [teachers[plan] for plan in batch], init, number)
                if batch[0].rounds == number + 1:
                    yield batch, score_DCN
                else:
                    before |= zip(batch, np.moveaxis(score_DCN, 1, 0), strict=True)
            number += 1
            plans = [plan for plan in plans if plan.rounds > number]

    def _end(
        self, plans: Sequence[Plan], teachers: Sequence[Sequence[Trained]], init: State, number: int
    ) -> Array:
        """Scores after the merge or the student of plans of one kind, each with its teachers, (D, C, N)."""
        last = self._last(plans[0], number)
        stage, world = last.stage, self.stock.world_of(last)
        own = {id(piece): piece for row in teachers for piece in row}
        taught, place = [*own.values()], {name: place for place, name in enumerate(own)}
        places_CK = np.array([[place[id(piece)] for piece in row] for row in teachers])
        score_DUN = np.stack([piece.score_DN for piece in taught], axis=1)
        step = Step(stage, {stage.init: init}, world)
        if isinstance(stage, Merge):
            inputs = {
                name: replace(init, score_DN=score_DUN[:, places_C])
                for name, places_C in zip(stage.inputs, places_CK.T, strict=True)
            }
            merge(stage, step, inputs)
        else:
            assert isinstance(stage, Distill)
            self._distilled(stage, step, plans, taught, score_DUN, places_CK)
        return step.score_DN

    def _distilled(
        self,
        stage: Distill,
        step: Step,
        plans: Sequence[Plan],
        taught: Sequence[Trained],
        score_DUN: Array,
        places_CK: NDArray[np.intp],
    ) -> None:
        """The student: on each domain its own teacher's score, moved by the others, as far as the farthest."""
        stock, world = self.stock, step.world
        dealt_CS = np.stack([_dealt(plan.groups, tuple(stage.domains)) for plan in plans])
        pull_DUN = np.stack([piece.pull_DN for piece in taught], axis=1)
        own_SCN = score_DUN[step.trained[:, None], np.take_along_axis(places_CK, dealt_CS, axis=1).T]
        pulls_DCN = sum((pull_DUN[:, column] for column in places_CK.T), np.zeros(1))
        if (dealt_CS == dealt_CS[0]).all():  # one matrix for all candidates
            dealt_CS = dealt_CS[:1]
        lesson = Lesson(
            own_SN=own_SCN,
            others_SN=own_SCN,
            companions_SN=companions(pulls_DCN, places_CK.shape[1] - 1.0)[step.trained],
            within_SN=1.0,
            distance_N=np.stack([piece.kl_N for piece in taught])[places_CK].max(axis=1),
            apart_SSN=(dealt_CS.T[:, None] != dealt_CS.T).astype(float)[..., None],
        )
        one = stock.one_step(self._last(plans[0], 0))
        steps = np.array([[plan.distill_steps] for plan in plans])
        if (steps == steps[0]).all():  # one effort for all candidates
            steps = steps[:1]
        effort = Effort(compute_N=steps * one.compute_N, tokens_N=steps * one.tokens_N)
        amounts = stock.amounts(stage)
        assert amounts is not None
        follow(
            stage,
            step,
            paced(effort, amounts, self.question.amounts_name, stage.kind, world.constants),
            lesson,
        )


def splits(pool: int) -> tuple[int, ...]:
    """The numbers of GPUs that a stage may be given: the pool, its half, quarter and so on."""
    return tuple(dict.fromkeys(max(1, pool >> halvings) for halvings in range(_SPLITS + 1)))


def _batches(plans: Iterable[Plan], kind_of: Callable[[Plan], object]) -> Iterator[list[Plan]]:
    """The plans in batches of a kind."""
    for found in _alike(plans, kind_of):
        yield from (found[first : first + _BATCH] for first in range(0, len(found), _BATCH))


def _alike(plans: Iterable[Plan], kind_of: Callable[[Plan], object]) -> Iterable[list[Plan]]:
    """All plans of each kind."""
    alike: dict[object, list[Plan]] = {}
    for plan in plans:
        alike.setdefault(kind_of(plan), []).append(plan)
    return alike.values()
