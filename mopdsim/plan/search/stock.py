"""Pieces that many plans share: RL runs after so many steps, and the seconds and efforts of any stage.

A run that two plans share is trained and timed once here. Scores come from the forecast's own walk, seconds and efforts
from its own functions, with an axis of candidates before the draws. Axes: D domain, C candidate, N draw. Leaves out:
putting runs together (`mopdsim.plan.search.chains`, `mopdsim.plan.search.rounds`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration, default_calibration
from mopdsim.cost.stage_cost import Bill, bill
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import effort_of, length_of, machine_of, seconds_of, world_of
from mopdsim.plan.question import Question
from mopdsim.plan.search.candidate import Group, Plan, scenario_of
from mopdsim.quality.distillation import mistaken, pull
from mopdsim.quality.walk import Effort, Products, State, perform
from mopdsim.quality.world import World, chances
from mopdsim.recipes.amounts import Amounts, AmountsName
from mopdsim.recipes.recipe import BASE, AnyStage, Rl
from mopdsim.recipes.stage_fields import Normalizer

STUDENT = "student"  # the catalogue's name of a distillation
_BEFORE = "before"  # what a run starts from that does not start from the base


@dataclass(frozen=True, eq=False)
class RunKind:
    """An RL run but for its steps: stage name, share of the prompts by domain, normaliser, whether it goes on from
    another stage. `run_kind` makes one object of each, so that they are told apart by identity, which is fast."""

    name: str
    shares: tuple[tuple[str, float], ...]
    normalizer: Normalizer
    goes_on: bool


@cache
def run_kind(
    name: str, shares: tuple[tuple[str, float], ...], normalizer: Normalizer, *, goes_on: bool = False
) -> RunKind:
    """The kind of run of this description."""
    return RunKind(name, shares, normalizer, goes_on)


class Run(NamedTuple):
    """An RL run of so many steps."""

    kind: RunKind
    steps: int


class Timed(NamedTuple):
    """Seconds of a run by draw, and their median."""

    seconds_N: Array
    median: float


Path = tuple[Run, ...]  # runs from the base on, each from the one before


def equal_shares(group: Group) -> tuple[tuple[str, float], ...]:
    """Every domain of a group in equal shares."""
    return tuple((name, 1.0) for name in group)


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What plans come to: scores, GPU-hours and days by draw; infinite hours where a stage does not fit."""

    scores_DCN: Array
    gpu_hours_CN: Array
    days_CN: Array


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run leaves: scores of all domains and what training others did to them, (D, N), nats a token, (N,).
    pull_DN: on a student where it did not train, logits, 0 where it did (no array: it teaches nobody)."""

    score_DN: Array
    lifted_DN: Array
    kl_N: Array
    pull_DN: Array | float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Spends:
    """Amounts of one stage."""

    amounts: Mapping[str, Amounts]
    amounts_name: AmountsName


class Stock:
    """Memory of pieces, for one question."""

    def __init__(self, question: Question, calibration: Calibration | None = None) -> None:
        self.question = question
        self.calibration = calibration or default_calibration()
        self.domains = question.base.domains
        plain = simplest(question)
        self.machine = machine_of(plain, plain.recipe.stage[STUDENT])
        self.world = _with_candidates(world_of(plain, self.calibration))
        self._worlds: dict[str, World] = {}
        self._trained: dict[Path, Trained] = {}
        self._timed: dict[tuple[Run, int], Timed | None] = {}
        self._efforts: dict[Hashable, Effort] = {}
        self._bills: dict[tuple[Hashable, int], Bill | None] = {}
        self._rl = question.amounts("rl", 1)

    def on(self, question: Question) -> Stock:
        """The same pieces for a question that has another pool."""
        twin = copy(self)
        twin.question = question
        return twin

    def world_of(self, stage: str) -> World:
        """The world with what is drawn for this stage by name: the spread of seeds, (D, 1, N), and luck, (N,)."""
        if stage not in self._worlds:
            base = self.question.base
            spread, luck = chances(self.world.names, [stage], base.scope, seed=base.seed, draws=base.draws)
            spread = {name: row_DN[:, None, :] for name, row_DN in spread.items()}
            self._worlds[stage] = replace(self.world, spread=spread, luck=luck)
        return self._worlds[stage]

    @property
    def base(self) -> State:
        """The model before any stage, the same for all candidates, (D, 1, N)."""
        start_DN = self.world.start_DN
        return State(score_DN=start_DN, kl_N=np.zeros(start_DN.shape[1:]), lineage=(), waterfall=None)

    def trained(self, path: Path) -> Trained:
        """What is left after the last run of a path; `prepare` must have been told of it."""
        return self._trained[path]

    def prepare(self, paths: Iterable[Path], gpus: int) -> None:
        """Trains the last runs of paths that are not in stock, those of one kind side by side. What comes before them
        must be in stock."""
        new: dict[RunKind, dict[Path, None]] = {}
        for path in paths:
            if path not in self._trained:
                new.setdefault(path[-1].kind, {})[path] = None
        for kind, found in new.items():
            init = self._before([path[:-1] for path in found]) if kind.goes_on else None
            steps = [path[-1].steps for path in found]
            rows = self.train(kind, steps, gpus, init, teaches=not kind.goes_on)
            self._trained |= dict(zip(found, rows, strict=True))

    def _before(self, paths: Sequence[Path]) -> State:
        """The states after these paths, side by side."""
        rows = [self._trained[path] for path in paths]
        return State(
            score_DN=np.stack([row.score_DN for row in rows], axis=1),
            kl_N=np.zeros((len(rows), self.question.base.draws)),
            lineage=(),
            waterfall=None,
            lifted_DN=np.stack([row.lifted_DN for row in rows], axis=1),
        )

    def train(
        self, kind: RunKind, steps: Sequence[int], gpus: int, init: State | None, *, teaches: bool
    ) -> list[Trained]:
        """Runs of one kind after so many steps, from the base (None) or from as many states."""
        stage, world = stage_of(kind), self.world_of(kind.name)
        effort = self.effort(kind, stage, self._rl, np.array(steps), gpus)
        before = self.base if init is None else init
        spends = _Spends(amounts={stage.name: self._rl}, amounts_name=self.question.amounts_name)
        made = Products(states={stage.init: before}, judges={}, datasets={})
        after = perform(stage, spends, world, effort, made)
        assert isinstance(after, State) and after.lifted_DN is not None
        kl_CN = np.broadcast_to(after.kl_N, effort.compute_N.shape)
        lifted_DCN = np.broadcast_to(after.lifted_DN, after.score_DN.shape)
        rows = [
            Trained(score_DN=after.score_DN[:, at], lifted_DN=lifted_DCN[:, at], kl_N=kl_CN[at])
            for at in range(len(steps))
        ]
        if not teaches:
            return rows
        places = [world.index[name] for name in stage.domains]
        mistaken_DCN = mistaken(world.spill_DDN[places])
        pull_DCN = pull(before.score_DN, after.score_DN, mistaken_DCN, world.constants)
        pull_DCN[places] = 0.0
        return [replace(row, pull_DN=pull_DCN[:, at]) for at, row in enumerate(rows)]

    def effort(
        self, key: Hashable, stage: AnyStage, one_step: Amounts, steps_C: NDArray[np.int64], gpus: int
    ) -> Effort:
        """What a stage spends after so many steps, (C, N). It does not depend on the GPUs: where a step does not fit on
        these, its bill is that on the whole pool."""
        found = self.step_bill(key, stage, one_step, gpus)
        found = found or self.step_bill(key, stage, one_step, self.question.pool)
        if found is None:
            raise InfeasibleError(
                f"stage {stage.name!r} does not fit on {self.question.pool} GPUs: give more"
            )
        base, constants = self.question.base, self.world.constants
        if key not in self._efforts:
            self._efforts[key] = effort_of(base, stage, one_step, self.machine, 1, constants)
        one = self._efforts[key]
        return Effort(compute_N=steps_C[:, None] * one.compute_N, tokens_N=steps_C[:, None] * one.tokens_N)

    def seconds(
        self,
        key: Hashable,
        stage: AnyStage,
        one_step: Amounts | None,
        steps_C: NDArray[np.int64],
        gpus: int,
    ) -> Array | None:
        """A stage's seconds after so many steps, sweeps, reruns and failures included, (C, N); None where it does not
        fit."""
        found = self.step_bill(key, stage, one_step, gpus)
        if found is None:
            return None
        return seconds_of(self.question.base, found, steps_C, self._length(found))

    def step_bill(self, key: Hashable, stage: AnyStage, one_step: Amounts | None, gpus: int) -> Bill | None:
        """The bill of one step on so many GPUs, remembered by the stage's key; None where it does not fit."""
        if (key, gpus) not in self._bills:
            try:
                found = bill(stage, one_step, self.domains, self.machine, gpus=gpus)
            except InfeasibleError:
                self._bills[key, gpus] = None
            else:
                self._bills[key, gpus] = found
        return self._bills[key, gpus]

    def _length(self, found: Bill) -> Array:
        return np.ravel(length_of(self.question.base, found, self.world))

    def timed(self, run: Run, gpus: int) -> Timed | None:
        """A run's seconds; None where it does not fit. `time` must have been told of it."""
        return self._timed[run, gpus]

    def time(self, runs: Iterable[Run], gpus: int) -> None:
        """Times on so many GPUs the runs that were not, those of one kind side by side."""
        new: dict[RunKind, dict[int, None]] = {}
        for run in runs:
            if (run, gpus) not in self._timed:
                new.setdefault(run.kind, {})[run.steps] = None
        for kind, counts in new.items():
            seconds_CN = self.seconds(kind, stage_of(kind), self._rl, np.array([*counts]), gpus)
            found: list[Timed | None] = [None] * len(counts)
            if seconds_CN is not None:
                found = list(map(Timed, seconds_CN, np.median(seconds_CN, axis=1).tolist()))
            self._timed |= {(Run(kind, count), gpus): one for count, one in zip(counts, found, strict=True)}


@cache
def stage_of(kind: RunKind) -> Rl:
    """The stage of a run."""
    return Rl(
        name=kind.name,
        init=_BEFORE if kind.goes_on else BASE,
        domains=dict(kind.shares),
        normalizer=kind.normalizer,
    )


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
