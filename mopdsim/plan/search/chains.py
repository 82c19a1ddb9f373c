"""Plans of RL alone, many side by side: one run, or one domain after the other, with beginnings that plans share.

Two cascades whose first steps are the same pass through the same scores; each such beginning is walked once. Runs
follow one another, so that seconds add up. Axes: D domain, C candidate, N draw. Leaves out: teachers and students
(`mopdsim.plan.search.rounds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.forecast.forecast import DAY, HOUR
from mopdsim.plan.question import Family
from mopdsim.plan.search.candidate import Group, Plan
from mopdsim.plan.search.stock import Costs, Path, Run, RunKind, Stock, equal_shares, run_kind
from mopdsim.recipes.catalogue import cascade_shares
from mopdsim.recipes.stage_fields import Normalizer

_NAMES = {"mixed_rl": "mixed", "single": "specialist"}  # the catalogue's


def chain(plan: Plan) -> Path:
    """The runs of a plan, in their order."""
    return tuple(map(Run, _kinds(plan.family, plan.groups, plan.normalizer, plan.replay), plan.rl_steps))


@cache
def _kinds(
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


def costs(stock: Stock, plans: Sequence[Plan]) -> Costs:
    """GPU-hours and days of plans without a teacher."""
    chains = [chain(plan) for plan in plans]
    for gpus in dict.fromkeys(plan.gpus for plan in plans):
        stock.time(
            (run for plan, runs in zip(plans, chains, strict=True) if plan.gpus == gpus for run in runs), gpus
        )
    seconds_CN = np.stack(
        [_seconds(stock, runs, plan.gpus) for plan, runs in zip(plans, chains, strict=True)]
    )
    gpus_C = np.array([plan.gpus for plan in plans])
    return Costs(gpu_hours_CN=seconds_CN * gpus_C[:, None] / HOUR, days_CN=seconds_CN / DAY)


def scores(stock: Stock, plans: Sequence[Plan]) -> Array:
    """Scores of plans without a teacher, (D, C, N)."""
    chains = [chain(plan) for plan in plans]
    for count in range(1, max(map(len, chains)) + 1):
        stock.prepare(runs[:count] for runs in chains if len(runs) >= count)
    return np.stack([stock.trained(runs).score_DN for runs in chains], axis=1)


def _seconds(stock: Stock, runs: Path, gpus: int) -> Array:
    """Seconds of all runs, (N,); infinite where one does not fit."""
    total_N = np.zeros(stock.question.base.draws)
    for run in runs:
        timed = stock.timed(run, gpus)
        total_N += np.inf if timed is None else timed.seconds_N
    return total_N
