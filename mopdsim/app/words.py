"""Recipes and findings in words. Leaves out: numbers as people read them (`mopdsim.base.numbers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mopdsim.base.numbers import duration, score, usd
from mopdsim.forecast.compare import TIE, Difference
from mopdsim.forecast.forecast import Forecast
from mopdsim.plan.words import capital
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

FAMILY_TITLES = {
    "single": "one domain",
    "mixed_rl": "mixed RL",
    "cascade_rl": "cascade",
    "mopd": "MOPD",
    "off_policy": "off-policy",
    "merge": "merge",
}


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
            f"At these steps, untuned, {ours} and {theirs} end level in mean score, and the first costs {price} the "
            "second."
        )
    price = f"at {ratio:.1f} times its cost" if ratio >= 1 else f"at {ratio:.0%} of its cost"
    gain = 100 * float(np.median(mean.difference_N))
    side = "above" if gain > 0 else "below"
    sure = mean.probability_better if gain > 0 else 1 - mean.probability_better
    return (
        f"At these steps, untuned, {ours} ends {abs(gain):.1f} points {side} {theirs} in mean score ({sure:.0%} sure), "
        f"{price}."
    )


def plain_finding(document: Mapping[str, Any]) -> str:
    """One sentence where there is no rival to compare with."""
    costs, weeks = usd(document["usd"]["p50"]), duration(document["days"]["p50"])
    worst = min(document["scores"], key=lambda name: document["scores"][name]["p50"])
    low = score(document["scores"][worst]["p50"])
    recipe = capital(recipe_title(document["recipe"]))
    return f"{recipe} costs {costs}, takes {weeks}, and is weakest in {worst} ({low})."
