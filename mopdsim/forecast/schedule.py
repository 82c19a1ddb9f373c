"""Schedule: when each stage runs, on one GPU pool shared by teams or on pools of their own, in every draw.

List scheduling: stages are placed one by one, by priority and then by the longest remaining path, each as
soon as its parents are done, a team is free and enough GPUs of its pool are free. Failures, reruns and sweeps
stretch a stage. Axes: J job, N draw, S slot (a group of GPUs that is allocated together).
Leaves out: preemption, stages that change their number of GPUs while running, people beyond their number of
teams.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.documents import number
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import standard_normal, uniform

_SLOTS = 64
_ARRIVALS = 32
_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage to be placed: `gpus` of `pool` for `seconds_N`, after the jobs in `needs`. Higher priority goes
    first.
    """

    name: str
    seconds_N: Array
    gpus: int
    needs: tuple[str, ...] = ()
    pool: str = "pool"
    priority: float = 0.0

    @cached_property
    def median_s(self) -> float:
        """Median seconds over draws."""
        return float(np.median(self.seconds_N))


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What stretches a stage. Defaults: failures of Llama 3 405B (419 in 54 days on 16,384 GPUs, published);
    the rest is prior. A rerun repeats the whole stage, and may itself have to be repeated; a sweep runs
    `sweep_runs` trials of `sweep_fraction` of the stage before it."""

    failures_per_gpu_hour: float = 2.0e-5
    seconds_per_failure: float = 1800.0
    rerun_probability: float = 0.1
    sweep_runs: int = 0
    sweep_fraction: float = 0.25

    def __post_init__(self) -> None:
        for field in ("failures_per_gpu_hour", "seconds_per_failure", "sweep_runs"):
            number(getattr(self, field), field, least=0)
        if not 0 <= self.rerun_probability < 1:
            raise UsageError(f"rerun_probability = {self.rerun_probability}: must be at least 0 and below 1")
        if not 0 < self.sweep_fraction <= 1:
            raise UsageError(f"sweep_fraction = {self.sweep_fraction}: must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Start and end of every job in seconds, (J, N), in the order of `jobs`."""

    jobs: tuple[Job, ...]
    start_JN: Array
    end_JN: Array

    @property
    def makespan_N(self) -> Array:
        """Seconds until the last job ends."""
        return self.end_JN.max(axis=0)

    @property
    def critical_path(self) -> tuple[str, ...]:
        """The longest chain of dependencies at median seconds, first job first."""
        by_name = {job.name: job for job in self.jobs}
        ends: dict[str, float] = {}
        for job in self.jobs:
            ends[job.name] = job.median_s + max((ends[name] for name in job.needs), default=0.0)
        path = [max(ends, key=ends.__getitem__)]
        while by_name[path[-1]].needs:
            path.append(max(by_name[path[-1]].needs, key=ends.__getitem__))
        return tuple(reversed(path))


def placed(banks: Sequence[tuple[Array, int]], after_X: Array, seconds_X: Array) -> tuple[Array, Array]:
    """Start and end of a job that takes so many of each bank at once, no earlier than `after_X`.

    A bank is equal things, GPUs by the slot or teams, by when each is free again, (..., S slot): 0 at first, and
    changed here. Rows of draws (and candidates) stand side by side."""
    for free_XS, slots in banks:
        free_XS.sort(axis=-1)
        after_X = np.maximum(after_X, free_XS[..., slots - 1])
    end_X = after_X + seconds_X
    for free_XS, slots in banks:
        free_XS[..., :slots] = end_X[..., None]
    return after_X, end_X


def place(jobs: Sequence[Job], pools: Mapping[str, int], *, teams: int | None = None) -> Timeline:
    """Places every job; `jobs` come after their parents. `pools`: GPUs of each pool; `teams`: jobs that can
    be worked on at once (None: any number). Every job's pool is one of them and holds it: a scenario has checked that.
    """
    ordered = _ordered(jobs)
    units = {
        name: slot_gpus(size, [job.gpus for job in ordered if job.pool == name])
        for name, size in pools.items()
    }
    shape = (max(job.seconds_N.size for job in ordered),)
    free = {name: np.zeros((*shape, size // units[name])) for name, size in pools.items()}
    idle = [] if teams is None else [(np.zeros((*shape, min(teams, len(ordered)))), 1)]
    starts: dict[str, Array] = {}
    ends: dict[str, Array] = {}
    for job in ordered:
        slots = slots_of(pools[job.pool], units[job.pool], job.gpus)
        parents_N = [np.zeros(shape), *(ends[name] for name in job.needs)]
        starts[job.name], ends[job.name] = placed(
            [(free[job.pool], slots), *idle], np.maximum.reduce(parents_N), job.seconds_N
        )
    return Timeline(
        jobs=tuple(ordered),
        start_JN=np.stack([starts[job.name] for job in ordered]),
        end_JN=np.stack([ends[job.name] for job in ordered]),
    )


def stretched(
    names: Sequence[str], seconds_CN: Array, gpus_C: Sequence[int], reliability: Reliability, *, seed: int
) -> Array:
    """Seconds of stages, one a row, with sweep, reruns and failures drawn, (C, N); a stage's draws depend on its name
    and the seed alone."""
    draws = seconds_CN.shape[1]
    work_CN = seconds_CN * np.stack([_runs(name, reliability, seed, draws) for name in names])
    expected_CN = work_CN / _HOUR * np.array(gpus_C)[:, None] * reliability.failures_per_gpu_hour
    failures_CN = _poisson([f"failures:{name}" for name in names], expected_CN, seed)
    return np.asarray(work_CN + failures_CN * reliability.seconds_per_failure)


def _ordered(jobs: Sequence[Job]) -> list[Job]:
    """Jobs in the order of placing: parents first, then by priority, then by the longest path that
    remains.
    """
    by_name = {job.name: job for job in jobs}
    children: dict[str, list[str]] = {name: [] for name in by_name}
    missing = {job.name: len(job.needs) for job in jobs}
    for job in jobs:
        for parent in job.needs:
            children[parent].append(job.name)
    tail: dict[str, float] = {}
    for job in reversed(jobs):
        longest = max((tail[name] for name in children[job.name]), default=0.0)
        tail[job.name] = job.median_s + longest
    turn = {job.name: place for place, job in enumerate(jobs)}
    ready = [
        (-by_name[name].priority, -tail[name], turn[name]) for name, count in missing.items() if count == 0
    ]
    heapq.heapify(ready)
    ordered = []
    while ready:
        job = jobs[heapq.heappop(ready)[2]]
        ordered.append(job)
        for child in children[job.name]:
            missing[child] -= 1
            if missing[child] == 0:
                heapq.heappush(ready, (-by_name[child].priority, -tail[child], turn[child]))
    return ordered


def slot_gpus(size: int, requests: Sequence[int]) -> int:
    """GPUs that are allocated together: the largest group that fits every request, in a pool of at most 64
    groups.
    """
    return max(math.gcd(size, *requests), -(-size // _SLOTS))


def slots_of(size: int, unit: int, gpus: int) -> int:
    """Slots of `unit` GPUs that a job takes in a pool of this size."""
    return min(-(-gpus // unit), size // unit)


@lru_cache(maxsize=1024)
def _runs(name: str, reliability: Reliability, seed: int, draws: int) -> Array:
    """How many times a stage's length is run in all: sweep, the run itself, and its repeats."""
    runs_N = np.full(draws, 1.0 + reliability.sweep_runs * reliability.sweep_fraction)
    if reliability.rerun_probability > 0:
        luck_N = 1.0 - uniform(f"rerun:{name}", seed, draws)
        runs_N = runs_N + np.floor(np.log(luck_N) / math.log(reliability.rerun_probability))
    return runs_N


def _poisson(keys: Sequence[str], mean_CN: Array, seed: int) -> Array:
    """Poisson counts that grow with the mean in every draw, of one process a row: arrivals of a unit process before
    `mean` (large means: the normal limit). (C, N)"""
    draws = mean_CN.shape[1]
    counts_CN = np.empty_like(mean_CN)
    for place, key in enumerate(keys):
        counts_CN[place] = np.count_nonzero(_arrivals(key, seed, draws) < mean_CN[place, :, None], axis=1)
    if np.all(mean_CN <= _ARRIVALS / 2):
        return counts_CN
    noise_CN = np.stack([standard_normal(key, seed, draws) for key in keys])
    large_CN = np.maximum(mean_CN + np.sqrt(mean_CN) * noise_CN, 0.0)
    return np.where(mean_CN > _ARRIVALS / 2, large_CN, counts_CN)


@lru_cache(maxsize=256)  # a plan's stages meet the same failures after any number of steps
def _arrivals(key: str, seed: int, draws: int) -> Array:
    """The first arrival times of a unit Poisson process in every draw, (N, arrivals)."""
    gaps_NA = -np.log1p(-uniform(key, seed, draws * _ARRIVALS)).reshape(draws, _ARRIVALS)
    return np.cumsum(gaps_NA, axis=1)
