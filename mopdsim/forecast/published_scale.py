"""A published system at its published scale, as the scenario document that `mopd forecast SYSTEM` answers.

Leaves out: the figures (`mopdsim.recipes.published`), structures (`mopdsim.recipes.systems`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mopdsim.recipes import catalogue, published, recipe_file

_RANGED = ("steps", "prompts_per_step", "rollouts_per_prompt", "response_tokens")
_MACHINE = ("model", "smaller", "gpu", "precision", "overlap", "overhead")
_INSIDE_OVERHEAD = {"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0}


def document(name: str) -> dict[str, Any]:
    """The scenario of a system at its published scale: central amounts, and P10 to P90 of what is not known."""
    own = published.system(name)
    domains = list(dict.fromkeys(key.partition(".")[0] for key in own.under("domains")))
    options = {key: row.value for key, row in own.under("options").items()}
    made = recipe_file.to_document(catalogue.recipe(name, domains, amounts="published", **options))
    for stage in made["stages"]:
        stage |= {key: row.value for key, row in own.of_stage("structure", stage["name"]).items()}
    machine = own.under("machine")
    gpus = _gpus(machine["gpus"])  # of every stage: none of them says that some stood idle
    found: dict[str, Any] = {"recipe": made, "gpus": gpus, "gpus_per_stage": gpus, "stack": "megatron"}
    found |= {key: row.value for key, row in machine.items() if key in _MACHINE}
    if "speculative_factor" in machine:
        found["speculative_factor"] = machine["speculative_factor"].middle
    if "overhead" in machine:
        found["reliability"] = _INSIDE_OVERHEAD
    found["domain"] = {domain: _domain(own, domain) for domain in domains}
    found["ranges"] = dict(_ranges(own, [stage["name"] for stage in made["stages"]]))
    return found


def _domain(own: published.System, name: str) -> dict[str, Any]:
    facts = {key: row.value for key, row in own.under(f"domains.{name}").items()}
    return {"like": own.like[name], **facts} if name in own.like else facts


def _ranges(own: published.System, stages: list[str]) -> Iterator[tuple[str, list[float]]]:
    """Amounts that are not one number, and every length of a stage's own."""
    for stage in stages:
        for key, row in own.of_stage("stages", stage).items():
            if key == "response_tokens" or (key in _RANGED and row.ends is not None):
                yield f"{stage}.{key}", row.pair


def _gpus(row: published.Figure) -> int:
    """The number, or of a range the power of two below its middle: layouts split by powers of two."""
    return int(row.value) if row.ends is None else 2 ** int(math.log2(row.middle))
