"""Where a model comes from: a name of the catalogue, or a Hugging Face config.json; rows of the catalogue take the same
path.

A family is the `model_type` of a config.json. Every family spells the same idea its own way; this file holds the
synonyms, and what each does that its config.json does not say (`Traits`). Those listed here were held against the model
that transformers builds of them: parameters, active parameters, key-value cache
(tests/mopdsim/facts/test_families.py). Any other family is refused by name. Where transformers is installed, its config
class fills the keys that a config.json leaves out. Leaves out: what layers cost (`mopdsim.facts.layers`).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from mopdsim.base import numbers
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.hardware import data_rows
from mopdsim.facts.layers import (
    Attention,
    CompressedAttention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    LayerGroup,
    Mixer,
    Model,
    Recurrent,
)

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
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CONFIG_MAPPING
    except ImportError:
        return text, ()
    family = family_of(config)
    if family not in CONFIG_MAPPING:
        return text, ()
    try:
        whole = CONFIG_MAPPING[family].from_dict(dict(config)).get_text_config().to_dict()
    except (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"model config: transformers refuses it as {family!r}: {why}") from error
    added = {key: value for key, value in whole.items() if text.get(key) is None and value is not None}
    return {**text, **added}, tuple(sorted(added))


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
    state, kernel = (_first(config, _COUNTS["mamba_state"]), _first(config, _COUNTS["mamba_convolution"], 4))
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


_FACTS = ("model", "total_b", "active_b", "model_type", "tied", "layer_mix", "aliases", "source")  # of a row


def row_to_config(row: Mapping[str, str]) -> dict[str, Any]:
    """A catalogue row as a config.json: its columns of numbers are called as there."""
    config: dict[str, Any] = {key: int(cell) for key, cell in row.items() if cell and key not in _FACTS}
    config["model_type"] = row["model_type"]
    config["tie_word_embeddings"] = row["tied"] == "True"
    if row["linear_key_head_dim"]:
        config["linear_value_head_dim"] = int(row["linear_key_head_dim"])
    if row["layer_mix"]:
        mix = json.loads(row["layer_mix"])
        config["layer_types"] = [kind for kind, count in mix.items() for _ in range(count)]
    return config


def from_config(
    config: Mapping[str, Any] | str | Path, *, name: str | None = None, fill: bool = False, source: str = ""
) -> Model:
    """From a Hugging Face `config.json` (a mapping, the file, or a directory that holds it). fill: the keys that a
    mapping leaves out get their family's defaults, as a file's do.

    A missing or nonsensical field raises UsageError; an absent file NotFoundError.
    """
    if not isinstance(config, Mapping):
        name = name or (Path(config) if Path(config).is_dir() else Path(config).parent).name
        config, fill = _read_config(Path(config)), True
    text, assumed = filled(config) if fill else (config.get("text_config") or config, ())
    traits(text)  # refuses a family that is not counted before any of its keys is missed
    sizes = shape(text)
    groups = Counter(layer_groups(text, sizes))
    return Model(
        name=name or str(config.get("_name_or_path") or text.get("model_type") or "model"),
        hidden=sizes["hidden_size"],
        vocab=sizes["vocab_size"],
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        groups=tuple(
            LayerGroup(count=count, mixer=mixer, feed_forward=feed_forward)
            for (mixer, feed_forward), count in groups.items()
        ),
        extra_parameters=extra_parameters(text),
        assumed=assumed,
        source=source,
    )


def _plain_numbers(row: dict[str, Any]) -> Any:
    """transformers writes an infinite number as {"__float__": "Infinity"}."""
    return float(row["__float__"]) if row.keys() == {"__float__"} else row


def _read_config(path: Path) -> Mapping[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise NotFoundError(
            f"model config {str(path)!r} does not exist; give a config.json or its directory."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"model config {str(path)!r} is no text ({error}); give a config.json.") from error
    return _parsed_config(text, f"model config {str(path)!r}")


def _parsed_config(text: str, what: str) -> Mapping[str, Any]:
    try:
        config = json.loads(text, object_hook=_plain_numbers)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON ({error}); give a config.json.") from error
    if not isinstance(config, Mapping):
        raise UsageError(f"{what} holds a {type(config).__name__}; it must be one JSON object.")
    if not isinstance(config.get("text_config", config), Mapping):
        raise UsageError(f"{what}: text_config = {config['text_config']!r}: must be an object of its own.")
    return config


@lru_cache(maxsize=32)
def _of_text(text: str) -> Model:
    """The model of a config.json's text, called as its maker saved it, or by its size."""
    config = _parsed_config(text, "the model's config.json")
    name = str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2]
    found = from_config(config, name=name or "own model", fill=True)
    return found if name else replace(found, name=f"own {numbers.count(found.total_parameters)} model")


def title(name: str) -> str:
    """What a model is called where people read it: as it was named; of a config.json's text its own name."""
    return model(name).name if name.lstrip().startswith("{") else name


@cache
def _rows() -> dict[str, dict[str, str]]:
    """Rows of `data/models.csv` by name."""
    return {row["model"]: row for row in data_rows("models.csv")}


@cache
def _listed(name: str) -> Model:
    """One model of the catalogue: of sixty, most commands want one."""
    row = _rows()[name]
    return from_config(row_to_config(row), name=name, source=row["source"])


@cache
def models() -> dict[str, Model]:
    """The catalogue, by the names of `data/models.csv`."""
    return {name: _listed(name) for name in _rows()}


def _key(name: str) -> str:
    """Lower case without organisation, punctuation and suffixes that leave the shape alone (-Instruct,
    -FP8)."""
    bare = name.lower().rsplit("/", 1)[-1]
    while (short := re.sub(r"[-_ ](instruct|base|chat|hf|fp8|nvfp4|bf16)$", "", bare)) != bare:
        bare = short
    return re.sub(r"[^a-z0-9]+", "", bare.removeprefix("meta-").removeprefix("nvidia-"))


@cache
def _index() -> dict[str, str]:
    index = {}
    for row in _rows().values():
        for alias in (row["model"], *filter(None, row["aliases"].split("|"))):
            index[_key(alias)] = row["model"]
    return index


def model(name: str) -> Model:
    """The model called `name`: a catalogue name or alias, the path of a config.json, or the text of one.

    NotFoundError with the nearest name otherwise.
    """
    if name.lstrip().startswith("{"):
        return _of_text(name)
    known = _index().get(_key(name))
    if known is not None:
        return _listed(known)
    if name and (name.endswith(".json") or os.path.isdir(name)):  # which a name may be too long for
        return from_config(name)
    hint = did_you_mean(name, _rows())
    raise NotFoundError(
        f"model {name!r} is not in the catalogue{hint if 'did you mean' in hint else ''}; "
        "`mopd models` lists it, and the path of a config.json works too."
    )
