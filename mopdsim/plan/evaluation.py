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

import numpy as np

from mopdsim.base.arrays import Array, middle
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.forecast.schedule import placed, slot_gpus, slots_of
from mopdsim.plan.candidate import DISTILLED, TAUGHT, Group, Plan, group_name, recipe_of
from mopdsim.plan.grouping import Grouping
from mopdsim.plan.question import Family, Question
from mopdsim.plan.stock import Costs, Path, Run, RunKind, Stock, Timed, Trained, equal_shares, run_kind
from mopdsim.quality.distillation import Brought, Lesson, blend, companions, follow
from mopdsim.quality.learning import paced
from mopdsim.quality.step import State, Step
from mopdsim.recipes.catalogue import REWARD_GROUP, cascade_shares
from mopdsim.recipes.recipe import Distill, Merge
from mopdsim.recipes.stage import Normalizer


def kind(plan: Plan) -> tuple[object, ...]:
    """Plans of one kind are scored side by side: their last stages are the same, but for a merge's scale."""
    return plan.family, plan.balance, plan.reward_mix, plan.rounds, len(plan.groups)


def runs_of(plan: Plan, number: int = 0) -> tuple[Run, ...]:
    """The teachers of a plan's round, the first being number 0."""
    prefix = f"r{number + 1}_" if plan.rounds > 1 else ""
    return tuple(map(Run, _teacher_kinds(plan.groups, plan.normalizer, prefix, number > 0), plan.rl_steps))


@cache
def _teacher_kinds(
    groups: Grouping, normalizer: Normalizer, prefix: str, goes_on: bool
) -> tuple[RunKind, ...]:
    return tuple(
        run_kind(prefix + group_name(group), equal_shares(group), normalizer, goes_on=goes_on)
        for group in groups
    )


class Rounds:
    """Evaluates plans of one kind from a stock of pieces."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self._last: dict[tuple[object, ...], list[Distill | Merge]] = {}
        self._lasts: dict[tuple[object, ...], Array | None] = {}

    def time(self, plans: Sequence[Plan]) -> None:
        """Times what these plans of any kind share."""
        runs: dict[int, dict[Run, None]] = {}
        lasts: dict[tuple[object, ...], tuple[Plan, int, dict[int, None]]] = {}
        for plan in plans:
            last_gpus = _last_gpus(plan)
            for number in range(plan.rounds):
                runs.setdefault(plan.gpus, {}).update(dict.fromkeys(runs_of(plan, number)))
                _, _, counts = lasts.setdefault((*kind(plan), number, last_gpus), (plan, number, {}))
                counts[plan.distill_steps] = None
        for gpus, found in runs.items():
            self.stock.time(found, gpus)
        for key, (plan, number, counts) in lasts.items():
            self._time_last(
                key, plan, number, [steps for steps in counts if (*key, steps) not in self._lasts]
            )

    def _time_last(self, key: tuple[object, ...], plan: Plan, number: int, counts: Sequence[int]) -> None:
        """Seconds of a round's student or merge after so many steps, (N,), remembered; None where it does not fit."""
        if not counts:
            return
        stage, question = self.last_stage(plan, number), self.stock.question
        samples = REWARD_GROUP if plan.reward_mix else 1
        amounts = question.amounts("distill", 1, group=samples) if isinstance(stage, Distill) else None
        steps_C = np.maximum(np.array(counts), 1)
        found = self.stock.seconds((*kind(plan), stage.name), stage, amounts, steps_C, _last_gpus(plan))
        for place, steps in enumerate(counts):
            self._lasts[*key, steps] = None if found is None else found[place]

    def costs(self, plans: Sequence[Plan]) -> Costs:
        """GPU-hours and days of plans with as many teachers in as many rounds; `time` must have been told of them."""
        found = [self._costs(plans, number) for number in range(plans[0].rounds)]
        return Costs(*(np.sum(rows, axis=0) for rows in zip(*found, strict=True)))

    def prepare(self, plans: Sequence[Plan]) -> None:
        """Trains the teachers of the first round that these plans of any kind share."""
        self.stock.prepare((run,) for plan in plans for run in runs_of(plan))

    def scores(self, plans: Sequence[Plan]) -> Array:
        """Scores after the last round of plans of one kind, (D, C, N); `prepare` must have been told of them."""
        state = self.stock.base
        for number in range(plans[0].rounds):
            runs = [runs_of(plan, number) for plan in plans]
            if number:
                taught = self._later(plans, runs, state)
            else:
                taught = [[self.stock.trained((run,)) for run in row] for row in runs]
            state = self._end(plans, taught, state, number)
        return state.score_DN

    def _later(
        self, plans: Sequence[Plan], runs: Sequence[Sequence[Run]], init: State
    ) -> list[list[Trained]]:
        """Each plan's teachers, from its student of the round before."""
        many = len(runs[0])
        flat = [run for row in runs for run in row]
        starts = np.repeat(np.arange(len(plans)), many)
        found = self.stock.train(flat, init, starts, teaches=True)
        return [found[first : first + many] for first in range(0, len(found), many)]

    def last_stage(self, plan: Plan, number: int) -> Distill | Merge:
        """A round's student or merge as the plan's recipe has it, for this number of teachers."""
        key = (*kind(plan), plan.scale)
        if key not in self._last:
            stages = recipe_of(self.stock.question, plan).stages
            self._last[key] = [stage for stage in stages if isinstance(stage, Distill | Merge)]
        return self._last[key][number]

    def _end(
        self, plans: Sequence[Plan], taught: Sequence[Sequence[Trained]], init: State, number: int
    ) -> State:
        """What the merge or the student comes to."""
        stage = self.last_stage(plans[0], number)
        step = Step(stage, {stage.init: init}, self.stock.world_of(stage.name))
        if isinstance(stage, Distill):
            self._distilled(stage, step, plans, taught)
            return step.finish(np.zeros((len(plans), self.stock.question.base.draws)))
        return self._merged(stage, step, plans, taught)

    def _merged(
        self, stage: Merge, step: Step, plans: Sequence[Plan], taught: Sequence[Sequence[Trained]]
    ) -> State:
        """Merges of any scale: what those of the same specialists have in common is worked out once."""
        alike: dict[tuple[object, ...], int] = {}
        places = [alike.setdefault((p.groups, p.rl_steps, p.normalizer), len(alike)) for p in plans]
        rows = [taught[places.index(place)] for place in alike.values()]
        inputs_IDCN = np.stack(
            [np.stack([one.score_DN for one in column], axis=1) for column in zip(*rows, strict=True)]
        )
        brought, init = Brought.of(stage, step, inputs_IDCN), step.before
        score_DCN = np.empty((len(init.score_DN), len(plans), init.score_DN.shape[-1]))
        for scale in dict.fromkeys(plan.scale for plan in plans):
            at = [place for place, plan in enumerate(plans) if plan.scale == scale]
            own = self.last_stage(plans[at[0]], 0)
            assert isinstance(own, Merge)
            step = Step(own, {own.init: init}, step.world)
            blend(own, step, brought.some([places[place] for place in at]))
            score_DCN[:, at] = step.score_DN
        return replace(init, score_DN=score_DCN)

    def _distilled(
        self, stage: Distill, step: Step, plans: Sequence[Plan], taught: Sequence[Sequence[Trained]]
    ) -> None:
        """The student: on each domain its own teacher's score, moved by the others, as far as the farthest."""
        question, world = self.stock.question, step.world
        shape = (len(plans), len(question.domains), question.base.draws)
        row = {name: place for place, name in enumerate(stage.domains)}
        own_CSN, pulls_CDN, kl_CN = np.zeros(shape), np.zeros(shape), np.zeros((shape[0], shape[2]))
        groupings = [plan.groups for plan in plans]
        for place, (groups, pieces) in enumerate(zip(groupings, taught, strict=True)):
            for group, piece in zip(groups, pieces, strict=True):
                for name in group:
                    own_CSN[place, row[name]] = piece.score_DN[world.index[name]]
                pulls_CDN[place] += piece.pull_DN
                np.maximum(kl_CN[place], piece.kl_N, out=kl_CN[place])
        companions_DCN = companions(pulls_CDN.swapaxes(0, 1), len(taught[0]) - 1.0)
        own_SCN = own_CSN.swapaxes(0, 1)
        if len(set(groupings)) == 1:  # one matrix for all candidates
            groupings = groupings[:1]
        lesson = Lesson(
            own_SN=own_SCN,
            others_SN=own_SCN,
            companions_SN=companions_DCN[step.trained],
            within_SN=1.0,
            distance_N=kl_CN,
            apart_SSN=np.stack([_apart(groups, tuple(stage.domains)) for groups in groupings], axis=-1)[
                ..., None
            ],
        )
        one_step = question.amounts("distill", 1, group=REWARD_GROUP if stage.reward_mix else 1)
        steps = [plan.distill_steps for plan in plans]
        if len(set(steps)) == 1:  # one effort for all candidates
            steps = steps[:1]
        key = (*kind(plans[0]), stage.name)
        effort = self.stock.effort(key, stage, one_step, np.array(steps))
        follow(
            stage, step, paced(effort, one_step, question.amounts_name, stage.kind, world.constants), lesson
        )

    def _costs(self, plans: Sequence[Plan], number: int) -> tuple[Array, Array]:
        """GPU-hours and days of a round, (C, N); infinite where a stage does not fit."""
        shape = (len(plans), self.stock.question.base.draws)
        hours_CN, days_CN = np.full(shape, np.inf), np.full(shape, np.inf)
        alike: dict[tuple[int, int], dict[int, tuple[list[Timed], Array]]] = {}
        for place, plan in enumerate(plans):
            timed = [self.stock.timed(run, plan.gpus) for run in runs_of(plan, number)]
            fitting = [found for found in timed if found is not None]
            last_gpus = _last_gpus(plan)
            last_N = self._lasts[*kind(plan), number, last_gpus, plan.distill_steps]
            if last_N is not None and len(fitting) == len(timed):
                alike.setdefault((plan.gpus, last_gpus), {})[place] = (fitting, last_N)
        for (gpus, last_gpus), found in alike.items():
            places, last_CN = [*found], np.array([last_N for _, last_N in found.values()])
            longest_first = [sorted(row, key=lambda one: -one.median) for row, _ in found.values()]
            columns = list(zip(*longest_first, strict=True))
            runs_KCN = np.array([[one.seconds_N for one in column] for column in columns])
            hours_CN[places] = (runs_KCN.sum(axis=0) * gpus + last_CN * last_gpus) / HOUR
            days_CN[places] = (self._teachers_done(runs_KCN, gpus, last_gpus) + last_CN) / DAY
        return hours_CN, days_CN

    def _teachers_done(self, runs_KCN: Array, gpus: int, last_gpus: int) -> Array:
        """Seconds until the last teacher is done, the longest first, each on the machine that is free. (C, N)"""
        question, many = self.stock.question, len(runs_KCN)
        unit = slot_gpus(question.pool, [gpus, last_gpus])
        side_by_side = (question.pool // unit) // slots_of(question.pool, unit, gpus)
        free_CNS = np.zeros((*runs_KCN.shape[1:], min(side_by_side, question.base.teams or many, many)))
        at_once_CN = done_CN = np.zeros(runs_KCN.shape[1:])
        for seconds_CN in runs_KCN:
            _, end_CN = placed([(free_CNS, 1)], at_once_CN, seconds_CN)
            done_CN = np.maximum(done_CN, end_CN)
        return done_CN


def _last_gpus(plan: Plan) -> int:
    """GPUs of a round's student; a merge takes one."""
    return plan.student_gpus if plan.family in DISTILLED else 1


@cache
def _apart(groups: Grouping, domains: Group) -> Array:
    """Whether two domains of the student are in different groups, 1 or 0. (S, S)"""
    group = {name: place for place, names in enumerate(groups) for name in names}
    places = np.array([group[name] for name in domains])
    return np.asarray(places[:, None] != places, dtype=float)


_NAMES = {"mixed_rl": "mixed", "single": "specialist"}  # the catalogue's


def chain(plan: Plan) -> Path:
    """The runs of a plan, in their order."""
    return tuple(
        map(Run, _chain_kinds(plan.family, plan.groups, plan.normalizer, plan.replay), plan.rl_steps)
    )


@cache
def _chain_kinds(
    family: Family, groups: tuple[Group, ...], normalizer: Normalizer, replay: float
) -> tuple[RunKind, ...]:
    if family in _NAMES:
        return (run_kind(_NAMES[family], equal_shares(groups[0]), normalizer),)
    order = [group[0] for group in groups]
    return tuple(
        run_kind(f"step_{place + 1}", _shares(order, place, replay), normalizer, goes_on=place > 0)
        for place in range(len(order))
    )


def _shares(order: Sequence[str], place: int, replay: float) -> tuple[tuple[str, float], ...]:
    """Shares of the prompts in one step of a cascade, its own domain first; in which order the domains before were
    trained does not matter."""
    own, *old = cascade_shares(order, place, replay).items()
    return own, *sorted(old)


def chain_costs(stock: Stock, plans: Sequence[Plan]) -> Costs:
    """GPU-hours and days of plans without a teacher."""
    chains = [chain(plan) for plan in plans]
    for gpus in dict.fromkeys(plan.gpus for plan in plans):
        stock.time(
            (run for plan, runs in zip(plans, chains, strict=True) if plan.gpus == gpus for run in runs), gpus
        )
    seconds_CN = np.stack(
        [_chain_seconds(stock, runs, plan.gpus) for plan, runs in zip(plans, chains, strict=True)]
    )
    gpus_C = np.array([plan.gpus for plan in plans])
    return Costs(gpu_hours_CN=seconds_CN * gpus_C[:, None] / HOUR, days_CN=seconds_CN / DAY)


def chain_scores(stock: Stock, plans: Sequence[Plan]) -> Array:
    """Scores of plans without a teacher, (D, C, N)."""
    chains = [chain(plan) for plan in plans]
    for count in range(1, max(map(len, chains)) + 1):
        stock.prepare(runs[:count] for runs in chains if len(runs) >= count)
    return np.stack([stock.trained(runs).score_DN for runs in chains], axis=1)


def _chain_seconds(stock: Stock, runs: Path, gpus: int) -> Array:
    """Seconds of all runs, (N,); infinite where one does not fit."""
    total_N = np.zeros(stock.question.base.draws)
    for run in runs:
        timed = stock.timed(run, gpus)
        total_N += np.inf if timed is None else timed.seconds_N
    return total_N


_BATCH = 32  # plans at a time: their arrays stay in the processor's cache
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
        self.rounds = Rounds(self.stock)
        self.found: dict[Plan, Outcome] = {}
        self._scored: dict[Plan, tuple[float, dict[str, float]]] = {}

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
        self.rounds.time([plan for plan in plans if plan.family in TAUGHT])
        found = {}
        for batch in _batches(plans, lambda plan: (plan.family in TAUGHT, plan.rounds, len(plan.groups))):
            taught = batch[0].family in TAUGHT
            costs = self.rounds.costs(batch) if taught else chain_costs(self.stock, batch)
            draws = costs.days_CN.shape[1]
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
        """The plans in batches of a kind, each with the scores of its plans by draw, (D, C, N)."""
        # plans of one grouping side by side: much of their arithmetic is then common
        by_groups = sorted(plans, key=lambda plan: plan.groups)
        self.rounds.prepare([plan for plan in by_groups if plan.family in TAUGHT])
        for batch in _batches(by_groups, lambda plan: kind(plan) if plan.family in TAUGHT else ()):
            taught = batch[0].family in TAUGHT
            yield batch, self.rounds.scores(batch) if taught else chain_scores(self.stock, batch)


def splits(pool: int) -> tuple[int, ...]:
    """The numbers of GPUs that a stage may be given: the pool, its half, quarter and so on."""
    return tuple(dict.fromkeys(max(1, pool >> halvings) for halvings in range(_SPLITS + 1)))


def _batches(plans: Sequence[Plan], kind_of: Callable[[Plan], object]) -> Iterator[list[Plan]]:
    """The plans in batches of a kind."""
    alike: dict[object, list[Plan]] = {}
    for plan in plans:
        alike.setdefault(kind_of(plan), []).append(plan)
    for found in alike.values():
        yield from (found[first : first + _BATCH] for first in range(0, len(found), _BATCH))
