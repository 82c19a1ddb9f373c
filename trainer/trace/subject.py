"""What is traced: a finished run's student, the model it started from, its teachers, and where their weights are.

The student is made by the last distilling or merging stage on the way to the recipe's output. A warm-up that reads the
same teachers belongs to it. Leaves out: loading and scoring (`trainer.trace.evidence`).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import (
    DONE,
    MADE_FROM,
    METRICS,
    RESOLVED,
    STATUS,
    STORE,
    rows_of,
    status_of,
)
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import ROOTS, AnyStage, Distill, Merge
from trainer.files.atomic import read_json, read_recipe, read_summary
from trainer.files.settings import Settings, settings_of
from trainer.model.sources import model_directory
from trainer.runs.plan import Plan, models, plan
from trainer.runs.store import Store
from trainer.tasks import task

NEAREST = 100  # test prompts of each domain among which a prompt's nearest is looked for
LETTERS = 2000  # of a prompt that are compared

Taught = Distill | Merge


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A finished run as tracing sees it.

    stages: those that read the teachers, the student's own last. start: what the first of them starts from. places:
    weights of the student, the start and the teachers by stage name. planned: the stages as they would be run again,
    where who made this knows them.
    """

    run: Path
    recipe: Recipe
    settings: Settings
    resolved: Mapping[str, Any]
    summary: Mapping[str, Any]
    store: Store
    stages: tuple[Taught, ...]
    planned: Plan | None = None

    @property
    def student(self) -> str:
        return self.stages[-1].name

    @property
    def start(self) -> str:
        return self.stages[0].init

    @property
    def rewarded(self) -> bool:
        """Whether a reward is mixed into the distillation."""
        return any(isinstance(stage, Distill) and stage.reward_mix > 0 for stage in self.stages)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Those that are not the start itself."""
        return tuple(name for name in _read_by(self.stages[-1]) if name != self.start)

    @property
    def places(self) -> dict[str, Path]:
        """Weights by stage name. NotFoundError names those that were removed."""
        found = {name: self._place(name) for name in (self.student, self.start, *self.teachers)}
        gone = [name for name, place in found.items() if not any(place.glob("*.safetensors"))]
        if gone:
            raise NotFoundError(
                f"{self.run}: the weights of {', '.join(gone)} were removed from {self.store.root}: rebuild them with "
                f"`mopd trace {self.run} --rebuild`"
            )
        return found

    def _place(self, name: str) -> Path:
        key = self.summary["stages"][name]["key"]
        made_from = self.store.directory(key) / MADE_FROM
        if (
            name in ROOTS and made_from.is_file() and read_json(made_from, "stage")["stage"] is None
        ):  # a model as it was given
            return model_directory(
                models(self.recipe, self.resolved["model"], self.resolved["smaller"])[name]
            )
        return self.store.weights(key)

    def plan(self) -> Plan:
        """The run's stages as they would be run again. UsageError where this version would make other ones, or several
        processes shared them."""
        if self.planned is not None:
            return self.planned
        if self.settings.processes > 1:
            raise UsageError(
                f"{self.run}: processes = {self.settings.processes}: only a run of one process can be made again here: "
                "leave out --confirm, --shapley and --rebuild"
            )
        planned = plan(
            {self.recipe.name: self.recipe},
            model=self.resolved["model"],
            smaller=self.resolved["smaller"],
            settings=self.settings,
            store=self.store,
            start_scale=self.resolved["scale"],
        )
        keys = planned.keys[self.recipe.name]
        other = [name for name, row in self.summary["stages"].items() if keys[name] != row["key"]]
        if other:
            raise UsageError(
                f"{self.run}: stage {other[0]!r} was made by another version of the trainer or from other files, so it "
                "cannot be made again: run the recipe anew with `mopd train run`"
            )
        return planned

    def teachers_of(self, domain: str) -> dict[str, float]:
        """The teachers that a domain's prompts go to, with their weights; all inputs of a merge."""
        stage = self.stages[-1]
        if isinstance(stage, Distill):
            return stage.teachers_of(domain)
        return {name: 1 / len(stage.inputs) for name in stage.inputs}

    def exposure(self) -> dict[str, int]:
        """Prompts of each domain in the distillations' steps."""
        names, found = {stage.name for stage in self.stages}, Counter[str]()
        for row in rows_of(self.run / METRICS, of_run=True):
            if row["kind"] == "step" and row["stage"] in names:
                found.update(row.get("prompts", {}))
        return dict(found)

    def nearest(self, prompt: str) -> tuple[str, str]:
        """The domain whose test prompts hold the one most like `prompt`, and that one."""
        pairs = [
            (domain, item.prompt)
            for domain in self.recipe.domains
            for item in task(domain).fixed("test", min(NEAREST, self.settings.test_items))
        ]
        return max(
            pairs,
            key=lambda pair: difflib.SequenceMatcher(None, prompt[:LETTERS], pair[1], autojunk=False).ratio(),
        )


def open_run(run: Path) -> Subject:
    """A finished run to trace. NotFoundError: no run; UsageError: it is not finished, or has no student."""
    resolved = read_json(run / RESOLVED, "model", "settings", "store")
    status = status_of(run) if (run / STATUS).is_file() else "unknown"
    if status != DONE:
        raise UsageError(
            f"{run}: the run is not finished (STATUS {status}): finish it with `mopd train resume {run}`"
        )
    recipe = read_recipe(run)
    stages = taught(recipe)
    if not stages:
        raise UsageError(
            f"{run}: recipe {recipe.name!r} has no student, for no stage on the way to its output distils or merges: "
            "give a run of a recipe such as mopd, off_policy or merge"
        )
    return Subject(
        run=run,
        recipe=recipe,
        settings=settings_of(resolved, run),
        resolved=resolved,
        summary=read_summary(run),
        store=Store(root=Path(resolved["store"]) if resolved["store"] else run.absolute() / STORE),
        stages=stages,
    )


def taught(recipe: Recipe) -> tuple[Taught, ...]:
    """The last distilling or merging stage on the way to the output, after the warm-ups that read the same teachers."""
    name = recipe.output
    while name not in ROOTS and not isinstance(recipe.stage[name], Distill | Merge):
        name = recipe.stage[name].init
    found: list[Taught] = []
    while name not in ROOTS:
        stage = recipe.stage[name]
        if not isinstance(stage, Distill | Merge) or (found and _read_by(stage) != _read_by(found[0])):
            break
        found.insert(0, stage)
        name = stage.init
    return tuple(found)


def _read_by(stage: AnyStage) -> list[str]:
    return stage.teacher_names if isinstance(stage, Distill) else list(getattr(stage, "inputs", ()))
