"""What the answer hangs on: where the recommendation changes, and which inputs move the recommended plan's objective.

Conflict, teacher quality, price and number of GPUs are each moved outward from where they are, in steps, until another
kind of plan is best; the interval is then halved. Conflict and teacher quality are judged on the finalists as they
stand; price on every plan that was evaluated; the number of GPUs on the finalists' structures with their steps and
splits chosen anew.

Sobol indices, first order and total, are by group of inputs: two independent rows of worlds A and B; for each group,
worlds A with that group's inputs taken from B. First order is the share of the variance that the group explains alone,
total what would be left if all but it were known; the estimators of Saltelli (2010), what they miss 0 and the total by
cut off. Groups are independent of one another: scores of a domain move together, so they are one. Leaves out: two
quantities moved at once; in the indices the time model, which does not act on scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.numbers import count, points, usd
from mopdsim.belief.calibration import default_calibration
from mopdsim.forecast.stage_draws import world_of
from mopdsim.plan import words
from mopdsim.plan.candidate import DISTILLED, Plan
from mopdsim.plan.evaluation import Evaluator, Outcome
from mopdsim.plan.explore import LEAST_STEPS, Found, fitting
from mopdsim.plan.finalists import FLOOR, Finalist
from mopdsim.plan.question import Question
from mopdsim.quality.world import World
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import ROOTS, Rl

SAME = "the same"
_HALVINGS = 6
_CONFLICTS = (0.1, 0.2, 0.4, 0.7, 1.0)
_GAPS = (0.01, 0.02, 0.05, 0.1, 0.2)
_FACTORS = (1.25, 1.6, 2.0, 3.0, 5.0)
_POOLS = (2.0, 4.0)
_POOL_HALVINGS = 2
_POOL_DRAWS = 64
_POOL_STRUCTURES = 4
_RL_FACTORS = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
_DISTILL_FACTORS = (0.5, 1.0, 2.0)


SHIFT = "the shift of K in every pair of domains (K below 0: they hurt each other when trained together)"
GAP = "the further gap of students below their teachers, in score"
PRICE = "USD a GPU-hour"
POOL = "GPUs of the pool"


@dataclass(frozen=True, kw_only=True)
class Tip:
    """What moved, where it is now, where the recommendation changes (None: nowhere within the range), and to what."""

    what: str
    now: float
    changes_at: float | None
    to: str | None
    range: list[float]

    @property
    def condition(self) -> str | None:
        """Where it changes, as the if-part of a sentence; None: nowhere."""
        at = self.changes_at
        if at is None:
            return None
        moved = "higher (domains help each other more)" if at > 0 else "lower (they hurt each other more)"
        return {
            SHIFT: f"if K of every pair were {count(abs(at))} {moved}",
            GAP: f"if students stayed {points(at).removeprefix('+')} further below their teachers",
            PRICE: f"at {usd(at)} a GPU-hour (now {usd(self.now)})",
            POOL: f"with {count(at)} GPUs (now {count(self.now)})",
        }[self.what]


def tips(question: Question, found: Found, finalists: Sequence[Finalist]) -> list[Tip]:
    """Every flip point, both directions, in the order conflict, teacher quality, price, GPUs."""
    shifted, gap = (_shifted(question, finalists, moved) for moved in ("conflict", "gap"))
    return [
        *(_tip(SHIFT, shifted, 0.0, [sign * step for step in _CONFLICTS]) for sign in (-1, 1)),
        _tip(GAP, gap, 0.0, _GAPS),
        *_price(question, found, finalists[0].plan),
        *_gpus(question, finalists),
    ]


def first_change(
    best: Callable[[float], str], now: float, outward: Sequence[float], *, halvings: int = _HALVINGS
) -> tuple[float | None, str | None]:
    """The nearest value, going outward, at which `best` differs from what it is now, halved down; None: nowhere."""
    here = best(now)
    same = now
    for value in outward:
        if best(value) == here:
            same = value
            continue
        changed = value
        for _ in range(halvings):
            middle = (same + changed) / 2
            if best(middle) == here:
                same = middle
            else:
                changed = middle
        return changed, best(changed)
    return None, None


def _tip(
    what: str,
    best: Callable[[float], str],
    now: float,
    outward: Sequence[float],
    *,
    halvings: int = _HALVINGS,
) -> Tip:
    """The first change going outward."""
    at, to = first_change(best, now, outward, halvings=halvings)
    return Tip(what=what, now=now, changes_at=at, to=to, range=[now, outward[-1] if outward else now])


def _shifted(question: Question, finalists: Sequence[Finalist], moved: str) -> Callable[[float], str]:
    """The best finalist's label in worlds where every conflict K, or the gap of students, is moved by so much; the
    recommended one's as long as it is as good."""

    def value(one: Finalist, added: float) -> float:
        acted_on = moved == "conflict" or one.plan.family in DISTILLED
        if not (added and acted_on):
            return float(question.value(one.utility_N))
        world, same = (
            one.forecast.world.shifted(**{moved: added}),
            untouched(one.forecast.scenario.recipe, moved),
        )
        return float(question.value(one.utility_in(question, world, same=same)))

    @cache
    def best(added: float) -> str:
        values = [value(one, added) for one in finalists]
        return finalists[0 if values[0] >= max(values) - FLOOR else int(np.argmax(values))].plan.label

    return best


def untouched(recipe: Recipe, moved: str) -> list[str]:
    """The stages that leave the same whatever K is, or the gap of students: no student is before them, and with K, each
    trains a root on one domain by reward."""
    found: list[str] = []
    for stage in recipe.stages:
        if moved == "conflict":
            same = isinstance(stage, Rl) and stage.init in ROOTS and len(stage.domains) == 1
        else:
            same = isinstance(stage, Rl) and (stage.init in ROOTS or stage.init in found)
        if same:
            found.append(stage.name)
    return found


def _price(question: Question, found: Found, recommended: Plan) -> list[Tip]:
    """The dollars a GPU-hour at which a budget in dollars leaves another kind of plan."""
    if "usd" not in question.limits:
        return []
    price = question.usd_per_gpu_hour

    outcomes = [
        o for o in found.outcomes if all(o.lowest[n] >= least for n, least in question.minimum.items())
    ]
    surely = {name: np.array([outcome.surely[name] for outcome in outcomes]) for name in question.limits}
    values_P = np.array([outcome.value for outcome in outcomes])
    own_P = np.array([outcome.plan.structure == recommended.structure for outcome in outcomes])

    def left(dollars: float) -> list[Outcome]:
        limits = {**question.limits, "usd": question.limits["usd"] * price / dollars}
        kept_P = np.all([surely[name] <= limit for name, limit in limits.items()], axis=0)
        new = np.flatnonzero(kept_P & np.isnan(values_P))
        for place, outcome in zip(new, found.evaluator.valued(outcomes[at] for at in new), strict=True):
            outcomes[place], values_P[place] = outcome, outcome.value
        some = [np.where(wanted_P, values_P, -np.inf) for wanted_P in (kept_P, kept_P & own_P)]
        return [outcomes[values.argmax()] for values in some if values.max() > -np.inf]

    best = _choice(left, recommended, price)
    return [_tip(PRICE, best, price, [price * factor**power for factor in _FACTORS]) for power in (-1, 1)]


def _choice(
    left: Callable[[float], Sequence[Outcome]], recommended: Plan, now: float
) -> Callable[[float], str]:
    """The best plan at a value, in words. "the same": a plan of the recommended structure is behind the best
    by no more than it is now, or by less than the difference that counts. left: of the outcomes that keep the limits
    at this value the best, and the best of the recommended structure if there is one."""

    def behind(ranked: Sequence[Outcome]) -> float:
        return ranked[0].value - ranked[1].value if len(ranked) > 1 else np.inf

    def best(value: float) -> str:
        ranked = left(value)
        if not ranked:
            return "no plan keeps the limits"
        return SAME if behind(ranked) <= allowed else ranked[0].plan.label

    found = left(now)
    allowed = max(FLOOR, behind(found) if found else 0.0)
    return best


def _gpus(question: Question, finalists: Sequence[Finalist]) -> list[Tip]:
    """The size of the pool at which another kind of plan is best."""
    plans = [one.plan for one in finalists[:_POOL_STRUCTURES]]
    here = Evaluator(question.on(draws=min(_POOL_DRAWS, question.base.draws)))

    @cache
    def left(size: float) -> list[Outcome]:
        evaluator = here.on(here.question.on(pools={"pool": max(1, round(size))}))
        tried = [near for plan in plans for near in _resized(plan, evaluator.question, evaluator.options)]
        best = evaluator.first_within(tried)
        own = evaluator.first_within([plan for plan in tried if plan.structure == plans[0].structure])
        return [outcome for outcome in (best, own) if outcome is not None]

    pool = float(question.pool)
    best = _choice(left, plans[0], pool)
    found = []
    for power in (-1, 1):
        outward = [pool * factor**power for factor in _POOLS if pool * factor**power >= 1]
        tip = _tip(POOL, best, pool, outward, halvings=_POOL_HALVINGS)
        found.append(tip if tip.changes_at is None else replace(tip, changes_at=round(tip.changes_at)))
    return found


def _resized(plan: Plan, question: Question, options: Sequence[int]) -> Iterator[Plan]:
    """The plan on another pool: more or fewer steps, GPUs as many as run side by side, or all."""
    useful = {options[0], fitting(options, question, len(plan.groups))}
    for rl, distill, gpus in product(_RL_FACTORS, _DISTILL_FACTORS, sorted(useful)):
        if distill != 1.0 and plan.family not in DISTILLED:
            continue
        yield replace(
            plan,
            rl_steps=tuple(max(LEAST_STEPS, round(steps * rl)) for steps in plan.rl_steps),
            distill_steps=max(LEAST_STEPS, round(plan.distill_steps * distill)) if plan.distill_steps else 0,
            gpus=gpus,
            student_gpus=options[0],
        )


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


def sensitivity(question: Question, recommended: Finalist) -> list[dict[str, Any]]:
    """First-order and total index of each group of inputs on the recommended plan's objective, largest total first."""
    one, other = (_world(question, recommended, shift) for shift in (0, _OTHER_SEED))
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


def _world(question: Question, recommended: Finalist, shift: int) -> World:
    seed = question.base.seed + shift
    scenario = replace(recommended.forecast.scenario, seed=seed, draws=SAMPLES)
    return world_of(scenario, default_calibration())
