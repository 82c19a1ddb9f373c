"""Which domains share a teacher: all groupings of a few domains; of many, those that a signed graph suggests.

The graph joins two domains by what they do to each other, both directions added: positive helps. Groupings are read
off it by joining the friendliest pairs first (each step a level of the hierarchy) and by communities of its positive
part; the search then moves single domains (`neighbours`). Leaves out: what a grouping is worth
(`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.plan.search.candidate import Group

if TYPE_CHECKING:
    import networkx as nx

ENUMERATED = 8  # up to so many domains, 4,140 groupings, all are tried
Grouping = tuple[Group, ...]


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


def interference_graph(domains: Sequence[str], conflict_DDN: Array) -> nx.Graph:
    """Domains as nodes; edge `weight`: the mean over draws of K in both directions added."""
    import networkx as nx

    mean_DD = conflict_DDN.reshape(len(domains), len(domains), -1).mean(axis=2)
    graph = nx.Graph()
    graph.add_nodes_from(domains)
    for first, one in enumerate(domains):
        for second in range(first + 1, len(domains)):
            graph.add_edge(
                one, domains[second], weight=float(mean_DD[first, second] + mean_DD[second, first])
            )
    return graph


def suggested(graph: nx.Graph, most: int | None = None) -> list[Grouping]:
    """Groupings read off the signed graph, from one teacher a domain to one for all; each once."""
    import networkx as nx

    order = {name: place for place, name in enumerate(graph)}
    found = dict.fromkeys(_joined(graph))
    positive = nx.Graph()
    positive.add_nodes_from(graph)
    positive.add_weighted_edges_from((u, v, w) for u, v, w in graph.edges(data="weight") if w > 0)
    if positive.number_of_edges():
        for resolution in (0.5, 1.0, 2.0):
            parts = nx.community.greedy_modularity_communities(
                positive, weight="weight", resolution=resolution
            )
            found[ordered([tuple(part) for part in parts], order)] = None
    return [grouping for grouping in found if most is None or len(grouping) <= most]


def ordered(groups: Sequence[Sequence[str]], order: dict[str, int]) -> Grouping:
    """Domains within groups, and groups by their first domain, in the question's order."""
    inside = [tuple(sorted(group, key=order.__getitem__)) for group in groups if group]
    return tuple(sorted(inside, key=lambda group: order[group[0]]))


def _joined(graph: nx.Graph) -> list[Grouping]:
    """Average linkage: the two groups with the highest mean weight between them are joined, again and again."""
    order = {name: place for place, name in enumerate(graph)}
    groups: list[Group] = [(name,) for name in graph]
    levels = [ordered(groups, order)]
    while len(groups) > 1:
        pairs = [(one, other) for place, one in enumerate(groups) for other in groups[place + 1 :]]
        friendliest = max(pairs, key=lambda pair: _mean_weight(graph, *pair))
        groups = [group for group in groups if group not in friendliest] + [friendliest[0] + friendliest[1]]
        levels.append(ordered(groups, order))
    return levels


def _mean_weight(graph: nx.Graph, one: Group, other: Group) -> float:
    return float(np.mean([graph[u][v]["weight"] for u in one for v in other]))


def neighbours(grouping: Grouping, domains: Sequence[str], most: int | None = None) -> list[Grouping]:
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
    return [near for near in found if most is None or len(near) <= most]
