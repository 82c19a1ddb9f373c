"""Who scores which rows: each domain's prompts go to its own teachers, a misrouted share to another domain's.

A domain without a teacher is an error of the recipe (`mopdsim.recipes.recipe`), never a fallback. Leaves out: scoring.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mopdsim.recipes.recipe import Distill


@dataclass(frozen=True, kw_only=True)
class Route:
    """Consecutive prompts of one domain with the teachers (stage name -> weight) that score them."""

    domain: str
    prompts: slice
    teachers: Mapping[str, float]

    def rows(self, group: int) -> slice:
        return slice(self.prompts.start * group, self.prompts.stop * group)


def routes(stage: Distill, counts: Mapping[str, int], *, seed: int) -> list[Route]:
    """The routes of `counts` prompts a domain, in the order of the domains; misrouted prompts come last in each."""
    rng = random.Random(seed)
    found: list[Route] = []
    first = 0
    for domain, count in counts.items():
        own = stage.teachers_of(domain)
        others = [t.stage for t in stage.teachers if t.stage not in own]
        astray = sorted(
            rng.choice(others) for _ in range(count) if others and rng.random() < stage.misrouting
        )
        sent: list[tuple[int, Mapping[str, float]]] = [(count - len(astray), own)]
        sent += [(astray.count(name), {name: 1.0}) for name in dict.fromkeys(astray)]
        for size, teachers in sent:
            if size:
                found.append(Route(domain=domain, prompts=slice(first, first + size), teachers=teachers))
                first += size
    return found


def sampling_routes(stage: Distill, counts: Mapping[str, int], *, seed: int) -> list[Route]:
    """As `routes`, each with a single teacher: a domain's prompts are divided among its teachers by weight.

    Whole numbers are rounded at random (systematic sampling), so that each teacher's share is right on average.
    """
    rng = random.Random(f"{seed}/sampling")
    found: list[Route] = []
    for route in routes(stage, counts, seed=seed):
        first, size = route.prompts.start, route.prompts.stop - route.prompts.start
        edge, taken, offset = first, 0.0, rng.random()
        for name, weight in route.teachers.items():
            taken += weight
            stop = first + min(size, math.floor(size * taken + offset + 1e-9))
            if stop > edge:
                found.append(Route(domain=route.domain, prompts=slice(edge, stop), teachers={name: 1.0}))
            edge = stop
    return found


def by_teacher(found: Sequence[Route]) -> dict[str, list[Route]]:
    """The routes of each teacher."""
    names = dict.fromkeys(name for route in found for name in route.teachers)
    return {name: [route for route in found if name in route.teachers] for name in names}
