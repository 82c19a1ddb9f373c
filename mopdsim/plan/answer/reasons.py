"""Why the recommended plan is best, and what it costs if it is not: causes of its lead, regret over the same worlds.

A score's distance from its base is split into causes that add up (the forecast's waterfall); two plans differ cause by
cause. Compute that runs out is booked with what training brings, since only their sum is comparable between recipes.
Leaves out: the words (`mopdsim.plan.answer.words`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.plan.answer import words
from mopdsim.plan.answer.finalists import FLOOR, Finalist
from mopdsim.plan.question import Question
from mopdsim.quality.walk import Cause

Part = Cause | Literal["start"]

_SHOWN = 3
_LEAST = 0.1  # points: a smaller difference is no reason


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Against one rival: its lead in points of score, and the causes of it, largest first."""

    against: str
    points: float
    usd_ratio: float
    causes: tuple[tuple[Part, float], ...]

    @property
    def sentence(self) -> str:
        """In words."""
        ahead = f"{self.points:.1f} points {'ahead of' if self.points >= 0 else 'behind'}".replace("-", "")
        told = "; ".join(words.cause(cause, points) for cause, points in self.causes)
        return f"{ahead} {self.against}, at {self.usd_ratio:.2g} times its cost" + (
            f": {told}" if told else ""
        )

    def to_document(self) -> dict[str, Any]:
        return {
            "against": self.against,
            "points": self.points,
            "usd_ratio": self.usd_ratio,
            "causes": dict(self.causes),
            "sentence": self.sentence,
        }


def reasons(question: Question, finalists: Sequence[Finalist]) -> list[Reason]:
    """The recommended plan against the best of each other family, in their order."""
    best = finalists[0]
    rivals: dict[str, Finalist] = {}
    for one in finalists[1:]:
        if one.plan.family != best.plan.family:
            rivals.setdefault(one.plan.family, one)
    return [_reason(question, best, rival) for rival in rivals.values()]


def _reason(question: Question, best: Finalist, rival: Finalist) -> Reason:
    ours, theirs = _causes(question, best), _causes(question, rival)
    ahead = {cause: 100 * (ours[cause] - theirs[cause]) for cause in ours}
    ranked = sorted(ahead.items(), key=lambda row: -abs(row[1]))
    return Reason(
        against=rival.plan.label,
        points=sum(ahead.values()),
        usd_ratio=float(np.median(best.forecast.usd_N) / np.median(rival.forecast.usd_N)),
        causes=tuple(row for row in ranked[:_SHOWN] if abs(row[1]) >= _LEAST),
    )


def _causes(question: Question, one: Finalist) -> dict[Part, float]:
    """Mean over draws of what counts, by causes that add up to it: weighted over domains, or of each draw's worst."""
    state = one.forecast.output
    assert state.waterfall is not None
    rows_DN: dict[Part, Array] = {"start": one.forecast.states[state.root].score_DN}
    rows_DN |= {cause: row_DN for cause, row_DN in state.waterfall.items()}
    if question.objective == "worst":
        lowest_N, draws_N = state.score_DN.argmin(axis=0), np.arange(state.score_DN.shape[1])
        found = {part: float(row_DN[lowest_N, draws_N].mean()) for part, row_DN in rows_DN.items()}
    else:
        weights_D = np.array([question.weights.get(name, 1.0) for name in question.domains])
        shares_D = weights_D / weights_D.sum()
        found = {part: float(shares_D @ row_DN.mean(axis=1)) for part, row_DN in rows_DN.items()}
    found["gain"] += found.pop("shortfall")
    return found


def regret(finalists: Sequence[Finalist]) -> dict[str, float]:
    """What being wrong costs: in what share of the worlds another finalist is ahead, and by how much it is there."""
    lost_N = np.max([one.utility_N for one in finalists], axis=0) - finalists[0].utility_N
    wrong_N = lost_N >= FLOOR
    loss = float(lost_N[wrong_N].mean()) if wrong_N.any() else 0.0
    return {"probability": float(wrong_N.mean()), "loss": loss}
