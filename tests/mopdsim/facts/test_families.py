"""Counts of every family against the model that transformers builds of its config class, on the meta device.

What is held against it: a config.json as transformers writes it, with nothing but what differs from the defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mopdsim.base.errors import UsageError
from mopdsim.facts.model import FAMILIES, from_config

OWN_NAMES = (
    "gpt3",
    "kimi_k2",
    "mimo",
    "deepseek_v2",
    "nemotron",
)  # no class of transformers, or no complete defaults
QUICK = ("llama", "qwen3_moe", "gpt2", "falcon_mamba", "gemma3_text")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_k")
WRITTEN = 8  # tokens in the cache


def _built(family: str, place: Path) -> tuple[Any, Any]:
    config = AutoConfig.for_model(family)
    config.save_pretrained(place)
    with torch.device("meta"):
        return config.get_text_config(), AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        ).eval()


def _idle_share(config: Any) -> float:
    """Share of the routed experts that a token does not use."""
    values = config.to_dict()
    experts, chosen = (
        next((values[key] for key in keys if values.get(key)), 0) for keys in (EXPERTS, CHOSEN)
    )
    return 1 - chosen / experts if experts else 0.0


def _routed(model: Any) -> int:
    return sum(
        each.numel()
        for name, each in model.named_parameters()
        if re.search(r"\bexperts\b", name) and "shared" not in name
    )


def _bytes_per_token(model: Any) -> float | None:
    """Of the layers whose cache grows; None where the family's cache is not made of such layers."""
    tokens = torch.zeros((1, WRITTEN), dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            cache = model.bfloat16()(tokens, use_cache=True).past_key_values
    except (AttributeError, ValueError):  # pure recurrences have another cache
        return None
    layers = [one for one in cache.layers if torch.is_tensor(getattr(one, "keys", None))]
    growing = [one for one in layers if not getattr(one, "is_sliding", False)]
    return sum(2.0 * (one.keys.numel() + one.values.numel()) for one in growing) / WRITTEN


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in QUICK else [pytest.mark.slow])
        for family in sorted(FAMILIES)
        if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in OWN_NAMES
    ],
)
def test_a_familys_counts_are_those_of_its_model(family: str, tmp_path: Path) -> None:
    config, built = _built(family, tmp_path)
    counted = from_config(tmp_path)
    total = sum(each.numel() for each in built.parameters())
    assert counted.total_parameters == pytest.approx(total, rel=0.01)
    assert counted.active_parameters == pytest.approx(total - _routed(built) * _idle_share(config), rel=0.01)
    measured = _bytes_per_token(built)
    if measured:
        assert counted.kv_bytes_per_token() == pytest.approx(measured, rel=0.02)


def test_most_families_are_held_against_their_model() -> None:
    held = [name for name in FAMILIES if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in OWN_NAMES]
    assert len(held) >= 60


@pytest.mark.parametrize("family", ["bert", "whisper", "rwkv", "jamba", "nosuchfamily"])
def test_a_family_that_is_not_counted_is_refused_by_name(family: str, tmp_path: Path) -> None:
    if family in CONFIG_MAPPING:
        AutoConfig.for_model(family).save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text('{"model_type": "nosuchfamily", "hidden_size": 64}')
    with pytest.raises(UsageError, match=rf"model_type = '{family}'"):
        from_config(tmp_path)


def test_a_wrapper_is_its_text_model_with_the_familys_defaults(tmp_path: Path) -> None:
    """Gemma 3 4B as published: sizes in text_config, the pattern of windows and the tied table by default alone."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, '
        '"intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}}'
    )
    counted = from_config(tmp_path)
    assert counted.total_parameters == pytest.approx(3.88e9, rel=0.01)
    full = 34 // 6
    assert counted.kv_bytes_per_token() == full * 2 * 2 * 4 * 256
    assert {"num_attention_heads", "vocab_size", "layer_types"} <= set(counted.assumed)


def test_a_value_of_another_type_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "hidden_size": "big"}')
    with pytest.raises(
        UsageError, match=r"^model config: transformers refuses it as 'qwen3': .*hidden_size.*$"
    ):
        from_config(tmp_path)
