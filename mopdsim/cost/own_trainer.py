"""Seconds of a phase of a step of this project's own trainer on one CPU thread, fitted to its own phases
(`mopdsim.fit.trainer`).

    seconds = passes (a L + w P) + FLOPs (c + e / hidden)

passes: of the model, one after the other: a token of the longest answer each, one of each teacher that scores, one of
an update. a: launches of a layer. w: reading and packing the weights, which a pass does however few tokens it has (an
update also steps the optimiser). e: traffic beside the products, which weighs the more the narrower the model is. P, L:
parameters and layers. Seconds are those of float32; in bfloat16, where the processor multiplies it, `BFLOAT16` times
as many. a, w and e differ between sampling, scoring and the updates of each kind. FLOPs are those that
the trainer meters. Leaves out: what other processors take (the pace is that of the one named in the file; a second one
took `studies.factor` of it), a machine that is shared, GPUs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args

from mopdsim.base.documents import DATA
from mopdsim.facts.layers import Model

Kind = Literal["sft", "rl", "distill"]
Work = Literal["generation", "scoring", "sft", "rl", "distill"]  # a kind: its update
KINDS: tuple[Kind, ...] = get_args(Kind)
WORKS: tuple[Work, ...] = get_args(Work)
BFLOAT16 = 0.6  # of float32's seconds: SmolLM2-135M sampled in .63 of them, scored in .62, stepped in .59


@cache
def fitted() -> Mapping[str, Any]:
    """The fit: `seconds_per_flop`, by work `layer_s`, `weight_s` and `narrow_s_per_flop`, and how far it was off."""
    found: dict[str, Any] = json.loads((DATA / "trainer.json").read_text(encoding="utf-8"))
    return found


def phase_s(
    work: Work, model: Model, flops: float, passes: float, pace: Mapping[str, Any] | None = None
) -> float:
    """Seconds of so many FLOPs in so many passes, at the shipped pace or another."""
    pace = pace or fitted()
    known = pace["works"][work]
    fixed = known["layer_s"] * model.layers + known["weight_s"] * model.total_parameters
    narrow = known["narrow_s_per_flop"] / model.hidden
    return float(passes * fixed + flops * (pace["seconds_per_flop"] + narrow))
