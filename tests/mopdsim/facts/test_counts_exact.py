"""The simulator's counts against instantiated models: parameters, FLOPs of a forward pass, cache elements.

Small Qwen3 (dense and mixture of experts), Qwen2 and Llama on the meta device: shapes without memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from mopdsim.facts.layers import Model
from mopdsim.facts.model import from_config, model
from trainer.model.tiny import init_model

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**SIZES, "head_dim": 32},
    "qwen3_tied": {**SIZES, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3_moe": {
        **SIZES,
        "head_dim": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "decoder_sparse_step": 1,
    },
    "qwen2": SIZES,
    "llama": SIZES,
}
LENGTH, BATCH = 24, 2


def _both(name: str) -> tuple[Any, Model]:
    config = AutoConfig.for_model(name.removesuffix("_tied"), **CONFIGS[name])
    with torch.device("meta"):
        instance = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return instance, from_config(config.to_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters(name: str) -> None:
    instance, counted = _both(name)
    assert counted.total_parameters == sum(p.numel() for p in instance.parameters())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "qwen3_moe"])
def test_forward_flops(name: str) -> None:
    """The counter sees every score, the model counts the causal half of them."""
    instance, counted = _both(name)
    tokens = torch.zeros((BATCH, LENGTH), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        instance(tokens, use_cache=True)
    products = BATCH * LENGTH * counted.forward_flops_per_token
    scores = 2 * counted.attention_flops([LENGTH] * BATCH)
    assert counter.get_total_flops() == products + scores


def test_expert_flops_are_those_of_a_dense_layer_of_the_experts_used() -> None:
    """k experts of width w and a router: those of a dense layer of width k w plus a router."""
    _, moe = _both("qwen3_moe")
    config = {**CONFIGS["qwen3"], "model_type": "qwen3", "intermediate_size": 2 * 48}
    dense = from_config(config)
    router = 3 * 64 * 8
    assert moe.matmul_parameters == dense.matmul_parameters + router


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_cache_elements(name: str) -> None:
    instance, counted = _both(name)
    with torch.no_grad():
        cache = instance(
            torch.zeros((1, LENGTH), dtype=torch.long, device="meta"), use_cache=True
        ).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert float(counted.cache_elements(LENGTH)) == held


def test_the_catalogue_holds_the_trainers_tiny_base(tmp_path: Path) -> None:
    assert init_model(tmp_path) == model("tiny").total_parameters == from_config(tmp_path).total_parameters
