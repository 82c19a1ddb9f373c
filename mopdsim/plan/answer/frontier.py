"""The Pareto frontier of money, calendar and quality among the plans that keep the limits.

Leaves out: plans beyond the limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.plan.search.evaluation import Outcome

MOST = 40  # points shown
_DIGITS = 3  # of the objective: a smaller difference is none


def undominated(points_PX: Array) -> list[int]:
    """Places of the points that no other point equals or betters in every column (less is better), and betters in
    one; of equal points the first."""
    left_P = np.lexsort(points_PX.T[::-1])  # no point is beaten by a later one
    left_XP = points_PX[left_P].T
    kept: list[int] = []
    while left_P.size:
        kept.append(int(left_P[0]))
        unbeaten_P = (left_XP < left_XP[:, :1]).any(axis=0)
        left_P, left_XP = left_P[unbeaten_P], left_XP[:, unbeaten_P]
    return kept


def frontier(outcomes: Sequence[Outcome], most: int = MOST) -> list[Outcome]:
    """Outcomes that no other beats in median dollars, median days and objective at once, cheapest first; of many,
    spread evenly."""
    if not outcomes:
        return []
    points_PX = np.array([[o.median["usd"], o.median["days"], -round(o.value, _DIGITS)] for o in outcomes])
    kept = sorted(undominated(points_PX), key=lambda place: (points_PX[place, 0], points_PX[place, 2]))
    if len(kept) > most:
        best = min(kept, key=lambda place: points_PX[place, 2])
        spread = {kept[round(place)] for place in np.linspace(0, len(kept) - 1, most - 1)}
        kept = [place for place in kept if place in spread | {best}]
    return [outcomes[place] for place in kept]
