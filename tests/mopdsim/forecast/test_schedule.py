"""List scheduling: bounds that hold for any jobs, capacity that is never exceeded, and the questions a lab
asks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import UsageError
from mopdsim.forecast.schedule import Job, Reliability, Timeline, place, stretched

GPUS = 96


def _job(name: str, hours: float, gpus: int = GPUS, *needs: str, **more: float) -> Job:
    return Job(
        name=name,
        seconds_N=np.array([hours * 3600.0]),
        gpus=gpus,
        needs=needs,
        priority=more.get("priority", 0),
    )


def _hours(timeline: Timeline) -> float:
    return float(timeline.makespan_N[0]) / 3600


@st.composite
def job_lists(draw: st.DrawFn) -> list[Job]:
    """A random DAG of jobs, parents first, with seconds in three draws."""
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 8))):
        needs = draw(st.sets(st.sampled_from([job.name for job in jobs]), max_size=3)) if jobs else set()
        seconds = draw(st.lists(st.floats(1, 1e6), min_size=3, max_size=3))
        jobs.append(
            Job(
                name=f"job_{number}",
                seconds_N=np.array(seconds),
                gpus=draw(st.integers(1, GPUS)),
                needs=tuple(sorted(needs)),
                priority=draw(st.floats(-1, 1)),
            )
        )
    return jobs


def _longest_chain(jobs: list[Job]) -> np.ndarray:
    """Seconds of the longest chain of dependencies: what no number of GPUs and teams can beat."""
    ends: dict[str, np.ndarray] = {}
    for job in jobs:
        ends[job.name] = job.seconds_N + np.max([ends[name] for name in job.needs], axis=0, initial=0.0)
    return np.max(list(ends.values()), axis=0)


@given(job_lists(), st.one_of(st.none(), st.integers(1, 3)))
def test_bounds_precedence_and_capacity(jobs: list[Job], teams: int | None) -> None:
    timeline = place(jobs, {"pool": GPUS}, teams=teams)
    work = sum(job.seconds_N * job.gpus for job in jobs)
    assert np.all(timeline.makespan_N >= _longest_chain(jobs) * (1 - 1e-9))
    assert np.all(timeline.makespan_N >= work / GPUS * (1 - 1e-9))
    places = {job.name: place for place, job in enumerate(timeline.jobs)}
    for job in timeline.jobs:
        for parent in job.needs:
            assert np.all(timeline.start_JN[places[job.name]] >= timeline.end_JN[places[parent]])
    for moment_N in timeline.start_JN:
        running_JN = (timeline.start_JN <= moment_N) & (moment_N < timeline.end_JN)
        busy_N = sum(job.gpus * running_JN[place] for place, job in enumerate(timeline.jobs))
        assert np.all(busy_N <= GPUS)
        assert teams is None or np.all(running_JN.sum(axis=0) <= teams)


def test_on_one_saturated_pool_parallel_teachers_are_no_faster_than_the_same_work_in_one_run() -> None:
    one_run = place([_job("mixed", 12)], {"pool": GPUS})
    whole_pool = place([_job(f"teacher_{n}", 3) for n in range(4)], {"pool": GPUS})
    quarters = place([_job(f"teacher_{n}", 12, GPUS // 4) for n in range(4)], {"pool": GPUS})
    assert _hours(one_run) == _hours(whole_pool) == _hours(quarters) == 12


def test_idle_capacity_and_pools_of_their_own_save_calendar_time() -> None:
    teachers = [_job(f"teacher_{n}", 3, GPUS // 4) for n in range(4)]
    assert _hours(place(teachers, {"pool": GPUS})) == 3
    assert _hours(place(teachers, {"pool": GPUS // 4})) == 12
    own = [Job(name=f"t{n}", seconds_N=np.array([10800.0]), gpus=8, pool=f"p{n}") for n in range(4)]
    assert _hours(place(own, {f"p{n}": 8 for n in range(4)})) == 3


def test_teams_limit_how_much_is_worked_on_at_once() -> None:
    teachers = [_job(f"teacher_{n}", 3, 8) for n in range(4)]
    assert [_hours(place(teachers, {"pool": GPUS}, teams=teams)) for teams in (1, 2, 4)] == [12, 6, 3]


def test_priority_decides_who_goes_first_and_the_longest_tail_otherwise() -> None:
    short, long = _job("short", 1), _job("long", 5)
    first = place([short, long], {"pool": GPUS}).jobs[0].name
    assert first == "long"
    urgent = place([_job("short", 1, GPUS, priority=1), long], {"pool": GPUS}).jobs[0].name
    assert urgent == "short"


def test_the_critical_path_is_the_longest_chain() -> None:
    jobs = [_job("a", 1, 8), _job("b", 5, 8), _job("c", 2, 8, "a", "b"), _job("d", 1, 8, "a")]
    timeline = place(jobs, {"pool": GPUS})
    assert timeline.critical_path == ("b", "c")
    assert _longest_chain(jobs)[0] == 7 * 3600


def test_failures_reruns_and_sweeps_stretch_a_stage_as_expected_on_average() -> None:
    plain_N = np.full((1, 20_000), 36_000.0)
    reliability = Reliability(
        failures_per_gpu_hour=2e-4,
        seconds_per_failure=900,
        rerun_probability=0.2,
        sweep_runs=2,
        sweep_fraction=0.25,
    )
    runs = 1 + 0.5 + 0.2 / 0.8
    expected = 36_000 * runs * (1 + 1024 / 3600 * 2e-4 * 900)
    longer_N = stretched(["teacher"], plain_N, [1024], reliability, seed=0)
    assert float(np.mean(longer_N)) == pytest.approx(expected, rel=0.01)
    calm = Reliability(failures_per_gpu_hour=0, rerun_probability=0)
    assert np.array_equal(stretched(["teacher"], plain_N, [1024], calm, seed=0), plain_N)


def test_stretching_never_shrinks_with_more_work() -> None:
    plain_CN = np.stack([np.full(500, 2e5), np.full(500, 1e5)])
    more_N, less_N = stretched(["x", "x"], plain_CN, [256, 256], Reliability(), seed=1)
    assert np.all(more_N > less_N)


def test_a_rerun_must_not_be_certain() -> None:
    with pytest.raises(UsageError, match="rerun_probability"):
        Reliability(rerun_probability=1.0)
