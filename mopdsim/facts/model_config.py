"""From the keys of a Hugging Face config.json to layer kinds; rows of the catalogue take the same path.

Every family spells the same idea its own way; this file holds the synonyms and nothing else does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.facts.layers import (
    Attention,
    CompressedAttention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Mixer,
    Recurrent,
)

Config = Mapping[str, Any]
_SIZES = {
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "vocab_size": ("vocab_size",),
}
_COUNTS = {
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "per_token": ("num_experts_per_tok", "experts_per_token", "moe_topk"),
    "shared_width": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "shared": ("n_shared_experts", "num_shared_experts"),
}
_KINDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
_QK_NORM = ("qwen3", "minimax_m2")
_PLAIN = ("gpt3", "gpt2", "mpt", "nemotron_h")


def _first(config: Config, names: tuple[str, ...], default: Any = None) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), default)


def shape(config: Config) -> dict[str, int]:
    """The four sizes every decoder has, checked to be positive whole numbers."""
    found = {}
    for field, names in _SIZES.items():
        value = _first(config, names)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**8:
            raise UsageError(
                f"model config field {field} is {value!r}; it must be a positive whole number: "
                "give the text model's config.json."
            )
        found[field] = value
    return found


def _layer_kinds(config: Config, layers: int) -> list[str]:
    """What each layer mixes with, as names: the families' patterns made one."""
    if "hybrid_override_pattern" in config:
        kinds = [_KINDS[letter] for letter in config["hybrid_override_pattern"]]
    elif "hybrid_layer_pattern" in config:
        kinds = ["sliding_attention" if flag else "full_attention" for flag in config["hybrid_layer_pattern"]]
    elif "compress_ratios" in config:
        kinds = [
            f"compressed_{ratio}" if ratio else "sliding_attention" for ratio in config["compress_ratios"]
        ]
    elif config.get("layer_types") or config.get("layers_block_type"):
        kinds = list(config.get("layer_types") or config["layers_block_type"])
    elif config.get("full_attention_interval"):
        every = config["full_attention_interval"]
        kinds = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    elif config.get("sliding_window") and config.get("use_sliding_window", True):
        kinds = ["sliding_attention"] * layers
    else:
        kinds = ["full_attention"] * layers
    if len(kinds) < layers:
        raise UsageError(
            f"model config names {len(kinds)} layer kinds; num_hidden_layers is {layers}: they must agree."
        )
    return kinds[:layers]


def _mamba(config: Config, hidden: int) -> Recurrent:
    inner = config["mamba_num_heads"] * config["mamba_head_dim"]
    state, groups = config["ssm_state_size"], config["n_groups"]
    convolved = inner + 2 * groups * state
    return Recurrent(
        inner=inner,
        state=state,
        projection=inner + convolved + config["mamba_num_heads"],
        convolution=convolved * config.get("conv_kernel", 4),
    )


def _linear(config: Config) -> Recurrent:
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    return Recurrent(
        inner=values,
        state=config["linear_key_head_dim"],
        projection=2 * keys + 2 * values + 2 * config["linear_num_value_heads"],
        convolution=(2 * keys + values) * config.get("linear_conv_kernel_dim", 4),
    )


def _mixer(config: Config, sizes: dict[str, int], kind: str) -> Mixer | None:
    heads = sizes["num_attention_heads"]
    family = str(config.get("model_type", ""))
    if kind in ("moe", "mlp"):
        return None
    if kind == "mamba":
        return _mamba(config, sizes["hidden_size"])
    if kind == "linear_attention":
        return _linear(config)
    head_dim = config.get("head_dim") or sizes["hidden_size"] // heads
    if config.get("o_lora_rank"):
        ratio = int(kind.removeprefix("compressed_")) if kind.startswith("compressed_") else 0
        return CompressedAttention(
            heads=heads,
            head_dim=head_dim,
            q_rank=config["q_lora_rank"],
            output_groups=config["o_groups"],
            output_rank=config["o_lora_rank"],
            window=config["sliding_window"],
            ratio=ratio,
            top_k=config.get("index_topk") if 0 < ratio < 16 else None,
        )
    if config.get("kv_lora_rank"):
        return LatentAttention(
            heads=heads,
            q_rank=config.get("q_lora_rank"),
            kv_rank=config["kv_lora_rank"],
            nope_dim=config["qk_nope_head_dim"],
            rope_dim=config["qk_rope_head_dim"],
            v_head_dim=config["v_head_dim"],
            top_k=config.get("index_topk"),
        )
    sliding = kind == "sliding_attention"
    kv_heads = config.get("num_key_value_heads") or heads
    return Attention(
        heads=heads,
        kv_heads=(config.get("swa_num_key_value_heads") or kv_heads) if sliding else kv_heads,
        head_dim=head_dim,
        v_head_dim=config.get("v_head_dim") or head_dim,
        window=config.get("sliding_window") if sliding else None,
        qkv_bias=bool(config.get("attention_bias")) or family == "qwen2",
        qk_norm=family.startswith(_QK_NORM),
        output_gate=family.startswith(("qwen3_5", "qwen3_next")),
    )


def _is_sparse(config: Config, layer: int) -> bool:
    frequency = config.get("moe_layer_freq", 1)
    if isinstance(frequency, (list, tuple)):
        return bool(frequency[layer])
    if layer < (config.get("first_k_dense_replace") or 0) or layer in (config.get("mlp_only_layers") or ()):
        return False
    return (layer + 1) % (config.get("decoder_sparse_step") or frequency or 1) == 0


def _feed_forward(config: Config, sizes: dict[str, int], kind: str, layer: int) -> FeedForward | None:
    family = str(config.get("model_type", ""))
    if family == "nemotron_h" and kind not in ("moe", "mlp"):
        return None
    matrices = 2 if family in _PLAIN else 3
    hidden = sizes["hidden_size"]
    width = _first(config, ("intermediate_size", "ffn_hidden_size", "n_inner"))
    width = width or int(hidden * config.get("expansion_ratio", 4))
    experts = _first(config, _COUNTS["experts"], 0)
    if not experts or kind == "mlp" or (kind != "moe" and not _is_sparse(config, layer)):
        return Dense(width=width, matrices=matrices)
    expert_width = config.get("moe_intermediate_size") or width
    shared = _first(config, _COUNTS["shared_width"]) or _first(config, _COUNTS["shared"], 0) * expert_width
    return Experts(
        experts=experts,
        per_token=_first(config, _COUNTS["per_token"], 1),
        width=expert_width,
        shared_width=shared,
        matrices=matrices,
        latent=config.get("moe_latent_size"),
        shared_gate=family.startswith(("qwen3_5", "qwen3_next", "qwen2_moe")),
    )


def layer_groups(config: Config, sizes: dict[str, int]) -> Iterator[tuple[Mixer | None, FeedForward | None]]:
    """(mixer, feed-forward) of each layer in order; UsageError names a missing field."""
    try:
        for layer, kind in enumerate(_layer_kinds(config, sizes["num_hidden_layers"])):
            yield _mixer(config, sizes, kind), _feed_forward(config, sizes, kind, layer)
    except (KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"model config of type {config.get('model_type')!r} lacks or misspells {error}; give the "
            f"complete config.json."
        ) from error


_COLUMNS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "v_head_dim": "v_head_dim",
    "vocab": "vocab_size",
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "moe_ffn": "moe_intermediate_size",
    "shared_experts": "n_shared_experts",
    "shared_ffn": "shared_expert_intermediate_size",
    "dense_first_layers": "first_k_dense_replace",
    "kv_lora_rank": "kv_lora_rank",
    "q_lora_rank": "q_lora_rank",
    "rope_head_dim": "qk_rope_head_dim",
    "nope_head_dim": "qk_nope_head_dim",
    "sliding_window": "sliding_window",
    "max_position": "max_position_embeddings",
    "swa_kv_heads": "swa_num_key_value_heads",
    "linear_key_heads": "linear_num_key_heads",
    "linear_value_heads": "linear_num_value_heads",
    "linear_head_dim": "linear_key_head_dim",
    "mamba_heads": "mamba_num_heads",
    "mamba_head_dim": "mamba_head_dim",
    "mamba_state": "ssm_state_size",
    "mamba_groups": "n_groups",
    "moe_latent": "moe_latent_size",
    "o_groups": "o_groups",
    "o_rank": "o_lora_rank",
    "sparse_top_k": "index_topk",
}


def row_to_config(row: Mapping[str, str]) -> dict[str, Any]:
    """A catalogue row in the words of a config.json."""
    config: dict[str, Any] = {key: int(row[column]) for column, key in _COLUMNS.items() if row[column]}
    config["model_type"] = row["model_type"]
    config["tie_word_embeddings"] = row["tied"] == "True"
    if row["linear_head_dim"]:
        config["linear_value_head_dim"] = int(row["linear_head_dim"])
    if row["layer_mix"]:
        mix = json.loads(row["layer_mix"])
        config["layer_types"] = [kind for kind, count in mix.items() for _ in range(count)]
    return config
