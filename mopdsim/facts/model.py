"""A language model as the simulator sees it: a bag of layers with FLOPs, bytes and parameters.

Conventions. A multiply-add is two FLOPs. `total_parameters` counts every tensor. `active_parameters` counts
what one token uses, input embedding included, as makers publish it. `matmul_parameters` is active without the
input embedding table (a look-up costs nothing) and with the output head: a forward pass costs 2 x
matmul_parameters a token plus attention, which is counted causally (L^2 / 2 keys for a sequence of L).
Training is three forward passes. Leaves out: multi-token-prediction heads, vision towers, biases other than
of queries, keys and values.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mopdsim.base import numbers
from mopdsim.base.arrays import Array
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.hardware import data_rows
from mopdsim.facts.layers import Experts, LayerGroup
from mopdsim.facts.model_config import extra_parameters, filled, layer_groups, row_to_config, shape, traits


@dataclass(frozen=True, kw_only=True)
class Model:
    """Frozen description; `groups` are the layers, equal ones together. Sizes published by the maker in
    billions."""

    name: str
    hidden: int
    vocab: int
    tied: bool
    groups: tuple[LayerGroup, ...]
    published_total_b: float | None = None
    published_active_b: float | None = None
    extra_parameters: int = 0
    assumed: tuple[str, ...] = ()
    source: str = ""

    @cached_property
    def embedding_parameters(self) -> int:
        """The input table (the output head is as large again, unless tied)."""
        return self.vocab * self.hidden

    @cached_property
    def _mixer_parameters(self) -> tuple[int, int]:
        matmul = sum(g.count * g.mixer.matmul_parameters(self.hidden) for g in self.groups if g.mixer)
        other = sum(g.count * g.mixer.other_parameters(self.hidden) for g in self.groups if g.mixer)
        return matmul, other + int(2 * self.layers + 1) * self.hidden

    @cached_property
    def total_parameters(self) -> int:
        feed_forward = sum(
            g.count * g.feed_forward.parameters(self.hidden) for g in self.groups if g.feed_forward
        )
        tables = self.embedding_parameters * (1 if self.tied else 2)
        return sum(self._mixer_parameters) + feed_forward + tables + self.extra_parameters

    @cached_property
    def active_parameters(self) -> int:
        return self.total_parameters - self._idle_expert_parameters

    @cached_property
    def _idle_expert_parameters(self) -> int:
        return sum(
            count * (kind.experts - kind.per_token) * kind.expert_parameters(self.hidden)
            for count, kind in self.expert_layers
        )

    @cached_property
    def matmul_parameters(self) -> int:
        """Weights one token is multiplied with, output head included, input table not."""
        feed_forward = sum(
            g.count * g.feed_forward.active_parameters(self.hidden) for g in self.groups if g.feed_forward
        )
        return self._mixer_parameters[0] + feed_forward + self.embedding_parameters

    @cached_property
    def dense_matmul_parameters(self) -> int:
        """Matmul weights outside the routed experts: read in every decode step whatever the batch."""
        routed = sum(c * e.per_token * e.expert_parameters(self.hidden) for c, e in self.expert_layers)
        return self.matmul_parameters - routed

    @cached_property
    def expert_layers(self) -> tuple[tuple[int, Experts], ...]:
        return tuple((g.count, g.feed_forward) for g in self.groups if isinstance(g.feed_forward, Experts))

    @cached_property
    def routed_parameters(self) -> int:
        """All routed-expert weights, used or not."""
        return sum(
            count * kind.experts * kind.expert_parameters(self.hidden) for count, kind in self.expert_layers
        )

    @property
    def is_moe(self) -> bool:
        return bool(self.expert_layers)

    @cached_property
    def layers(self) -> float:
        """Depth in layers of a mixer and a feed-forward; a hybrid's separate halves count half each."""
        return sum(g.count * ((g.mixer is not None) + (g.feed_forward is not None)) for g in self.groups) / 2

    @cached_property
    def moe_layers(self) -> int:
        return sum(count for count, _ in self.expert_layers)

    @property
    def forward_flops_per_token(self) -> float:
        """Matrix products only; attention scores are counted by `attention_flops`."""
        return 2.0 * self.matmul_parameters

    def attention_flops(self, lengths: ArrayLike) -> float:
        """Forward attention FLOPs of causal sequences of these lengths (scores and weighted values),
        summed."""
        lengths = np.asarray(lengths, dtype=float)
        if not lengths.any():
            return 0.0
        return float(sum(np.sum(g.count * g.mixer.sequence_flops(lengths)) for g in self.groups if g.mixer))

    def forward_flops(self, lengths: Sequence[float]) -> float:
        """One forward pass over sequences of these lengths. A multiply-add is two FLOPs, attention is causal (half the
        square of the length); norms and rotary embeddings, each below 1%, are left out."""
        return sum(lengths) * self.forward_flops_per_token + self.attention_flops(lengths)

    def cache_elements(self, context: ArrayLike) -> Array:
        """Cache kept for one sequence of `context` tokens: keys and values, latents, windows, states."""
        return self._summed("cache_elements", context)

    def cache_elements_read(self, context: ArrayLike) -> Array:
        """Cache read to decode one token (less than what is kept under sparse attention)."""
        return self._summed("read_elements", context)

    def kv_bytes_per_token(self) -> float:
        """What one more token adds to a bf16 cache beyond every window; fixed states add nothing."""
        far = 1 << 24
        return float(self.cache_elements(far + 1) - self.cache_elements(far)) * 2.0

    def _summed(self, method: str, context: ArrayLike) -> Array:
        total = np.zeros_like(np.asarray(context, dtype=float))
        for group in self.groups:
            if group.mixer:
                total = total + group.count * getattr(group.mixer, method)(context)
        return total

    def expert_parameters_touched(self, tokens: ArrayLike) -> Array:
        """Routed-expert weights that `tokens` tokens of one step wake, over all layers."""
        total = np.zeros_like(np.asarray(tokens, dtype=float))
        for count, kind in self.expert_layers:
            total = total + count * kind.experts * kind.expert_parameters(self.hidden) * kind.touched(tokens)
        return total

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | str | Path,
        *,
        name: str | None = None,
        fill: bool = False,
        **facts: Any,
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
        return cls(
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
            **facts,
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
    found = Model.from_config(config, name=name or "own model", fill=True)
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
    return Model.from_config(
        row_to_config(row),
        name=name,
        published_total_b=float(row["total_b"]),
        published_active_b=float(row["active_b"]),
        source=row["source"],
    )


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
    if name and (name.endswith(".json") or Path(name).is_dir()):
        return Model.from_config(name)
    hint = did_you_mean(name, _rows())
    raise NotFoundError(
        f"model {name!r} is not in the catalogue{hint if 'did you mean' in hint else ''}; "
        "`mopd models` lists it, and the path of a config.json works too."
    )
