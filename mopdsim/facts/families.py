"""Families of models: what each does that its config.json does not say, and which ones are counted.

A family is the `model_type` of a config.json. Those listed here were held against the model that transformers builds
of them: parameters, active parameters, key-value cache (tests/mopdsim/facts/test_families.py). Any other family is
refused by name. Where transformers is installed, its config class fills the keys that a config.json leaves out.
Leaves out: how keys become layers (`mopdsim.facts.model_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mopdsim.base.errors import UsageError

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """matrices: of a feed-forward, 3 where it is gated. shared_experts: where the config does not count them.
    full_attention_every: of layers with a window, each n-th sees everything. window_kv_heads: of layers with a window.
    more_positions: rows of the table of learned positions beyond the longest sequence."""

    matrices: int = 3
    qkv_bias: bool = False
    qk_norm: bool = False
    output_gate: bool = False
    shared_gate: bool = False
    shared_experts: int = 0
    learned_positions: bool = False
    more_positions: int = 0
    full_attention_every: int = 0
    window_kv_heads: int = 0


_GATED = Traits()
_PLAIN = Traits(matrices=2)
_QK_NORM = Traits(qk_norm=True)
_GATED_HEADS = Traits(qk_norm=True, output_gate=True, shared_gate=True)
FAMILIES: dict[str, Traits] = {
    **dict.fromkeys(
        (
            "axk1", "bamba", "bitnet", "cohere", "cohere2", "cohere2_moe", "cwm", "deepseek_v2",
            "deepseek_v3", "deepseek_v32", "deepseek_v4", "diffllama", "emu3_text_model", "ernie4_5",
            "ernie4_5_moe", "exaone4", "exaone_moe", "flex_olmo", "flint", "gemma", "glm", "glm4",
            "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "gpt_oss", "granite", "granite_swa",
            "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "helium", "hy_v3",
            "hyperclovax", "internlm3", "iquestcoder", "kimi_k2", "kolibri1", "laguna", "llama",
            "mellum", "mimo", "minicpm3", "ministral3", "mistral", "mixtral", "modernbert-decoder",
            "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "phi3", "phimoe", "seed_oss", "smollm3",
            "solar_open", "stablelm", "vaultgemma", "youtu",
        ),
        _GATED,
    ),
    **dict.fromkeys(("qwen3", "qwen3_moe", "minimax_m2"), _QK_NORM),
    **dict.fromkeys(("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"), _GATED_HEADS),
    "afmoe": Traits(qk_norm=True, output_gate=True),
    "mimo_v2_flash": Traits(window_kv_heads=8),
    "qwen2": Traits(qkv_bias=True),
    "qwen2_moe": Traits(qkv_bias=True, shared_gate=True),
    "llama4_text": Traits(shared_experts=1),
    "gemma2": Traits(full_attention_every=2),
    "gemma3_text": Traits(qk_norm=True, full_attention_every=6),
    **dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), _GATED),
    **dict.fromkeys(
        (
            "apertus", "arcee", "bloom", "codegen", "ctrl", "falcon", "fuyu", "gpt_neox", "gpt_neox_japanese", "gpt3",
            "gptj", "jais2", "mpt", "nanochat", "nemotron", "nemotron_h", "persimmon", "phi", "starcoder2",
        ),
        _PLAIN,
    ),
    **dict.fromkeys(("gpt2", "gpt-sw3", "gpt_bigcode", "openai-gpt"), Traits(matrices=2, learned_positions=True)),
    **dict.fromkeys(("opt", "biogpt"), Traits(matrices=2, learned_positions=True, more_positions=2)),
}  # fmt: skip


def family_of(config: Config) -> str:
    """The family's name."""
    return str(config.get("model_type") or "")


def traits(config: Config) -> Traits:
    """What is known of the family. UsageError for one that is not counted here."""
    family = family_of(config)
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(
            f"model config: model_type = {family!r}: the simulator does not count this family{hint}; give the "
            "config.json of one that it counts, or take the row of `mopd models` that is nearest in shape"
        )
    return FAMILIES[family]


def filled(config: Config) -> tuple[Config, tuple[str, ...]]:
    """(the text model's config with its family's defaults, names of the keys that were filled).

    transformers' config class fills them where it is installed; elsewhere the config stays as it is. UsageError where
    the class refuses the config.
    """
    text = config.get("text_config") or config
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        return text, ()
    family = family_of(config)
    if family not in CONFIG_MAPPING:
        return text, ()
    try:
        whole = CONFIG_MAPPING[family].from_dict(dict(config)).get_text_config().to_dict()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"model config: transformers refuses it as {family!r}: {error}") from error
    added = {key: value for key, value in whole.items() if text.get(key) is None and value is not None}
    return {**text, **added}, tuple(sorted(added))
