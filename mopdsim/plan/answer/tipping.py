"""Where the recommendation changes: at what conflict, teacher quality, price and number of GPUs.

Each quantity is moved outward from where it is, in steps, until another kind of plan is best; the interval is then
halved. Conflict and teacher quality are judged on the finalists as they stand; price on every plan that was evaluated;
the number of GPUs on the finalists' structures with their steps and splits chosen anew. Leaves out: two quantities
moved at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration
from mopdsim.plan.answer.finalists import FLOOR, Finalist
from mopdsim.plan.question import Question
from mopdsim.plan.search.candidate import DISTILLED, Plan
from mopdsim.plan.search.evaluation import Evaluator, Outcome
from mopdsim.plan.search.explore import Found, fitting
from mopdsim.plan.search.moves import LEAST_STEPS
from mopdsim.plan.search.stock import Stock

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


@dataclass(frozen=True, kw_only=True)
class Tip:
    """What moved, where it is now, where the recommendation changes (None: nowhere within the range), and to what."""

    what: str
    now: float
    at: float | None
    to: str | None
    tried: tuple[float, float]

    def to_document(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "now": self.now,
            "changes_at": self.at,
            "to": self.to,
            "range": list(self.tried),
        }


def tips(
    question: Question, found: Found, finalists: Sequence[Finalist], calibration: Calibration | None = None
) -> list[Tip]:
    """Every flip point, both directions, in the order conflict, teacher quality, price, GPUs."""

    def of_conflict(added: float) -> str:
        return _in_worlds(question, finalists, conflict=added)

    def of_gap(added: float) -> str:
        return _in_worlds(question, finalists, cap_gap=added)

    shift = "the shift of K in every pair of domains (K below 0: they hurt each other when trained together)"
    gap = "the further gap of students below their teachers, in score"
    return [
        *_tips(shift, of_conflict, _CONFLICTS),
        *_tips(gap, of_gap, _GAPS, downward=False),
        *_price(question, found, finalists[0].plan),
        *_gpus(question, finalists, calibration),
    ]


def first_change(
    best: Callable[[float], str], now: float, outward: Sequence[float], *, halvings: int = _HALVINGS
) -> tuple[float | None, str | None]:
    """The nearest value, going outward, at which `best` differs from what it is now, halved down; None: nowhere."""
    here, same = best(now), now
    for value in outward:
        there = best(value)
        if there == here:
            same = value
            continue
        changed = value
        for _ in range(halvings):
            middle = (same + changed) / 2
            label = best(middle)
            if label == here:
                same = middle
            else:
                changed, there = middle, label
        return changed, there
    return None, None


def _tips(
    what: str, best: Callable[[float], str], steps: Sequence[float], *, downward: bool = True
) -> list[Tip]:
    """Both directions from nothing added, or upward alone."""
    found = []
    for sign in (-1, 1) if downward else (1,):
        outward = [sign * step for step in steps]
        at, to = first_change(best, 0.0, outward)
        found.append(Tip(what=what, now=0.0, at=at, to=to, tried=(0.0, outward[-1])))
    return found


def _in_worlds(question: Question, finalists: Sequence[Finalist], **moved: float) -> str:
    """The best finalist where the worlds are shifted so; the recommended one as long as it is as good."""
    values = [
        float(
            question.value(one.utility_in(question, one.forecast.world.shifted(**moved), one.alone))
            if any(moved.values())
            else question.value(one.utility_N)
        )
        for one in finalists
    ]
    best = 0 if values[0] >= max(values) - FLOOR else int(np.argmax(values))
    return finalists[best].plan.label


def _price(question: Question, found: Found, recommended: Plan) -> list[Tip]:
    """The dollars a GPU-hour at which a budget in dollars leaves another kind of plan."""
    if "usd" not in question.limits:
        return []
    price = question.usd_per_gpu_hour

    ranked = sorted(
        (o for o in found.outcomes if all(o.lowest[n] >= least for n, least in question.minimum.items())),
        key=lambda outcome: -outcome.value,
    )
    surely = {name: np.array([outcome.surely[name] for outcome in ranked]) for name in question.limits}

    def left(dollars: float) -> list[Outcome]:
        limits = {**question.limits, "usd": question.limits["usd"] * price / dollars}
        kept_P = np.all([surely[name] <= limit for name, limit in limits.items()], axis=0)
        return [ranked[place] for place in np.flatnonzero(kept_P)]

    best = _choice(left, recommended, price)
    tipped = []
    for power in (-1, 1):
        outward = [price * factor**power for factor in _FACTORS]
        at, to = first_change(best, price, outward)
        tipped.append(Tip(what="USD a GPU-hour", now=price, at=at, to=to, tried=(price, outward[-1])))
    return tipped


def _choice(
    left: Callable[[float], Sequence[Outcome]], recommended: Plan, now: float
) -> Callable[[float], str]:
    """The best plan at a value, in words. "the same": a plan of the recommended structure is behind the best
    by no more than it is now, or by less than the difference that counts. left: outcomes that keep the limits
    at this value, best first."""

    def behind(ranked: Sequence[Outcome]) -> float:
        own = (outcome.value for outcome in ranked if outcome.plan.structure == recommended.structure)
        return ranked[0].value - next(own, -np.inf)

    def best(value: float) -> str:
        ranked = left(value)
        if not ranked:
            return "no plan keeps the limits"
        return SAME if behind(ranked) <= allowed else ranked[0].plan.label

    found = left(now)
    allowed = max(FLOOR, behind(found) if found else 0.0)
    return best


def _gpus(question: Question, finalists: Sequence[Finalist], calibration: Calibration | None) -> list[Tip]:
    """The size of the pool at which another kind of plan is best."""
    plans = [one.plan for one in finalists[:_POOL_STRUCTURES]]
    stock = Stock(question.on(draws=min(_POOL_DRAWS, question.base.draws)), calibration)

    @cache
    def left(size: float) -> list[Outcome]:
        pool = max(1, round(size))
        smaller = stock.question.on(pools={"pool": pool})
        evaluator = Evaluator(smaller, stock=stock.on(smaller))
        tried = [near for plan in plans for near in _resized(plan, smaller, evaluator.options)]
        try:
            ranked = evaluator.best(evaluator.evaluate(tried))
        except InfeasibleError:
            return []
        return [outcome for outcome in ranked if outcome.feasible]

    pool = float(question.pool)
    best = _choice(left, plans[0], pool)
    found = []
    for power in (-1, 1):
        outward = [pool * factor**power for factor in _POOLS if pool * factor**power >= 1]
        at, to = first_change(best, pool, outward, halvings=_POOL_HALVINGS)
        end = outward[-1] if outward else pool
        found.append(
            Tip(
                what="GPUs of the pool",
                now=pool,
                at=None if at is None else round(at),
                to=to,
                tried=(pool, end),
            )
        )
    return found


def _resized(plan: Plan, question: Question, options: Sequence[int]) -> list[Plan]:
    """The plan on another pool: more or fewer steps, GPUs as many as run side by side, or all."""
    found = []
    useful = {options[0], fitting(options, question, len(plan.groups))}
    for rl, distill, gpus in product(_RL_FACTORS, _DISTILL_FACTORS, sorted(useful)):
        if distill != 1.0 and plan.family not in DISTILLED:
            continue
        found.append(
            replace(
                plan,
                rl_steps=tuple(max(LEAST_STEPS, round(steps * rl)) for steps in plan.rl_steps),
                distill_steps=max(LEAST_STEPS, round(plan.distill_steps * distill))
                if plan.distill_steps
                else 0,
                gpus=gpus,
                student_gpus=options[0],
            )
        )
    return found
