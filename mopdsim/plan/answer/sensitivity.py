"""Which inputs move the recommended plan's objective: first-order and total Sobol indices by group of inputs.

Two independent rows of worlds A and B; for each group, worlds A with that group's inputs taken from B. First order is
the share of the variance that the group explains alone, total what would be left if all but it were known; the
estimators of Saltelli (2010), what they miss 0 and the total by cut off. Groups are independent of one another: scores
of a domain move together, so they are one.
Leaves out: the time model, which does not act on scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import Calibration, default_calibration
from mopdsim.forecast.stage_draws import world_of
from mopdsim.plan.answer import words
from mopdsim.plan.answer.finalists import Finalist
from mopdsim.plan.question import Question
from mopdsim.quality.world import World

SAMPLES = 512  # a power of two, as the estimators want
_OTHER_SEED = 7_919
GROUPS = {
    "start and asymptote": ("start_DN", "asymptote_DN", "demonstrated_DN"),
    "midpoint": ("midpoint_DN",),
    "steepness": ("steepness_DN",),
    "distill_tokens": ("distill_tokens_DN",),
    "response length": ("length_DN",),
    "conflict": ("conflict_DDN",),
    "spill": ("spill_DDN",),
    "seeds": ("spread", "luck"),
}


def sensitivity(
    question: Question, recommended: Finalist, calibration: Calibration | None = None
) -> list[dict[str, Any]]:
    """First-order and total index of each group of inputs on the recommended plan's objective, largest total first."""
    one, other = (_world(question, recommended, calibration, shift) for shift in (0, _OTHER_SEED))
    found = indices(lambda world: recommended.utility_in(question, world), one, other)
    return sorted(
        (
            {"input": name, "what": words.group(name), "first": first, "total": total}
            for name, (first, total) in found.items()
        ),
        key=lambda row: -float(row["total"]),
    )


def indices(utility_of: Callable[[World], Array], one: World, other: World) -> dict[str, tuple[float, float]]:
    """First-order and total indices by group, 0 <= first <= total; both worlds hold the same number of draws."""
    mixed = {
        name: replace(one, **{field: getattr(other, field) for field in fields})
        for name, fields in GROUPS.items()
    }
    watched = _Watched(one.constants)
    base_N, other_N = utility_of(replace(one, constants=watched)), utility_of(other)
    mixed |= {
        name: replace(one, constants={**one.constants, name: other.constants[name]})
        for name in one.constants
        if name in watched.read  # the others move nothing
    }
    variance = float(np.var([base_N, other_N]))
    centred_N = other_N - np.mean([base_N, other_N])
    found = {}
    for name, world in mixed.items():
        moved_N = utility_of(world) - base_N
        if not moved_N.any():
            continue
        total = float(np.mean(moved_N**2)) / 2 / variance
        first = float(np.mean(centred_N * moved_N)) / variance
        found[name] = min(max(first, 0.0), total), total
    return found


class _Watched(dict[str, Array]):
    """Constants that remember which of them were read."""

    def __init__(self, constants: Mapping[str, Array]) -> None:
        super().__init__(constants)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Array:
        self.read.add(name)
        return super().__getitem__(name)


def _world(question: Question, recommended: Finalist, calibration: Calibration | None, shift: int) -> World:
    seed = question.base.seed + shift
    scenario = replace(recommended.forecast.scenario, seed=seed, draws=SAMPLES)
    return world_of(scenario, calibration or default_calibration())
