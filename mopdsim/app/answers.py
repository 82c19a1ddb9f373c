"""Forecasts of choices, kept for the last few of them so that a slider moved back is answered at once.

Leaves out: how an answer is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from mopdsim.app.choice import Choice
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.scenario import dump

KEPT = 16  # forecasts; each holds its draws, some 5 MB


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A choice and its forecast."""

    choice: Choice
    forecast: Forecast

    @cached_property
    def document(self) -> dict[str, Any]:
        """The forecast as `mopd forecast --json` prints it."""
        return self.forecast.to_document()

    def toml(self) -> bytes:
        """The resolved scenario, as `mopd forecast` takes it."""
        return dump(self.forecast.scenario).encode()


@lru_cache(maxsize=KEPT)
def answer(choice: Choice) -> Answer:
    """The forecast of a choice. A MopdError, one sentence, where there is none."""
    return Answer(choice=choice, forecast=forecast(choice.scenario()))


def rival(choice: Choice) -> Choice | None:
    """The choice with the obvious other recipe: one mixed run against many teachers, and the reverse."""
    if not choice.named:
        return None
    recipe = choice.scenario().recipe.name
    return choice.changed(recipe="mopd" if recipe == "mixed_rl" else "mixed_rl")
