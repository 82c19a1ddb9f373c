"""LoRA adapters (2106.09685) as peft stores them: adapter_config.json and adapter_model.safetensors.

They are merged into a base, or trained and read beside it: models with one base then share its weights in memory. An
adapted linear map is W x + s B A x with A (R, I), B (O, R) and s = alpha / R (alpha / sqrt R with rsLoRA). Other
kinds of adapter, and LoRA with more to it (DoRA, biases, whole modules saved), are refused by name.

Axes: I and O widths, R rank.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mopdsim.base.documents import json_document
from mopdsim.base.errors import NotFoundError, UsageError
from trainer.files.atomic import MANIFEST

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
STRENGTH = 2.0  # the scale s of adapters that are made here (alpha = 2 R)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Maps by the name of the linear module that they belong to: A, B and the scale."""

    maps: dict[str, tuple[Tensor, Tensor, float]]
    base: str


class Adapted(nn.Module):
    """A linear layer with an adapter; its own weight and bias are the layer's, not copies."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear | Adapted, a_RI: Tensor, b_OR: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = scale
        self.lora_A, self.lora_B = nn.Parameter(a_RI), nn.Parameter(b_OR)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale
        return F.linear(x, self.weight, self.bias) + low


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and no whole model."""
    return (directory / CONFIG).is_file() and not (directory / "config.json").is_file()


def adapted(model: nn.Module) -> dict[str, Adapted]:
    """The adapted layers of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Adapted)}


def attach(model: nn.Module, maps: Mapping[str, tuple[Tensor, Tensor, float]], *, source: str) -> None:
    """Put adapters on linear layers. UsageError where the model has no such layer, or one of another shape."""
    for name, pair in maps.items():
        parent, _, child = name.rpartition(".")
        try:
            linear = model.get_submodule(name)
        except AttributeError:
            linear = None
        if not isinstance(linear, nn.Linear | Adapted):
            raise UsageError(
                f"adapter {source!r}: adapts {name!r}, which its base does not have as a linear layer: it was made for "
                "another base"
            )
        _check_shape(source, name, pair, linear.weight)
        a_RI, b_OR, scale = pair
        device = linear.weight.device
        setattr(model.get_submodule(parent), child, Adapted(linear, a_RI.to(device), b_OR.to(device), scale))


def attach_new(model: nn.Module, rank: int, *, seed: int) -> None:
    """Freeze the model and put a new adapter, which changes nothing yet, on every projection of its layers.

    A is uniform within 1 / sqrt(I), B zero (as peft starts). UsageError where there is no such layer.
    """
    model.requires_grad_(False)
    noise = torch.Generator().manual_seed(seed % 2**63)
    maps = {}
    for name, part in model.named_modules():
        if type(part) is nn.Linear and name.endswith("_proj"):
            bound = part.in_features**-0.5
            a_RI = (torch.rand(rank, part.in_features, generator=noise) * 2 - 1) * bound
            maps[name] = a_RI, torch.zeros(part.out_features, rank), STRENGTH
    if not maps:
        raise UsageError(
            f"adapter_rank = {rank}: {type(model).__name__} has no linear layers called ..._proj to adapt: leave it out"
        )
    attach(model, maps, source="new")


def save_adapter(model: nn.Module, base: Path, target: Path) -> None:
    """In peft's layout; `base` is what the adapter belongs to."""
    layers = adapted(model)
    tensors = {}
    for name, part in layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = part.lora_A.detach().float().cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = part.lora_B.detach().float().cpu().contiguous()
    first = next(iter(layers.values()))
    rank = len(first.lora_A)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": first.scale * rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def base_directory(directory: Path) -> Path:
    """The base of an adapter that a stage has made. NotFoundError where it is gone."""
    base = Path(base_of(directory))
    if not (base / "config.json").is_file():
        raise NotFoundError(
            f"adapter {str(directory)!r}: its base {str(base)!r} is not there: put it back, or put its new place into "
            f"base_model_name_or_path of {CONFIG}"
        )
    return base


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
    try:
        held = load_file(path)
    except SafetensorError as error:
        raise UsageError(
            f"adapter {str(directory)!r}: {WEIGHTS} cannot be read ({error}); fetch it again"
        ) from error
    tensors = {name.removeprefix(_PREFIX): value.float() for name, value in held.items()}
    maps: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in sorted(tensors):
        module, found, _ = name.partition(".lora_A.")
        other = name.replace(".lora_A.", ".lora_B.")
        if found and other in tensors:
            scale = _scale(directory, config, module, len(tensors[name]))
            maps[module] = (tensors[name], tensors[other], scale)
    if len(tensors) != 2 * len(maps) or not maps:
        odd = next(
            (n for n in tensors if ".lora_A." not in n and ".lora_B." not in n), "lora_A without lora_B"
        )
        raise UsageError(
            f"adapter {str(directory)!r}: holds {odd!r}, but only pairs of lora_A and lora_B are read: "
            "merge it with peft and give the merged model"
        )
    return Adapter(maps=maps, base=base_of(directory))


def _scale(directory: Path, config: dict[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith("." + pattern):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise UsageError(
            f"adapter {str(directory)!r}: lora_alpha = {alpha!r} for {module!r}: must be a number; correct it in "
            f"{CONFIG}"
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _config(directory: Path) -> dict[str, Any]:
    missing = f"adapter {str(directory)!r}: {CONFIG} is missing; give an adapter's directory"
    return json_document(directory / CONFIG, missing=missing, remedy="save the adapter again")


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
    _check_shape(str(directory), module, pair, weight)
    a_RI, b_OR, scale = pair
    return torch.matmul(b_OR, a_RI) * scale


def _check_shape(source: str, module: str, pair: tuple[Tensor, Tensor, float], weight: Tensor) -> None:
    a_RI, b_OR, _ = pair
    if (len(b_OR), a_RI.shape[1]) != tuple(weight.shape):
        raise UsageError(
            f"adapter {source!r}: {module!r} is {len(b_OR)} x {a_RI.shape[1]}, but its base has "
            f"{' x '.join(map(str, weight.shape))} there: it was made for another base"
        )
