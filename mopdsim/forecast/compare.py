"""Forecasts beside each other: draw by draw, and all published systems and plain rivals at one budget of FLOPs.

Two recipes meet the same worlds (the same domains, interference, lengths and errors), so a difference is far
sharper than two levels. A difference counts as a tie when neither is better in 80% of draws or its median is
below a floor. In the comparison of all, every recipe's steps are scaled by one factor until its training FLOPs,
teachers and data included, equal the budget (`mopdsim.forecast.at_budget`). cap: what the output's teachers could give,
the mean over domains of the best own teacher. below_start: probability that any domain ends under the base's score;
collapse: that a distillation on the way lost what it had gained.
Leaves out: which recipe to choose under a budget (`mopdsim.plan.plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count, duration, share, signed, usd
from mopdsim.forecast.at_budget import AtBudget, at_budget, training_flops
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.forecast.scenario import of_recipe
from mopdsim.recipes.catalogue import SYSTEMS
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Distill

SURE = 0.8
TIE = "tie"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number to compare: `sign` is 1 where more is better; differences below `floor` (`relative` to the
    baseline's median where said) are nothing. title and unit: in words, of a score in hundredths."""

    of: Callable[[Forecast], Array]
    sign: int
    floor: float
    relative: bool = False
    title: str = ""
    unit: Callable[[float], str] = lambda score: f"{100 * score:.1f}"


MEASURES: Mapping[str, Measure] = {
    "mean_score": Measure(
        of=lambda found: found.scores_DN.mean(axis=0), sign=1, floor=0.005, title="mean score, points"
    ),
    "worst_score": Measure(
        of=lambda found: found.scores_DN.min(axis=0), sign=1, floor=0.005, title="worst domain, points"
    ),
    "gpu_hours": Measure(
        of=lambda found: found.gpu_hours_N, sign=-1, floor=0.02, relative=True, title="GPU-hours", unit=count
    ),
    "usd": Measure(of=lambda found: found.usd_N, sign=-1, floor=0.02, relative=True, title="cost", unit=usd),
    "days": Measure(
        of=lambda found: found.days_N, sign=-1, floor=0.02, relative=True, title="calendar", unit=duration
    ),
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


def cells(key: str, found: Mapping[str, Any]) -> dict[str, str]:
    """A difference's document as a table's row: what differs, by how much, and who is better, how surely. key: of
    `MEASURES`, or a domain, whose score it is."""
    measure = MEASURES.get(key) or _score(key)
    ends = {end: signed(value, measure.unit) for end, value in found["difference"].items()}
    sure = max(found["probability_better"], 1 - found["probability_better"])
    verdict = found["verdict"]
    return {
        "difference": measure.title,
        "P50": ends["p50"],
        "P10 to P90": f"{ends['p10']} to {ends['p90']}",
        "better": verdict if verdict == TIE else f"{verdict}, {share(sure)} sure",
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
        raise UsageError(f"recipes: {len(forecasts)} given, compare needs at least two; name them, or --all")
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
    return Measure(
        of=lambda found: found.scores_DN[found.world.index[domain]],
        sign=1,
        floor=0.005,
        title=f"{domain}, points",
    )


DOMAINS = ("sort", "reverse", "shift", "swap", "brackets", "rle_decode")
RIVALS = ("mixed_rl", "cascade_rl", "mopd", "off_policy", "merge")
RECIPES = (*SYSTEMS, *RIVALS)
BUDGET_OF = "mopd"  # the recipe whose own amounts set the budget where none is given
COLLAPSED = 0.05  # of a score, lost on the way


def compare_all(
    *, domains: Sequence[str] = DOMAINS, budget_flops: float | None = None, **settings: Any
) -> dict[str, Any]:
    """The table as plain data. `settings`: other keys of a scenario file, for all recipes alike."""
    scenarios = {name: of_recipe(name, source=name, domains=list(domains), **settings) for name in RECIPES}
    budget = training_flops(scenarios[BUDGET_OF]) if budget_flops is None else budget_flops
    rows = [_row(at_budget(scenario, budget)) for scenario in scenarios.values()]
    first = scenarios[BUDGET_OF]
    return {
        "budget_flops": budget,
        "model": first.model,
        "gpu": first.gpu,
        "domains": list(domains),
        "draws": first.draws,
        "seed": first.seed,
        "rows": rows,
    }


def _row(scaled: AtBudget) -> dict[str, Any]:
    found = forecast(scaled.scenario)
    recipe = scaled.scenario.recipe
    cap_N = cap(recipe, lambda stage, domain: found.states[stage].score_DN[found.world.index[domain]])
    return {
        "recipe": recipe.name,
        "flops": scaled.spent,
        "factor": scaled.factor,
        "off_budget": scaled.reason,
        "gpu_hours": quantiles(found.gpu_hours_N),
        "usd": quantiles(found.usd_N),
        "days": quantiles(found.days_N),
        "mean": found.mean_score,
        "worst": found.worst_score,
        "cap": None if cap_N is None else quantiles(cap_N),
        "risk": risk(found),
        "stages": len(recipe.stages),
        "teachers": len(recipe.taught_from),
    }


def cap(recipe: Recipe, score: Callable[[str, str], Any]) -> Array | None:
    """Mean over domains of the best own teacher of the output's distillation; None where it has none. score: of a
    stage on a domain, a number or (N,)."""
    output = recipe.stage[recipe.output]
    if not isinstance(output, Distill):
        return None
    best = [
        np.max([score(name, domain) for name in output.teachers_of(domain)], axis=0)
        for domain in output.domains
    ]
    return np.asarray(np.mean(best, axis=0))


def risk(found: Forecast) -> dict[str, float]:
    """Probabilities that any domain ends below the base's score, and that a collapse or a bold rate took more than
    `COLLAPSED` of one."""
    below_DN = found.scores_DN < found.states[BASE].score_DN
    booked: Mapping[Any, Array] = found.output.waterfall or {}
    lost_DN = booked.get("collapse", np.zeros_like(found.scores_DN))
    return {
        "below_start": float(np.mean(below_DN.any(axis=0))),
        "collapse": float(np.mean((lost_DN < -COLLAPSED).any(axis=0))),
    }
