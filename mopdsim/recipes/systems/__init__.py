"""Published post-training systems as recipes, 2022 to 2026, over any list of domains and any number of teachers.

Structures follow the systems' reports; what a report leaves open is our reading and said in docs/recipes.md. Amounts:
`tiny` and `small` are the named sets, stretched with the number of domains that a stage trains; `published` are the
report's own (`mopdsim.recipes.published`). Leaves out: figures and sources (`mopdsim/data/systems`), plain recipes
(`mopdsim.recipes.catalogue`).
"""

from __future__ import annotations

from collections.abc import Callable

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.systems.before_mopd import (
    LABEL_NOISE,
    deepseek_r1,
    deepseek_r1_zero,
    instructgpt,
    llama3,
)
from mopdsim.recipes.systems.since_mopd import deepseek_v4, mai_thinking_1, mimo_v2_flash, nemotron3_ultra

__all__ = [
    "LABEL_NOISE",
    "SYSTEMS",
    "deepseek_r1",
    "deepseek_r1_zero",
    "deepseek_v4",
    "instructgpt",
    "llama3",
    "mai_thinking_1",
    "mimo_v2_flash",
    "nemotron3_ultra",
]

SYSTEMS: dict[str, Callable[..., Recipe]] = {
    function.__name__: function
    for function in (
        instructgpt,
        llama3,
        deepseek_r1_zero,
        deepseek_r1,
        mimo_v2_flash,
        deepseek_v4,
        nemotron3_ultra,
        mai_thinking_1,
    )
}
