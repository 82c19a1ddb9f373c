"""A question that no plan meets: what binds, and the nearest limits that a plan does meet.

Leaves out: models that fit no layout, which the cost model refuses by itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.belief.calibration import Calibration
from mopdsim.plan.question import Question
from mopdsim.plan.search.evaluation import Outcome
from mopdsim.plan.search.explore import Found, explore

_RELAXED = (4.0, 16.0, 64.0)  # limits tried, in multiples, where a minimum score is out of reach
_KEYS = {"gpu_hours": "budget_gpu_hours", "usd": "budget_usd", "days": "deadline_days"}


def infeasible(question: Question, found: Found, calibration: Calibration | None = None) -> InfeasibleError:
    """The error to raise: one sentence with the binding limit and the nearest feasible one."""
    good = [outcome for outcome in found.outcomes if not _missing(question, outcome)]
    for factor in _RELAXED:
        if good:
            break
        good = [
            o for o in explore(relaxed(question, factor), calibration).outcomes if not _missing(question, o)
        ]
    if not good:
        return _out_of_reach(question, found)
    nearest = min(good, key=lambda outcome: _ratio(question, outcome))
    binding = {name: limit for name, limit in question.limits.items() if nearest.surely[name] > limit}
    if set(binding) == {"usd"} and not question.minimum:
        return InfeasibleError(
            f"budget_usd = {binding['usd']:g} buys no plan with probability {question.confidence:g}: the least that "
            f"does is budget_usd = {_up(nearest.surely['usd']):g} ({nearest.plan.label})"
        )
    asked = " and ".join(f"{_KEYS[name]} = {limit:g}" for name, limit in binding.items())
    needed = ", ".join(f"{_KEYS[name]} = {_up(nearest.surely[name]):g}" for name in binding)
    minimum = "".join(f" with minimum.{name} = {least:g}" for name, least in question.minimum.items())
    return InfeasibleError(
        f"no plan keeps {asked}{minimum} with probability {question.confidence:g}: what binds is "
        f"{' and '.join(_KEYS[name] for name in binding)}; the nearest that one keeps is {needed} "
        f"({nearest.plan.label})"
    )


def relaxed(question: Question, factor: float) -> Question:
    """The question with every limit multiplied."""

    def times(limit: float | None) -> float | None:
        return None if limit is None else limit * factor

    base = replace(
        question.base,
        budget_usd=times(question.base.budget_usd),
        deadline_days=times(question.base.deadline_days),
    )
    return replace(question, base=base, budget_gpu_hours=times(question.budget_gpu_hours))


def _out_of_reach(question: Question, found: Found) -> InfeasibleError:
    """No budget helps: the score itself is beyond every plan."""
    name, least = min(
        question.minimum.items(), key=lambda row: max(o.lowest[row[0]] for o in found.outcomes) - row[1]
    )
    reached = max(outcome.lowest[name] for outcome in found.outcomes)
    return InfeasibleError(
        f"minimum.{name} = {least:g} is what binds: the highest score of {name} that a plan within the limits keeps "
        f"with probability {question.confidence:g} is {reached:.3f}, and limits {_RELAXED[-1]:g} times as wide do not "
        "meet all minima; lower the minimum or the confidence"
    )


def _missing(question: Question, outcome: Outcome) -> bool:
    return any(outcome.lowest[name] < least for name, least in question.minimum.items())


def _ratio(question: Question, outcome: Outcome) -> float:
    """By what factor the limits would have to be widened for this plan."""
    return max(outcome.surely[name] / limit for name, limit in question.limits.items())


def _up(value: float) -> float:
    """Rounded up to three digits, so that asking again with it succeeds."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(np.ceil(value / unit) * unit)
