"""In which order stages are begun: long chains first, or a better order where trying some finds one.

The stages of a plan are a graph, workers are few, and seconds of stages are estimates; so the order is looked for anew
whenever a stage has ended, as if the rest took as long as was thought. Leaves out: running stages
(`trainer.runs.execute`), their seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from trainer.runs.plan import Node, Plan

TRIES = 500
LOOKS = 100_000  # at a stage, about, in all tries
SHAKEN = 0.7  # by how much of itself a chain's length is moved in a try, at most


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who is at work. left: what is left of each stage that runs, by key. ready: keys of stages whose weights are
    there, of those that run too. fits: whether stages of these keys can run side by side."""

    count: int
    left: Mapping[str, float]
    ready: Collection[str]
    fits: Callable[[Collection[str]], bool]


def ordered(
    plan: Plan, waiting: Sequence[Node], weights: Mapping[str, float], workers: Workers
) -> list[Node]:
    """The stages that wait, in the order to begin them. weights: seconds of each, or what goes with them."""
    ranks = ranks_of(plan, weights)
    best = sorted(waiting, key=lambda node: -ranks[node.key])
    tries = 0 if workers.count == 1 or len(waiting) < 2 else min(TRIES, LOOKS // len(waiting) ** 2)
    if not tries:
        return best
    shortest, noise = makespan(best, weights, workers), random.Random(0)
    for _ in range(tries):
        shaken = {node.key: ranks[node.key] * (1 + noise.uniform(-SHAKEN, SHAKEN)) for node in waiting}
        tried = sorted(waiting, key=lambda node: -shaken[node.key])
        if (whole := makespan(tried, weights, workers)) < shortest:
            best, shortest = tried, whole
    return best


def ranks_of(plan: Plan, weights: Mapping[str, float]) -> dict[str, float]:
    """Weight of the longest chain that starts at each stage."""
    after: dict[str, float] = dict.fromkeys(plan.node, 0.0)
    for node in reversed(plan.nodes):
        whole = after[node.key] + weights[node.key]
        for key in node.needs:
            after[key] = max(after.get(key, 0.0), whole)
    return {node.key: after[node.key] + weights[node.key] for node in plan.nodes}


def makespan(order: Sequence[Node], weights: Mapping[str, float], workers: Workers) -> float:
    """When the last stage ends, if those that wait are begun in this order, each once what it needs is there."""
    waiting, now, ends = list(order), 0.0, dict(workers.left)
    missing = {node.key for node in order} | set(ends) - set(workers.ready)
    while waiting or ends:
        for node in [node for node in waiting if missing.isdisjoint(node.needs)]:
            if len(ends) == workers.count:
                break
            if not ends or workers.fits((*ends, node.key)):
                ends[node.key] = now + weights[node.key]
                waiting.remove(node)
        first = min(ends, key=ends.__getitem__)
        now = ends.pop(first)
        missing.discard(first)
    return now
