"""A model of the lean families from its files alone, to be read and never trained.

The class of a Hugging Face module costs two seconds of imports, which is more than a small model's answers take. Its
parameters stand here under the same names for the lean path (`trainer.model.lean`), which is compared with the module
wherever a model is trained. Leaves out: the module's own forward, scaled rotations, biases, adapters, several files.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.model.lean import admits

WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"
# Whether heads are normalised.
NORMED = {"LlamaForCausalLM": False, "MistralForCausalLM": False, "Qwen3ForCausalLM": True}
MAPS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
NORMS = ("input_layernorm", "post_attention_layernorm")


def bare(directory: Path, config: Any) -> Bare | None:
    """The model in a directory; None where it is not one of these or its file is not what its configuration says."""
    (family,) = config.architectures if len(config.architectures or ()) == 1 else [""]
    turned = getattr(config, "rope_parameters", None) or {}
    if (
        family not in NORMED
        or not admits(config)
        or turned["rope_type"] != "default"
        or turned.get("partial_rotary_factor", 1) != 1
        or not (directory / WEIGHTS).is_file()
    ):
        return None
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        there = set(file.keys())
    if there != _names(config, normed=NORMED[family]):
        return None
    model = Bare(config, load_file(directory / WEIGHTS))
    if (path := directory / GENERATION).is_file():
        model.generation_config.eos_token_id = json.loads(path.read_text()).get("eos_token_id")
    return model


def _names(config: Any, *, normed: bool) -> set[str]:
    """Of all parameters without biases."""
    found = {"model.embed_tokens", "model.norm", *(() if config.tie_word_embeddings else ("lm_head",))}
    for place in range(config.num_hidden_layers):
        layer = f"model.layers.{place}"
        found |= {f"{layer}.{norm}" for norm in NORMS}
        found |= {f"{layer}.{part}.{name}" for part, own in MAPS.items() for name in own}
        found |= {f"{layer}.self_attn.{norm}" for norm in ("q_norm", "k_norm") if normed}
    return {f"{name}.weight" for name in found}


class Bare(nn.Module):
    """The parameters, in float32, and what else the lean path reads of a module."""

    def __init__(self, config: Any, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.config, self.generation_config = config, SimpleNamespace(eos_token_id=None)
        body: Any = nn.Module()
        self.model = body
        body.layers = nn.ModuleList(nn.Module() for _ in range(config.num_hidden_layers))
        for name, tensor in tensors.items():
            *path, own, _ = name.split(".")
            part = (
                nn.Linear(1, 1, bias=False, device="meta")
                if own.endswith(("_proj", "_head"))
                else nn.Module()
            )
            part.weight = nn.Parameter(tensor.float())
            place: nn.Module = self
            for step in path:
                if step not in dict(place.named_children()):
                    place.add_module(step, nn.Module())
                place = place.get_submodule(step)
            place.add_module(own, part)
        if config.tie_word_embeddings:
            self.lm_head = nn.Linear(1, 1, bias=False, device="meta")
            self.lm_head.weight = body.embed_tokens.weight
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        for layer in body.layers:
            layer.self_attn.head_dim, layer.self_attn.scaling = width, width**-0.5
        body.padding_idx = config.pad_token_id
        body.rotary_emb = Rotary(width, float(config.rope_parameters["rope_theta"]))

    def get_output_embeddings(self) -> nn.Module:
        """The head, as a module of transformers names it."""
        return self.lm_head


class Rotary(nn.Module):
    """Cosine and sine of position x theta^(-2 z / E) for each pair z of a head of width E (2104.09864)."""

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        self.width, self.theta = width, theta

    def forward(self, like: Tensor, position_1L: Tensor) -> tuple[Tensor, Tensor]:
        """(1, L, E) each, the pairs' values twice, on the device of `like`."""
        speed_Z = 1 / self.theta ** (torch.arange(0, self.width, 2, device=like.device).float() / self.width)
        angle_1LZ = position_1L[..., None].float() * speed_Z
        angle_1LE = torch.cat([angle_1LZ, angle_1LZ], -1)
        return angle_1LE.cos(), angle_1LE.sin()
