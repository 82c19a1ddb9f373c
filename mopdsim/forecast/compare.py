"""Compare forecasts draw by draw: differences under common random numbers, and who is better how often.

Two recipes meet the same worlds (the same domains, interference, lengths and errors), so a difference is far
sharper than two levels. A difference counts as a tie when neither is better in 80% of draws or its median is
below a floor.
Leaves out: which recipe to choose under a budget (`mopdsim.plan.plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.forecast.forecast import Forecast, quantiles

SURE = 0.8
TIE = "tie"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number to compare: `sign` is 1 where more is better; differences below `floor` (`relative` to the
    baseline's median where said) are nothing."""

    of: Callable[[Forecast], Array]
    sign: int
    floor: float
    relative: bool = False


MEASURES: Mapping[str, Measure] = {
    "mean_score": Measure(of=lambda found: found.scores_DN.mean(axis=0), sign=1, floor=0.005),
    "worst_score": Measure(of=lambda found: found.scores_DN.min(axis=0), sign=1, floor=0.005),
    "gpu_hours": Measure(of=lambda found: found.gpu_hours_N, sign=-1, floor=0.02, relative=True),
    "usd": Measure(of=lambda found: found.usd_N, sign=-1, floor=0.02, relative=True),
    "days": Measure(of=lambda found: found.days_N, sign=-1, floor=0.02, relative=True),
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Other minus baseline in one measure, (N,), the probability that the other is better, and the
    verdict.
    """

    difference_N: Array
    probability_better: float
    verdict: str

    def to_document(self) -> dict[str, Any]:
        return {
            "difference": quantiles(self.difference_N),
            "probability_better": self.probability_better,
            "verdict": self.verdict,
        }


def labels(forecasts: Sequence[Forecast]) -> list[str]:
    """A distinct label for each forecast: its recipe's name, numbered where it repeats."""
    names = [found.scenario.recipe.name for found in forecasts]
    return [
        name if names.count(name) == 1 else f"{name} {names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


def difference(
    baseline: Forecast, other: Forecast, measure: Measure, names: tuple[str, str] = ("baseline", "other")
) -> Difference:
    """How `other` differs from `baseline`. UsageError unless they share domains, draws and seed."""
    for what in ("draws", "seed"):
        ours, theirs = getattr(baseline.scenario, what), getattr(other.scenario, what)
        if ours != theirs:
            raise UsageError(f"{what} {ours} and {theirs} differ: compare forecasts of the same {what}")
    if set(baseline.world.names) != set(other.world.names):
        raise UsageError(
            f"domains {', '.join(baseline.world.names)} and {', '.join(other.world.names)} differ: compare "
            "recipes over the same domains"
        )
    level_N = measure.of(baseline)
    difference_N = measure.of(other) - level_N
    gain_N = measure.sign * difference_N
    probability = float(np.mean(gain_N > 0) + np.mean(gain_N == 0) / 2)
    floor = measure.floor * (abs(float(np.median(level_N))) if measure.relative else 1.0)
    sure = max(probability, 1 - probability) >= SURE and abs(float(np.median(gain_N))) >= floor
    winner = names[1] if probability > 0.5 else names[0]
    return Difference(
        difference_N=difference_N, probability_better=probability, verdict=winner if sure else TIE
    )


def compare(forecasts: Sequence[Forecast]) -> dict[str, Any]:
    """All forecasts, and each against the first in every measure and domain."""
    if len(forecasts) < 2:
        raise UsageError(f"{len(forecasts)} recipe given: compare needs at least two")
    names = labels(forecasts)
    first = forecasts[0]
    return {
        "baseline": names[0],
        "forecasts": {name: found.to_document() for name, found in zip(names, forecasts, strict=True)},
        "against_baseline": {
            name: {
                **{
                    key: difference(first, other, measure, (names[0], name)).to_document()
                    for key, measure in MEASURES.items()
                },
                "scores": {
                    domain: difference(first, other, _score(domain), (names[0], name)).to_document()
                    for domain in first.world.names
                },
            }
            for name, other in zip(names[1:], forecasts[1:], strict=True)
        },
    }


def _score(domain: str) -> Measure:
    return Measure(of=lambda found: found.scores_DN[found.world.index[domain]], sign=1, floor=0.005)
