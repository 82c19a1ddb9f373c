"""What no model can score: two rival domains that ask the same prompt and want different answers.

At dial d a prompt of either domain hides its marker with probability d, and no answer is right for both. Over the two
domains in equal shares one model therefore scores at most 1 - d / 2, whatever it was trained on; on one of them alone
it may score 1. Every model of a walk is held to this bound in every draw, and where nothing exceeds it nothing moves.
Leaves out: which domains are rivals, and how much less than the bound training reaches (`mopdsim.belief.dials`,
`mopdsim.belief.calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.belief.dials import rivalry
from mopdsim.facts.domains import Domain

Rivals = tuple[tuple[int, int, float], ...]  # places of two rival domains, and the dial that both reach
TOLERANCE = 0.05  # of two measured starts' mean above the bound: a finite test's


def rivals_of(domains: Sequence[Domain]) -> Rivals:
    """The rival pairs among these domains. UsageError where a dial is not from 0 to 1."""
    found = []
    for place, one in enumerate(domains):
        for other_place in range(place):
            dial = rivalry(domains[other_place].name, one.name)
            if dial > 0:
                found.append((other_place, place, dial))
    return tuple(found)


def bound(dial: float) -> float:
    """The best mean score of one model over two rivals in equal shares: 1 - d / 2."""
    return 1.0 - dial / 2.0


def within_bound(score_DN: Array, rivals: Rivals, holding: Sequence[int] = ()) -> Array:
    """The scores, lowered where a pair's mean lies above its bound: those of `holding` (what a stage trained) stay and
    their rivals yield; where both or neither hold, both yield alike. Stays in [0, 1]."""
    if not rivals:
        return score_DN
    held_DN = np.array(score_DN)
    for one, other, dial in rivals:
        excess_N = np.maximum(held_DN[one] + held_DN[other] - 2 * bound(dial), 0.0)
        share = 0.5 * (1.0 + (other in holding) - (one in holding))
        held_DN[one] = held_DN[one] - share * excess_N
        held_DN[other] = held_DN[other] - (1.0 - share) * excess_N
    return held_DN


def check_starts(domains: Sequence[Domain], rivals: Rivals) -> None:
    """UsageError where the user's own start scores of two rivals are more than any model can have."""
    for one, other, dial in rivals:
        pair = domains[one], domains[other]
        if any(row.start.grade != "measured" for row in pair):
            continue
        mean = sum(row.start.value for row in pair) / 2
        if mean > bound(dial) + TOLERANCE:
            raise UsageError(
                f"domain.{pair[1].name}: start = {pair[1].start.value:g}, with {pair[0].start.value:g} of its rival "
                f"{pair[0].name!r}: their mean is at most {bound(dial):g} at ambiguity {dial:g}, whatever the model: "
                "lower one of the two"
            )
