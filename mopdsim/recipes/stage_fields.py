"""Names, weights and shares that the stage kinds have in common. Leaves out: the kinds (`mopdsim.recipes.stage`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

BASE = "base"  # the model a recipe is run on
SMALLER = "smaller"  # a second, smaller model with the same tokens, for a student of another size
SELF = "self"  # as a teacher: the weights that the student starts from
ROOTS = (BASE, SMALLER)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AdapterRank = Annotated[int, Field(ge=1, le=1024)] | None  # None: all weights are trained
Shares = Annotated[dict[str, Weight], Field(min_length=1)]
Flips = Annotated[float, Field(ge=0, lt=0.5)]
Normalizer = Literal["token", "sequence"]
