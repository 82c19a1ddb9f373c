"""One run of a study: a recipe on a base with a seed, under a named condition; and the stages that many runs share.

Leaves out: studies (`studies.framework.study`), what stages cost (`studies.framework.ledger`), running them
(`trainer.runs.execute`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts, Value
from trainer.files.settings import Settings
from trainer.model.sources import model_directory
from trainer.runs.plan import BUILT_IN, Node, Plan, plan
from trainer.runs.store import Store

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
        settings, recipe, fewer = self.settings, self.recipe.scaled(factor), min(1.0, factor)
        counts = {
            "test_items": max(10, round(settings.test_items * fewer)),
            "validation_items": max(10, round(settings.validation_items * fewer)),
            "evaluate_every": max(1, round(settings.evaluate_every * factor)),
            "diagnose_every": max(1, round(settings.diagnose_every * factor)),
        }
        changed = {
            "recipe": recipe,
            "start": None if self.start is None else self.start.scaled(factor),
            "settings": settings.model_copy(update=counts),
        }
        return self.model_copy(update=changed)


def sizes_of(model: str) -> str:
    """What the simulator finds a run's model by: the name of a built-in one, the directory of any other. NotFoundError
    where it is not here."""
    return model if model in BUILT_IN else str(model_directory(model))


def planned(runs: Mapping[str, Run], store: Store, *, scale: float = 1.0) -> Plan:
    """Every run against one store, each distinct stage once; `scale` applies to `tiny`'s default start (the runs are
    scaled already)."""
    nodes: dict[str, Node] = {}
    keys: dict[str, Mapping[str, str]] = {}
    for name, run in runs.items():
        found = plan(
            {name: run.recipe},
            model=run.model,
            settings=run.settings,
            store=store,
            start_amounts=run.start,
            start_scale=scale,
        )
        for node in found.nodes:
            nodes.setdefault(node.key, node)
        keys[name] = {stage: key for stage, key in found.keys[name].items() if key in nodes}
    return Plan(nodes=tuple(nodes.values()), keys=keys)
