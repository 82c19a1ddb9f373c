"""How a run is carried out, apart from what its recipe says: seed, device, evaluation, checkpoints.

Everything here that can change a number is part of a stage's key in the store (`Settings.keyed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mopdsim.base.documents import in_words
from mopdsim.base.errors import UsageError
from mopdsim.base.run_directory import RESOLVED
from mopdsim.recipes.stage import Value
from trainer.files.atomic import PUT_BACK

Count = Annotated[int, Field(ge=1)]
Items = Annotated[int, Field(ge=1, le=100_000)]  # distinct prompts, all drawn before a run begins


class Settings(Value):
    """One run's settings.

    probes: domains that are scored and never trained. test_items: fixed prompts of each domain scored at the end of a
    stage; validation_items: every so many steps of it. temperature: of sampling, in training and evaluation.
    samples_per_prompt: answers to each test prompt; from 8 of them pass@8 is estimated. greedy_items: test prompts that
    are also answered by the likeliest tokens. score_others: whether a stage also scores what it does not train on.
    system_prompt: "template" for what the model's chat template puts in of itself, "none", or a text of one's own.
    template_arguments: what the template is told besides, such as enable_thinking.
    evaluate_every, diagnose_every (0: never; nor where the domains' gradients would fill the memory), checkpoint_every:
    in optimiser steps. threads: of one worker, or of each of the `processes` that hold replicas of the model and share
    a stage's rows.
    max_truncation: a reinforcement or on-policy stage stops when more samples than this are cut off
    (mean over the last ten steps).
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: Count = 1
    processes: Count = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0
    probes: tuple[str, ...] = ()
    test_items: Items = 400
    validation_items: Items = 100
    samples_per_prompt: Annotated[int, Field(ge=1, le=256)] = 1
    greedy_items: Annotated[int, Field(ge=0, le=100_000)] = 0
    score_others: Literal["always", "at_end", "never"] = "always"
    system_prompt: Annotated[str, Field(min_length=1)] = "template"
    template_arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    evaluate_every: Count = 25
    diagnose_every: Annotated[int, Field(ge=0)] = 20
    checkpoint_every: Count = 25
    micro_batch_rows: Count | None = None
    max_truncation: Annotated[float, Field(gt=0, le=1)] = 0.9

    def keyed(self) -> dict[str, Any]:
        """What a stage's key is made from. Fields that came later count where they are not at their defaults, so that
        older stores stay valid."""
        found = self.model_dump(mode="json", exclude={"checkpoint_every"})
        later = (
            "samples_per_prompt",
            "greedy_items",
            "score_others",
            "system_prompt",
            "template_arguments",
            "processes",
        )
        usual = type(self)()
        unset = {name for name in later if found[name] == getattr(usual, name)}
        return {name: value for name, value in found.items() if name not in unset}


FOR_REAL: Mapping[str, Any] = MappingProxyType(
    {
        "test_items": 40,
        "samples_per_prompt": 8,
        "greedy_items": 100,
        "validation_items": 40,
        "evaluate_every": 20,
        "diagnose_every": 0,
        "score_others": "at_end",
        "system_prompt": "none",
    }
)
"""Settings where amounts are `real`: evaluation would else cost as much as training, and a model's own system prompt
doubles a short question."""
HARDLY_SCORED: Mapping[str, Any] = MappingProxyType(
    {
        "test_items": 10,
        "validation_items": 2,
        "evaluate_every": 1000,
        "diagnose_every": 0,
        "score_others": "never",
    }
)
"""Settings where something else than scores is measured: a step's time, or answers."""


def settings_of(resolved: Mapping[str, Any], run: Path) -> Settings:
    """Those that a run was begun with. UsageError where its file was changed by hand to what they cannot be."""
    try:
        return Settings.model_validate(resolved["settings"])
    except ValidationError as error:
        raise UsageError(f"{run / RESOLVED}: settings: {in_words(error)}: {PUT_BACK}") from None
