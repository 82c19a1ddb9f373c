"""Seconds of a step of this project's own trainer on two CPU cores, fitted to its runs (`mopdsim.fit.trainer`).

    step = a_kind L + FLOPs (c + e_kind / hidden)

kind: fine-tuning, RL, distillation. a: launches of a layer, of RL and distillation those of the tokens that are
sampled one after the other too. e: traffic beside the products, which weighs the more the narrower the model is. FLOPs
are those that the trainer meters. Leaves out: other machines, and a machine that is shared (both are in the spread);
GPUs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from mopdsim.facts.hardware import Gpu
from mopdsim.facts.model import Model

Kind = Literal["sft", "rl", "distill"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def is_cpu(gpu: Gpu) -> bool:
    """Whether an accelerator is none."""
    return gpu.name.startswith("CPU")


@cache
def fitted() -> Mapping[str, Any]:
    """The fit: `seconds_per_flop`, by kind `layer_s` and `narrow_s_per_flop`, and `left_out`, its errors on each size
    that was left out."""
    found: dict[str, Any] = json.loads(
        files("mopdsim").joinpath("data", "trainer.json").read_text(encoding="utf-8")
    )
    return found


def step_fixed_s(kind: Kind, model: Model) -> float:
    """What a step costs whatever it computes."""
    return float(fitted()["kinds"][kind]["layer_s"]) * model.layers


def seconds_per_flop(kind: Kind, model: Model) -> float:
    """Of a model's FLOPs."""
    narrow: float = fitted()["kinds"][kind]["narrow_s_per_flop"]
    return float(fitted()["seconds_per_flop"]) + narrow / model.hidden
