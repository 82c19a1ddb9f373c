"""Pieces that many plans share: what RL runs leave after so many steps, and the seconds of any stage.

Each is made once and remembered, those that are asked for together side by side. Scores come from the forecast's own
walk, seconds and efforts from its own functions, with an axis of candidates before the draws: runs of one kind after
other numbers of steps. Axes: D domain, C candidate, N draw. Leaves out: putting pieces together
(`mopdsim.plan.evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

from mopdsim.base.arrays import Array, middle
from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import default_calibration
from mopdsim.cost.stage_cost import Bill, bill, bill_together
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import effort_of, length_of, machine_of, seconds_of, world_of
from mopdsim.plan.candidate import Group, Plan, scenario_of
from mopdsim.plan.question import Question
from mopdsim.quality.distillation import pull
from mopdsim.quality.step import Effort, State
from mopdsim.quality.walk import Products, perform
from mopdsim.quality.world import World, chances
from mopdsim.recipes.catalogue import REWARD_GROUP
from mopdsim.recipes.stage import BASE, Amounts, Distill, Merge, Normalizer, Rl

Key = TypeVar("Key", bound=Hashable)
Piece = TypeVar("Piece")

STUDENT = "student"  # the catalogue's name of a distillation
_BEFORE = "before"  # what a run starts from that does not start from the base


@dataclass(frozen=True, eq=False)
class Kind:
    """A stage but for its steps, and the kind whose step costs as much, if that is another. There is one object of
    each, so that they are told apart by identity, which is fast."""

    stage: Rl | Distill | Merge
    like: Kind | None = None


class Run(NamedTuple):
    """A stage of so many steps."""

    kind: Kind
    steps: int


Shares = tuple[tuple[str, float], ...]


@cache
def rl_kind(name: str, shares: Shares, normalizer: Normalizer, *, goes_on: bool = False) -> Kind:
    """RL on domains in these shares. goes_on: from what another stage left, not from the base."""
    init = _BEFORE if goes_on else BASE
    return Kind(Rl(name=name, init=init, domains=dict(shares), normalizer=normalizer), like=_nameless(shares))


@cache
def _nameless(shares: Shares) -> Kind:
    """RL on these domains, whatever it is called."""
    return Kind(Rl(name="rl", domains=dict(shares)))


def equal_shares(group: Group) -> Shares:
    """Every domain of a group in equal shares."""
    return tuple((name, 1.0) for name in group)


Path = tuple[Run, ...]  # RL from the base on, each from the one before


class Timed(NamedTuple):
    """Seconds of a run by draw, and their median; infinite where it does not fit."""

    seconds_N: Array
    median: float


class Trained(NamedTuple):
    """What a run leaves: scores of all domains and what training others did to them, (D, N), nats a token, (N,).
    pull_DN: on a student where it did not train, logits, 0 where it did (no array: it teaches nobody)."""

    score_DN: Array
    lifted_DN: Array
    kl_N: Array
    pull_DN: Array | float = 0.0


def remembered(
    memory: dict[Key, Piece], keys: Iterable[Key], make: Callable[[list[Key]], Iterable[Piece]]
) -> list[Piece]:
    """The pieces of these keys; those that are not in memory are made together, each once."""
    keys = list(keys)
    new = [key for key in dict.fromkeys(keys) if key not in memory]
    if new:
        memory |= zip(new, make(new), strict=True)
    return [memory[key] for key in keys]


class Stock:
    """Memory of pieces, for one question."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.domains = question.base.domains
        plain = simplest(question)
        self.machine = machine_of(plain, plain.recipe.stage[STUDENT])
        self.world = _with_candidates(world_of(plain, default_calibration()))
        self._rl = question.amounts("rl", 1)
        self._trained: dict[Path, Trained] = {}
        self._timed: dict[tuple[Run, int], Timed] = {}
        self._efforts: dict[Kind, Effort] = {}
        self._bills: dict[tuple[Kind, int], tuple[Bill, Array] | None] = {}
        self._worlds: dict[Kind, World] = {}

    def on(self, question: Question) -> Stock:
        """The same pieces for a question that has another pool."""
        twin = copy(self)
        twin.question = question
        return twin

    @property
    def base(self) -> State:
        """The model before any stage, the same for all candidates, (D, 1, N)."""
        start_DN = self.world.start_DN
        return State(score_DN=start_DN, kl_N=np.zeros(start_DN.shape[1:]), lineage=(), waterfall=None)

    def world_of(self, kind: Kind) -> World:
        """The world with what is drawn for this stage by name: the spread of seeds, (D, 1, N), and luck, (N,)."""
        (world,) = remembered(self._worlds, [kind], self._worlds_of)
        return world

    def _worlds_of(self, kinds: Sequence[Kind]) -> Iterator[World]:
        base = self.question.base
        for kind in kinds:
            name = kind.stage.name
            spread, luck = chances(self.world.names, [name], base.scope, seed=base.seed, draws=base.draws)
            yield replace(self.world, spread={name: spread[name][:, None]}, luck=luck)

    def trained(self, paths: Iterable[Path]) -> list[Trained]:
        """What the last run of each path leaves, all paths being as long. Only those of one run teach."""
        return remembered(self._trained, paths, self._trained_last)

    def _trained_last(self, paths: Sequence[Path]) -> list[Trained]:
        runs, init, alone = [path[-1] for path in paths], self.base, len(paths[0]) == 1
        if not alone:
            before = self.trained(path[:-1] for path in paths)
            score_DCN, lifted_DCN = (
                np.stack(rows, axis=1) for rows in zip(*(row[:2] for row in before), strict=True)
            )
            init = replace(init, score_DN=score_DCN, lifted_DN=lifted_DCN)
        return self.train(runs, init, teaches=alone)

    def train(self, runs: Sequence[Run], init: State, *, teaches: bool) -> list[Trained]:
        """What runs leave. init: a state for each side by side, or one for all. teaches: with what a student gets of
        it."""
        alike: dict[Kind, list[int]] = {}
        for place, run in enumerate(runs):
            alike.setdefault(run.kind, []).append(place)
        found: dict[int, Trained] = {}
        for kind, places in alike.items():
            own = init
            if init.score_DN.shape[1] > 1:
                lifted_DCN = None if init.lifted_DN is None else init.lifted_DN[:, places]
                own = replace(init, score_DN=init.score_DN[:, places], lifted_DN=lifted_DCN)
            rows = self._side_by_side(kind, [runs[at].steps for at in places], own, teaches=teaches)
            found |= zip(places, rows, strict=True)
        return [found[place] for place in range(len(runs))]

    def _side_by_side(
        self, kind: Kind, steps: Sequence[int], init: State, *, teaches: bool
    ) -> Iterator[Trained]:
        """Runs of one kind after so many steps."""
        stage, world, one = kind.stage, self.world_of(kind), self.one_step(kind)
        steps_C1 = np.array(steps)[:, None]
        effort = Effort(compute_N=steps_C1 * one.compute_N, tokens_N=steps_C1 * one.tokens_N)
        made = Products(states={stage.init: init}, judges={}, datasets={})
        after = perform(stage, self.amounts(stage), self.question.amounts_name, world, effort, made)
        assert isinstance(stage, Rl) and isinstance(after, State) and after.lifted_DN is not None
        score_DCN, shape = after.score_DN, after.score_DN.shape
        lifted_DCN, kl_CN = np.broadcast_to(after.lifted_DN, shape), np.broadcast_to(after.kl_N, shape[1:])
        pull_DCN: Array | None = None
        if teaches:
            pull_DCN = pull(init.score_DN, score_DCN, world.constants)
            pull_DCN[[world.index[name] for name in stage.domains]] = 0.0
        for at in range(len(steps)):
            pull_DN = 0.0 if pull_DCN is None else pull_DCN[:, at]
            yield Trained(score_DCN[:, at], lifted_DCN[:, at], kl_CN[at], pull_DN)

    def amounts(self, stage: Rl | Distill | Merge) -> Amounts | None:
        """What one step of a stage spends; None of a merge."""
        match stage:
            case Rl():
                return self._rl
            case Distill():
                group = REWARD_GROUP if stage.reward_mix else 1
                return self.question.amounts("distill", 1, group=group)
            case Merge():
                return None

    def one_step(self, kind: Kind) -> Effort:
        """What one step of a stage brings, (N,), whatever it runs on."""
        (effort,) = remembered(self._efforts, [kind.like or kind], self._efforts_of)
        return effort

    def _efforts_of(self, kinds: Sequence[Kind]) -> Iterator[Effort]:
        base, constants = self.question.base, self.world.constants
        for kind in kinds:
            yield effort_of(base, kind.stage, self.amounts(kind.stage), self.machine, 1, constants)

    def seconds(self, runs: Iterable[tuple[Run, int]]) -> list[Timed]:
        """The seconds of each run on so many GPUs: sweeps, reruns and failures included."""
        return remembered(self._timed, runs, self._seconds_of)

    def _seconds_of(self, runs: Sequence[tuple[Run, int]]) -> list[Timed]:
        base = self.question.base
        found = [Timed(np.full(base.draws, np.inf), np.inf)] * len(runs)
        kinds = [(run.kind.like or run.kind, gpus) for run, gpus in runs]
        fitting = [
            (place, runs[place][0], *own)
            for place, own in enumerate(remembered(self._bills, kinds, self._bills_of))
            if own is not None
        ]
        if fitting:
            places, here, bills, lengths = zip(*fitting, strict=True)
            names, steps = [run.kind.stage.name for run in here], [run.steps for run in here]
            seconds_CN = seconds_of(base, names, bills, steps, np.stack(lengths))
            medians = middle(np.sort(seconds_CN, axis=1)).tolist()
            for place, seconds_N, median in zip(places, seconds_CN, medians, strict=True):
                found[place] = Timed(seconds_N, median)
        return found

    def _bills_of(self, kinds: Sequence[tuple[Kind, int]]) -> Iterator[tuple[Bill, Array] | None]:
        """Of each kind on so many GPUs the bill of one step, and the length of answers relative to it, (N,); None where
        it does not fit."""
        for gpus in dict.fromkeys(gpus for _, gpus in kinds):
            stages = [kind.stage for kind, on in kinds if on == gpus]
            spending = [
                (own, amounts, None)
                for own in stages
                for amounts in [self.amounts(own)]
                if not isinstance(own, Merge) and amounts is not None
            ]
            bill_together(spending, self.domains, self.machine, gpus=gpus)
        for kind, gpus in kinds:
            try:
                found = bill(kind.stage, self.amounts(kind.stage), self.domains, self.machine, gpus=gpus)
            except InfeasibleError:
                yield None
            else:
                yield found, np.ravel(length_of(self.question.base, found, self.world))


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


def _with_candidates(world: World) -> World:
    """The world with an axis of one for candidates before the draws, without what is drawn for stages by name."""
    arrays = {
        field.name: getattr(world, field.name)[..., None, :]
        for field in fields(World)
        if field.name.endswith("N")
    }
    return replace(world, **arrays, spread={}, luck={})
