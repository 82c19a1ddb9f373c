"""How a run is carried out, apart from what its recipe says: seed, device, evaluation, checkpoints.

Everything here that can change a number is part of a stage's key in the store.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mopdsim.recipes.amounts import Value

Count = Annotated[int, Field(ge=1)]


class Settings(Value):
    """One run's settings.

    probes: domains that are scored and never trained. test_items: fixed prompts of each domain scored at the end of a
    stage; validation_items: at every checkpoint of it. temperature: of sampling, in training and evaluation.
    evaluate_every, diagnose_every, checkpoint_every: in optimiser steps. threads: of one worker.
    max_truncation: a reinforcement or on-policy stage stops when more samples than this are cut off
    (mean over the last ten steps).
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: Count = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0
    probes: tuple[str, ...] = ()
    test_items: Count = 400
    validation_items: Count = 100
    evaluate_every: Count = 25
    diagnose_every: Count = 20
    checkpoint_every: Count = 25
    micro_batch_rows: Count | None = None
    max_truncation: Annotated[float, Field(gt=0, le=1)] = 0.9
