"""Which domains share a teacher: all groupings of a few domains; of many, those that a signed graph suggests.

The graph joins two domains by what they do to each other, both directions added: positive helps. Groupings are read
off it by joining the friendliest pairs first (each step a level of the hierarchy) and by communities of its positive
part; the search then moves single domains (`neighbours`). Leaves out: what a grouping is worth
(`mopdsim.plan.explore`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.plan.candidate import Group

ENUMERATED = 6  # up to so many domains, 203 groupings, all are tried
Grouping = tuple[Group, ...]
Level = list[tuple[int, ...]]  # groups by the places of their domains


def partitions(domains: Sequence[str], most: int | None = None) -> Iterator[Grouping]:
    """Every grouping of the domains into at most `most` groups, each once, groups in the order of their first
    domain."""
    if not domains:
        yield ()
        return

    def extend(place: int, groups: list[list[str]]) -> Iterator[Grouping]:
        if place == len(domains):
            yield tuple(tuple(group) for group in groups)
            return
        for group in groups:
            group.append(domains[place])
            yield from extend(place + 1, groups)
            group.pop()
        if most is None or len(groups) < most:
            groups.append([domains[place]])
            yield from extend(place + 1, groups)
            groups.pop()

    yield from extend(0, [])


def friendliness(conflict_DDN: Array) -> Array:
    """What two domains do to each other: the mean over draws of K in both directions added, (D, D)."""
    mean_DD = conflict_DDN.reshape(*conflict_DDN.shape[:2], -1).mean(axis=2)
    return np.asarray(mean_DD + mean_DD.T)


def suggested(domains: Sequence[str], weight_DD: Array, most: int | None = None) -> list[Grouping]:
    """Groupings read off the signed graph, from one teacher a domain to one for all; each once."""
    order = {name: place for place, name in enumerate(domains)}
    levels = [*_joined(weight_DD), *(communities(weight_DD, resolution) for resolution in (0.5, 1.0, 2.0))]
    named = [ordered([[domains[place] for place in group] for group in level], order) for level in levels]
    return [level for level in dict.fromkeys(named) if most is None or len(level) <= most]


def communities(weight_DD: Array, resolution: float) -> Level:
    """Communities of the positive weights by greedy modularity (Clauset, Newman and Moore 2004): the two connected
    groups whose union adds most to it are joined, until none adds anything."""
    weight_GG = np.maximum(weight_DD * (1 - np.eye(len(weight_DD))), 0.0)
    groups: Level = [(place,) for place in range(len(weight_DD))]
    while weight_GG.any():
        share_GG = weight_GG / weight_GG.sum()
        whole_G = share_GG.sum(axis=1)
        gain_GG = share_GG - resolution * whole_G[:, None] * whole_G
        gain_GG[(weight_GG == 0) | np.eye(len(groups), dtype=bool)] = -np.inf
        one, other = sorted(np.unravel_index(gain_GG.argmax(), gain_GG.shape))
        if gain_GG[one, other] < 0:
            break
        weight_GG[one] += weight_GG[other]
        weight_GG[:, one] += weight_GG[:, other]
        weight_GG = np.delete(np.delete(weight_GG, other, axis=0), other, axis=1)
        groups[one] += groups.pop(other)
    return groups


def ordered(groups: Sequence[Sequence[str]], order: dict[str, int]) -> Grouping:
    """Domains within groups, and groups by their first domain, in the question's order."""
    inside = [tuple(sorted(group, key=order.__getitem__)) for group in groups if group]
    return tuple(sorted(inside, key=lambda group: order[group[0]]))


def _joined(weight_DD: Array) -> list[Level]:
    """Average linkage: the two groups with the highest mean weight between them are joined, again and again."""
    groups: Level = [(place,) for place in range(len(weight_DD))]
    levels = [groups]
    while len(groups) > 1:
        one, other = max(combinations(groups, 2), key=lambda pair: float(weight_DD[np.ix_(*pair)].mean()))
        groups = [group for group in groups if group not in (one, other)] + [one + other]
        levels.append(groups)
    return levels


@lru_cache(maxsize=4096)  # a search asks for those of its best groupings again and again
def neighbours(grouping: Grouping, domains: Group, most: int | None = None) -> tuple[Grouping, ...]:
    """Groupings one step away: a domain moved to another group or to its own, two domains swapped, two groups
    joined. domains: all of them, in the question's order."""
    order = {name: place for place, name in enumerate(domains)}
    found: dict[Grouping, None] = {}
    for source, group in enumerate(grouping):
        for name in group:
            rest = [tuple(d for d in g if d != name) for g in grouping]
            found[ordered([*rest, (name,)], order)] = None
            for target in range(len(grouping)):
                if target != source:
                    moved = [(*g, name) if place == target else g for place, g in enumerate(rest)]
                    found[ordered(moved, order)] = None
    for first in range(len(grouping)):
        for second in range(first + 1, len(grouping)):
            kept = [g for place, g in enumerate(grouping) if place not in (first, second)]
            found[ordered([*kept, grouping[first] + grouping[second]], order)] = None
            for one in grouping[first]:
                for other in grouping[second]:
                    swap = {one: other, other: one}
                    found[ordered([[swap.get(d, d) for d in g] for g in grouping], order)] = None
    found.pop(ordered(grouping, order), None)
    return tuple(near for near in found if most is None or len(near) <= most)
