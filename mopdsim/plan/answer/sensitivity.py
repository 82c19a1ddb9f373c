"""Which inputs move the recommended plan's objective: first-order and total Sobol indices by group of inputs.

Two independent rows of worlds A and B; for each group, worlds A with that group's inputs taken from B. First order is
the share of the variance that the group explains alone, total what would be left if all but it were known; scipy's
estimators (Saltelli 2010). Groups are independent of one another: scores of a domain move together, so they are one.
Leaves out: the time model, which does not act on scores.
"""

from __future__ import annotations

from collections.abc import Callable
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
    "dispersion": ("dispersion_DN",),
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
    """First-order and total indices by group; both worlds hold the same, a power of two, number of draws."""
    from scipy.stats import sobol_indices

    mixed = {
        name: replace(one, **{field: getattr(other, field) for field in fields})
        for name, fields in GROUPS.items()
    }
    mixed |= {
        name: replace(one, constants={**one.constants, name: other.constants[name]}) for name in one.constants
    }
    base_N, other_N = utility_of(one), utility_of(other)
    moved = {name: utility_of(world) for name, world in mixed.items()}
    moved = {name: row_N for name, row_N in moved.items() if not np.array_equal(row_N, base_N)}
    if not moved:
        return {}
    evaluations: Any = {
        "f_A": base_N[None],
        "f_B": other_N[None],
        "f_AB": np.stack(list(moved.values()))[:, None],
    }
    found = sobol_indices(func=evaluations, n=len(base_N))
    first, total = np.ravel(found.first_order), np.ravel(found.total_order)
    return {name: (float(first[place]), float(total[place])) for place, name in enumerate(moved)}


def _world(question: Question, recommended: Finalist, calibration: Calibration | None, shift: int) -> World:
    seed = question.base.seed + shift
    scenario = replace(recommended.forecast.scenario, seed=seed, draws=SAMPLES)
    return world_of(scenario, calibration or default_calibration())
