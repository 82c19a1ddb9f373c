"""From the keys of a Hugging Face config.json to layer kinds; rows of the catalogue take the same path.

Every family spells the same idea its own way; this file holds the synonyms, and `mopdsim.facts.families` what a family
does that its config.json does not say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.facts.families import family_of, traits
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
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "per_token": ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"),
    "shared_width": (
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "width": ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "dff"),
    "mamba_heads": ("mamba_num_heads", "mamba_n_heads", "num_heads"),
    "mamba_head_dim": ("mamba_head_dim", "mamba_d_head", "head_dim"),
    "mamba_state": ("ssm_state_size", "mamba_d_state", "state_size"),
    "mamba_groups": ("n_groups", "mamba_n_groups"),
    "mamba_convolution": ("conv_kernel", "mamba_d_conv"),
}
_KINDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
_SPARSE = ("sparse", "moe", "hash_moe")
_ATTENTION_FREE = ("mamba", "falcon_mamba", "mamba2")


def _first(config: Config, names: tuple[str, ...], default: Any = None) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), default)


def shape(config: Config) -> dict[str, int]:
    """The four sizes every decoder has, checked to be positive whole numbers. A model without attention has 1 head."""
    found = {}
    given = dict(config)
    if config.get("layers_block_type"):
        given.setdefault("num_hidden_layers", len(config["layers_block_type"]))
    if family_of(config) in _ATTENTION_FREE:
        given["num_attention_heads"] = 1
    for field, names in _SIZES.items():
        value = _first(given, names)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**8:
            raise UsageError(
                f"model config field {field} is {value!r}; it must be a positive whole number: "
                "give the text model's config.json."
            )
        found[field] = value
    return found


def _layer_kinds(config: Config, layers: int) -> list[str]:
    """What each layer mixes with, as names: the families' patterns made one."""
    if family_of(config) in _ATTENTION_FREE:
        kinds = ["mamba"] * layers
    elif family_of(config) == "bamba":
        kinds = [
            "attention" if i in (config.get("attn_layer_indices") or ()) else "mamba" for i in range(layers)
        ]
    elif "hybrid_override_pattern" in config:
        kinds = [_KINDS[letter] for letter in config["hybrid_override_pattern"]]
    elif "hybrid_layer_pattern" in config:
        kinds = ["sliding_attention" if flag else "full_attention" for flag in config["hybrid_layer_pattern"]]
    elif "compress_ratios" in config:
        kinds = [
            f"compressed_{ratio}" if ratio else "sliding_attention" for ratio in config["compress_ratios"]
        ]
    elif config.get("compress_rates"):
        rates = config["compress_rates"]
        kinds = [
            f"compressed_{rates[kind]}" if kind in rates else "sliding_attention"
            for kind in config["layer_types"]
        ]
    elif config.get("layer_types") or config.get("layers_block_type"):
        kinds = list(config.get("layer_types") or config["layers_block_type"])
        if _first(config, _COUNTS["mamba_state"]):
            kinds = ["mamba" if kind == "linear_attention" else kind for kind in kinds]
    elif config.get("full_attention_interval"):
        every = config["full_attention_interval"]
        kinds = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    elif config.get("sliding_window") and config.get("use_sliding_window", True):
        every = config.get("sliding_window_pattern") or traits(config).full_attention_every
        kinds = [
            "full_attention" if every and (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
        ]
    else:
        kinds = ["full_attention"] * layers
    if len(kinds) < layers:
        raise UsageError(
            f"model config names {len(kinds)} layer kinds; num_hidden_layers is {layers}: they must agree."
        )
    return kinds[:layers]


def _mamba(config: Config, hidden: int) -> Recurrent:
    state, kernel = (
        _first(config, _COUNTS["mamba_state"]),
        _first(config, _COUNTS["mamba_convolution"], 4),
    )
    heads = _first(config, _COUNTS["mamba_heads"])
    if heads is None:  # Mamba-1 (2312.00752): steps of its own for each channel, from a low-rank projection
        inner = config.get("intermediate_size") or config.get("expand", 2) * hidden
        rank = config.get("time_step_rank") or -(-hidden // 16)
        return Recurrent(
            inner=inner,
            state=state,
            projection=2 * inner,
            convolution=inner * (kernel + state + 3),
            inner_projection=2 * rank + 2 * state,
        )
    inner = heads * _first(config, _COUNTS["mamba_head_dim"])
    convolved = inner + 2 * _first(config, _COUNTS["mamba_groups"]) * state
    return Recurrent(
        inner=inner, state=state, projection=inner + convolved + heads, convolution=convolved * kernel
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
    if kind in ("moe", "mlp"):
        return None
    if kind == "mamba":
        return _mamba(config, sizes["hidden_size"])
    if kind == "linear_attention":
        return _linear(config)
    known = traits(config)
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
            index_heads=config.get("index_n_heads") or 0,
            index_dim=config.get("index_head_dim") or 0,
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
            index_heads=config.get("index_n_heads") or 0,
            index_dim=config.get("index_head_dim") or 0,
        )
    sliding = kind in ("sliding_attention", "chunked_attention")
    kv_heads = _kv_heads(config, heads)
    return Attention(
        heads=heads,
        kv_heads=(config.get("swa_num_key_value_heads") or known.window_kv_heads or kv_heads)
        if sliding
        else kv_heads,
        head_dim=head_dim,
        v_head_dim=config.get("v_head_dim") or head_dim,
        window=_first(config, ("sliding_window", "attention_chunk_size")) if sliding else None,
        qkv_bias=bool(config.get("attention_bias")) or known.qkv_bias,
        qk_norm=known.qk_norm,
        output_gate=known.output_gate,
    )


def _kv_heads(config: Config, heads: int) -> int:
    """Key heads: one where the family says so of old, as many as query heads where nothing is said."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return int(config.get("num_key_value_heads") or config.get("num_kv_heads") or heads)


def _is_sparse(config: Config, layer: int) -> bool:
    if config.get("mlp_layer_types"):
        return config["mlp_layer_types"][layer] in _SPARSE
    if config.get("moe_layers"):
        return layer in config["moe_layers"]
    if config.get("moe_layer_interval"):
        start, interval = config.get("moe_layer_start_index", 0), config["moe_layer_interval"]
        end = config.get("moe_layer_end_index", -1)
        return (end < 0 or start <= layer <= end) and layer >= start and (layer + 1) % interval == 0
    dense = _first(config, ("first_k_dense_replace", "num_dense_layers"), 0)
    if layer < dense or layer in (config.get("mlp_only_layers") or ()):
        return False
    frequency = config.get("moe_layer_freq", 1)
    if isinstance(frequency, (list, tuple)):
        return bool(frequency[layer])
    every = _first(config, ("decoder_sparse_step", "interleave_moe_layer_step")) or frequency or 1
    return (layer + 1) % every == 0


def _feed_forward(config: Config, sizes: dict[str, int], kind: str, layer: int) -> FeedForward | None:
    family, known = family_of(config), traits(config)
    if family in _ATTENTION_FREE or (family == "nemotron_h" and kind not in ("moe", "mlp")):
        return None
    width = _first(config, _COUNTS["width"])
    width = width or int(sizes["hidden_size"] * config.get("expansion_ratio", 4))
    experts = _first(config, _COUNTS["experts"], 0)
    if not experts or kind == "mlp" or (kind != "moe" and not _is_sparse(config, layer)):
        if config.get("shared_intermediate_size") and not experts:
            width = config["shared_intermediate_size"]
        return Dense(width=config.get("intermediate_size_mlp") or width, matrices=known.matrices)
    expert_width = config.get("moe_intermediate_size") or width
    shared = _first(config, _COUNTS["shared_width"])
    if shared is None:
        shared = _first(config, _COUNTS["shared"], known.shared_experts) * expert_width
    return Experts(
        experts=experts,
        per_token=_first(config, _COUNTS["per_token"], 1),
        width=expert_width,
        shared_width=shared,
        matrices=known.matrices,
        latent=config.get("moe_latent_size"),
        shared_gate=known.shared_gate,
    )


def extra_parameters(config: Config) -> int:
    """Numbers of tables that no product reads: learned positions, and a second embedding where there is one."""
    rows = _first(config, ("n_positions", "max_position_embeddings"), 0) + traits(config).more_positions
    width = config.get("word_embed_proj_dim") or _first(config, _SIZES["hidden_size"])
    return rows * width if traits(config).learned_positions else 0


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
