"""LoRA adapters (2106.09685) as peft stores them: adapter_config.json and adapter_model.safetensors.

An adapted linear map is W x + s B A x with A (R, I), B (O, R) and s = alpha / R (alpha / sqrt R with rsLoRA). Other
kinds of adapter, and LoRA with more to it (DoRA, biases, whole modules saved), are refused by name.

Axes: I and O widths, R rank.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.files.atomic import MANIFEST

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Maps by the name of the linear module that they belong to: A, B and the scale."""

    maps: dict[str, tuple[Tensor, Tensor, float]]
    base: str


def base_of(directory: Path) -> str:
    """The base that an adapter's configuration names."""
    named = _config(directory).get("base_model_name_or_path")
    if not named:
        raise UsageError(
            f"adapter {str(directory)!r}: its configuration names no base: set base_model_name_or_path in {CONFIG}"
        )
    return str(named)


def read_adapter(directory: Path) -> Adapter:
    """UsageError for a kind of adapter that is not plain LoRA, or a file that does not hold what it says."""
    config = _config(directory)
    refused = {
        "peft_type": config.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": bool(config.get("modules_to_save")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
        "alora_invocation_tokens": bool(config.get("alora_invocation_tokens")),
    }
    for field, is_set in refused.items():
        if is_set:
            raise UsageError(
                f"adapter {str(directory)!r}: {field} = {config[field]!r}, but only plain LoRA adapters are read: "
                "merge it with peft and give the merged model"
            )
    path = directory / WEIGHTS
    if not path.is_file():
        raise NotFoundError(
            f"adapter {str(directory)!r}: {WEIGHTS} is missing; save the adapter as safetensors"
        )
    tensors = {name.removeprefix(_PREFIX): value.float() for name, value in load_file(path).items()}
    maps: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in sorted(tensors):
        module, found, _ = name.partition(".lora_A.")
        other = name.replace(".lora_A.", ".lora_B.")
        if found and other in tensors:
            maps[module] = (tensors[name], tensors[other], _scale(config, module, len(tensors[name])))
    if len(tensors) != 2 * len(maps) or not maps:
        odd = next(
            (n for n in tensors if ".lora_A." not in n and ".lora_B." not in n), "lora_A without lora_B"
        )
        raise UsageError(
            f"adapter {str(directory)!r}: holds {odd!r}, but only pairs of lora_A and lora_B are read: "
            "merge it with peft and give the merged model"
        )
    return Adapter(maps=maps, base=base_of(directory))


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith("." + pattern):
            alpha = value
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _config(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    except FileNotFoundError:
        raise NotFoundError(
            f"adapter {str(directory)!r}: {CONFIG} is missing; give an adapter's directory"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"adapter {str(directory)!r}: {CONFIG} is not valid JSON: {error}; save it again"
        ) from None
    return found


def merge_adapter(base: Path, directory: Path, target: Path) -> None:
    """Write the base with W + s B A in place of W. UsageError where the adapter was made for another base."""
    adapter = read_adapter(directory)
    maps = dict(adapter.maps)
    for path in sorted(base.iterdir()):
        if path.suffix != ".safetensors":
            if path.is_file() and path.name != MANIFEST:
                shutil.copyfile(path, target / path.name)
            continue
        tensors = load_file(path)
        for module in list(maps):
            if (weight := tensors.get(f"{module}.weight")) is not None:
                tensors[f"{module}.weight"] = (
                    weight.float() + change(directory, module, maps.pop(module), weight)
                ).to(weight.dtype)
        save_file(tensors, target / path.name, metadata={"format": "pt"})
    if maps:
        raise UsageError(
            f"adapter {str(directory)!r}: adapts {next(iter(maps))!r}, which its base {str(base)!r} does not have: "
            "it was made for another base"
        )


def change(directory: Path, module: str, pair: tuple[Tensor, Tensor, float], weight: Tensor) -> Tensor:
    """s B A, of the weight's shape."""
    a_RI, b_OR, scale = pair
    if (len(b_OR), a_RI.shape[1]) != tuple(weight.shape):
        raise UsageError(
            f"adapter {str(directory)!r}: {module!r} is {len(b_OR)} x {a_RI.shape[1]}, but its base has "
            f"{' x '.join(map(str, weight.shape))} there: it was made for another base"
        )
    return torch.matmul(b_OR, a_RI) * scale
