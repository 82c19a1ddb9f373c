"""Numbers and findings in words. Leaves out: the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mopdsim.forecast.compare import TIE, Difference
from mopdsim.forecast.forecast import Forecast
from mopdsim.recipes import published
from mopdsim.recipes.systems import SYSTEMS

RECIPE_TITLES = {
    "single_domain": "one specialist",
    "mixed_rl": "one mixed RL run",
    "cascade_rl": "cascade RL",
    "mopd": "multi-teacher distillation",
    "off_policy": "off-policy distillation",
    "merge": "weight merging",
    "mopd_then_rl": "distillation, then RL",
}


def short(value: float) -> str:
    """Three significant digits with K, M or B: 1.06M."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'K' else limit):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def usd(value: float) -> str:
    """Dollars: $1.06M."""
    return f"${short(value)}"


def days(value: float) -> str:
    """Days, or hours and seconds where days are too coarse."""
    if value >= 1:
        return f"{value:.3g} days"
    return f"{value * 24:.2g} hours" if value * 24 >= 1 else f"{value * 86_400:.2g} s"


def interval(row: Mapping[str, float], unit: Callable[[float], str]) -> str:
    """P10 to P90 in a unit's words, the unit said once where both have it."""
    low, high = unit(row["p10"]), unit(row["p90"])
    number, _, word = low.partition(" ")
    return f"{number if word and high.endswith(f' {word}') else low} to {high}"


def signed(value: float, unit: Callable[[float], str]) -> str:
    """A difference with its sign before the unit: -$42.9K."""
    return ("-" if value < 0 else "+") + unit(abs(value))


def score(value: float) -> str:
    """A pass rate: 0.583."""
    return f"{value:.3f}"


def recipe_title(name: str) -> str:
    """A recipe of the catalogue in words, a published system by its name."""
    return published.system(name).title if name in SYSTEMS else RECIPE_TITLES.get(name, name)


def finding(now: Forecast, rival: Forecast, mean: Difference) -> str:
    """One sentence: what the recipe at hand wins over its rival, and what it costs more. mean: now minus rival."""
    ours, theirs = recipe_title(now.scenario.recipe.name), recipe_title(rival.scenario.recipe.name)
    ratio = float(np.median(now.usd_N) / np.median(rival.usd_N))
    if mean.verdict == TIE:
        price = f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.0%} of"
        return (
            f"{_capital(ours)} and {theirs} end level in mean score, and the first costs {price} the second."
        )
    price = f"at {ratio:.1f} times its cost" if ratio >= 1 else f"at {ratio:.0%} of its cost"
    gain = 100 * float(np.median(mean.difference_N))
    side = "above" if gain > 0 else "below"
    sure = mean.probability_better if gain > 0 else 1 - mean.probability_better
    return f"{_capital(ours)} ends {abs(gain):.1f} points {side} {theirs} in mean score ({sure:.0%} sure), {price}."


def plain_finding(document: Mapping[str, Any]) -> str:
    """One sentence where there is no rival to compare with."""
    costs, weeks = usd(document["usd"]["p50"]), days(document["days"]["p50"])
    worst = min(document["scores"], key=lambda name: document["scores"][name]["p50"])
    low = score(document["scores"][worst]["p50"])
    recipe = _capital(recipe_title(document["recipe"]))
    return f"{recipe} costs {costs}, takes {weeks}, and is weakest in {worst} ({low})."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
