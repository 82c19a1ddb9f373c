"""Pieces that many plans share: RL runs after so many steps, and the seconds and efforts of any stage.

A run that two plans share is trained and timed once here. Scores come from the forecast's own walk, seconds and efforts
from its own functions, with an axis of candidates before the draws. Runs on as many domains are trained side by side,
whichever those are: each candidate meets the world with its own domains in the first places. Axes: D domain, C
candidate, P candidate or one for all of them, N draw. Leaves out: putting runs together (`mopdsim.plan.evaluation`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from mopdsim.recipes.recipe import BASE, AnyStage, Rl
from mopdsim.recipes.stage import Amounts, Normalizer

STUDENT = "student"  # the catalogue's name of a distillation
_BEFORE = "before"  # what a run starts from that does not start from the base
_WHOLE = ("start_DN", "asymptote_DN")  # what RL reads of domains that it does not train
_SIDE = 32  # runs at a time: their arrays stay in the processor's cache


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


class Costs(NamedTuple):
    """GPU-hours and days of plans by draw; infinite where a stage does not fit."""

    gpu_hours_CN: Array
    days_CN: Array


class Trained(NamedTuple):
    """What a run leaves: scores of all domains and what training others did to them, (D, N), nats a token, (N,).
    pull_DN: on a student where it did not train, logits, 0 where it did (no array: it teaches nobody)."""

    score_DN: Array
    lifted_DN: Array
    kl_N: Array
    pull_DN: Array | float = 0.0


class Stock:
    """Memory of pieces, for one question."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.domains = question.base.domains
        plain = simplest(question)
        self.machine = machine_of(plain, plain.recipe.stage[STUDENT])
        self.world = _with_candidates(world_of(plain, default_calibration()))
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

    def prepare(self, paths: Iterable[Path]) -> None:
        """Trains the last runs of paths that are not in stock; all of them start from the base, or none. What comes
        before them must be in stock."""
        new = [path for path in dict.fromkeys(paths) if path not in self._trained]
        if not new:
            return
        runs, goes_on = [path[-1] for path in new], new[0][-1].kind.goes_on
        init = self._before([path[:-1] for path in new]) if goes_on else self.base
        starts = np.arange(len(new)) if goes_on else np.zeros(len(new), dtype=int)
        self._trained |= dict(zip(new, self.train(runs, init, starts, teaches=not goes_on), strict=True))

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
        self, runs: Sequence[Run], init: State, starts: NDArray[np.int64], *, teaches: bool
    ) -> list[Trained]:
        """What runs leave. init: states side by side; starts: the place there of the state that each run starts from.
        teaches: with what a student gets of it."""
        alike: dict[Hashable, dict[RunKind, list[int]]] = {}
        for place, run in enumerate(runs):
            alike.setdefault(self._alike(run.kind), {}).setdefault(run.kind, []).append(place)
        found: dict[int, Trained] = {}
        for by_kind in alike.values():
            places = [place for own in by_kind.values() for place in own]
            for first in range(0, len(places), _SIDE):
                some = places[first : first + _SIDE]
                rows = self._side_by_side([runs[at] for at in some], init, starts[some], teaches=teaches)
                found |= zip(some, rows, strict=True)
        return [found[place] for place in range(len(runs))]

    def _alike(self, kind: RunKind) -> Hashable:
        """Runs that can be trained side by side: on as many domains in the same shares. Rivals must lie in the same
        places too."""
        names, shares = zip(*kind.shares, strict=True)
        return shares, kind.normalizer, kind.goes_on, names if self.world.rivals else ()

    def _side_by_side(
        self, runs: Sequence[Run], init: State, starts_C: NDArray[np.int64], *, teaches: bool
    ) -> list[Trained]:
        kinds = [run.kind for run in runs]
        if len(set(kinds)) == 1:
            kinds = kinds[:1]
        order_DP = np.stack([_order(kind, self.world.names) for kind in kinds], axis=1)
        stage, world = stage_of(kinds[0]), self._seen(kinds, order_DP)
        one = [self._one_step(kind, stage_of(kind), self._rl) for kind in kinds]
        steps_C = np.array([run.steps for run in runs])
        effort = _times(steps_C, np.stack([e.compute_N for e in one]), np.stack([e.tokens_N for e in one]))
        if init.score_DN.shape[1] == 1:  # all start alike
            starts_C = np.zeros(1, dtype=int)
        lifted_DN = np.zeros(1) if init.lifted_DN is None else init.lifted_DN
        before = replace(
            init,
            score_DN=init.score_DN[order_DP, starts_C],
            lifted_DN=np.broadcast_to(lifted_DN, init.score_DN.shape)[order_DP, starts_C],
        )
        made = Products(states={stage.init: before}, judges={}, datasets={})
        after = perform(stage, self._rl, self.question.amounts_name, world, effort, made)
        assert isinstance(after, State) and after.lifted_DN is not None
        kl_CN = np.broadcast_to(after.kl_N, effort.compute_N.shape)
        back_DC, all_C = np.argsort(order_DP, axis=0), np.arange(len(runs))
        score_DCN = after.score_DN[back_DC, all_C]
        lifted_DCN = np.broadcast_to(after.lifted_DN, after.score_DN.shape)[back_DC, all_C]
        if not teaches:
            return [Trained(score_DCN[:, at], lifted_DCN[:, at], kl_CN[at]) for at in all_C]
        count = len(stage.domains)
        pull_DCN = pull(before.score_DN, after.score_DN, world.constants)
        pull_DCN[:count] = 0.0
        pull_DCN = pull_DCN[back_DC, all_C]
        return [Trained(score_DCN[:, at], lifted_DCN[:, at], kl_CN[at], pull_DCN[:, at]) for at in all_C]

    def _seen(self, kinds: Sequence[RunKind], order_DP: NDArray[np.intp]) -> World:
        """The world as each of these runs meets it, the domains that it trains first, in the order of its shares.
        Domains and the stage go by the first kind's names. Where there are no rivals it holds no more than RL reads: of
        the domains that are not trained the starts and asymptotes alone, and no pairs that they are the source of."""
        whole, names = self.world, tuple(self.world.names[place] for place in order_DP[:, 0])
        trained_SP = order_DP if whole.rivals else order_DP[: len(kinds[0].shares)]
        rows = {
            field.name: getattr(whole, field.name)[order_DP if field.name in _WHOLE else trained_SP, 0]
            for field in fields(World)
            if field.name.endswith("_DN")
        }
        pairs = {
            name: getattr(whole, name)[trained_SP[:, None], order_DP[None], 0]
            for name in ("conflict_DDN", "spill_DDN")
        }
        drawn = [self.world_of(kind.name) for kind in kinds]
        columns = list(zip(kinds, drawn, order_DP.T, strict=True))
        own = kinds[0].name
        spread = np.stack([one.spread[kind.name][order_D, 0] for kind, one, order_D in columns], axis=1)
        at = {int(place): new for new, place in enumerate(order_DP[:, 0])}
        rivals = tuple((at[one], at[other], dial) for one, other, dial in whole.rivals)
        return replace(whole, names=names, **rows, **pairs, spread={own: spread}, luck={}, rivals=rivals)

    def effort(self, key: Hashable, stage: AnyStage, one_step: Amounts, steps_C: NDArray[np.int64]) -> Effort:
        """What a stage spends after so many steps, (C, N), whatever it runs on."""
        one = self._one_step(key, stage, one_step)
        return _times(steps_C, one.compute_N, one.tokens_N)

    def _one_step(self, key: Hashable, stage: AnyStage, one_step: Amounts) -> Effort:
        """What one step spends, (N,), remembered by the stage's key."""
        if key not in self._efforts:
            base, constants = self.question.base, self.world.constants
            self._efforts[key] = effort_of(base, stage, one_step, self.machine, 1, constants)
        return self._efforts[key]

    def seconds(
        self, key: Hashable, stage: AnyStage, one_step: Amounts | None, steps_C: NDArray[np.int64], gpus: int
    ) -> Array | None:
        """A stage's seconds after so many steps, sweeps, reruns and failures included, (C, N); None where it does not
        fit."""
        found = self.step_bill(key, stage, one_step, gpus)
        if found is None:
            return None
        base = self.question.base
        return seconds_of(base, found, steps_C, np.ravel(length_of(base, found, self.world)))

    def step_bill(self, key: Hashable, stage: AnyStage, one_step: Amounts | None, gpus: int) -> Bill | None:
        """The bill of one step on so many GPUs, remembered by the stage's key; None where it does not fit."""
        if (key, gpus) not in self._bills:
            self._bills[key, gpus] = None
            with suppress(InfeasibleError):
                self._bills[key, gpus] = bill(stage, one_step, self.domains, self.machine, gpus=gpus)
        return self._bills[key, gpus]

    def timed(self, run: Run, gpus: int) -> Timed | None:
        """A run's seconds; None where it does not fit. `time` must have been told of it."""
        return self._timed[run, gpus]

    def time(self, runs: Iterable[Run], gpus: int) -> None:
        """Times on so many GPUs the runs that were not, those of one kind side by side."""
        new: dict[RunKind, dict[int, None]] = {}
        for run in runs:
            if (run, gpus) not in self._timed:
                new.setdefault(run.kind, {})[run.steps] = None
        unbilled = [(stage_of(kind), self._rl, None) for kind in new if (kind, gpus) not in self._bills]
        bill_together(unbilled, self.domains, self.machine, gpus=gpus)
        for kind, counts in new.items():
            seconds_CN = self.seconds(kind, stage_of(kind), self._rl, np.array([*counts]), gpus)
            found: list[Timed | None] = [None] * len(counts)
            if seconds_CN is not None:
                found = list(map(Timed, seconds_CN, middle(np.sort(seconds_CN, axis=1)).tolist()))
            self._timed |= {(Run(kind, count), gpus): one for count, one in zip(counts, found, strict=True)}


def _times(steps_C: NDArray[np.int64], compute_N: Array, tokens_N: Array) -> Effort:
    """The effort of so many steps, (C, N)."""
    return Effort(compute_N=steps_C[:, None] * compute_N, tokens_N=steps_C[:, None] * tokens_N)


@cache
def _order(kind: RunKind, names: tuple[str, ...]) -> NDArray[np.intp]:
    """The places of the domains that a run trains, then of the others, (D,)."""
    trained = [names.index(name) for name, _ in kind.shares]
    return np.array([*trained, *(place for place in range(len(names)) if place not in trained)])


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
