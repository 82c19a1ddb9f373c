"""One run of a study: a recipe on a base with a seed, under a named condition. Leaves out: studies
(`studies.framework.study`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mopdsim.recipes.amounts import Amounts, Value
from mopdsim.recipes.recipe import Recipe
from trainer.files.settings import Settings

Factor = str | int | float | bool


class Run(Value):
    """One recipe on one base with one seed, under the condition that `factors` name.

    model: a built-in one, a directory, or a hub id. start: amounts of a built-in one's start where they are not the
    default ones; other amounts make another base. held_out: predicted, never fitted. cut: runs of the highest number
    are dropped first.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_./-]{0,99}$")]
    recipe: Recipe
    settings: Settings
    model: str = "tiny"
    start: Amounts | None = None
    factors: dict[str, Factor] = Field(default_factory=dict)
    held_out: bool = False
    cut: Annotated[int, Field(ge=0)] = 0

    def scaled(self, factor: float) -> Run:
        """The same run with `factor` times the steps, and as many points of evaluation, on fewer prompts below 1."""
        settings, fewer = self.settings, min(1.0, factor)
        counts = {
            "test_items": max(10, round(settings.test_items * fewer)),
            "validation_items": max(10, round(settings.validation_items * fewer)),
            "evaluate_every": max(1, round(settings.evaluate_every * factor)),
            "diagnose_every": max(1, round(settings.diagnose_every * factor)),
        }
        changed = {
            "recipe": self.recipe.scaled(factor),
            "start": None if self.start is None else self.start.scaled(factor),
            "settings": settings.model_copy(update=counts),
        }
        return self.model_copy(update=changed)
