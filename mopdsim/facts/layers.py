"""A language model as the simulator sees it: a bag of layers, each kind with what it holds (parameters), computes
(FLOPs per token) and keeps (cache elements).

A mixer lets tokens see each other (attention, latent attention, linear attention, Mamba); a feed-forward does
not (dense, mixture of experts). All methods of a layer take the model width `hidden`; a multiply-add is two FLOPs.
`keys` is the number of earlier positions one query may see, scalars or arrays.

`total_parameters` counts every tensor. `active_parameters` counts what one token uses, input embedding included, as
makers publish it. `matmul_parameters` is active without the input embedding table (a look-up costs nothing) and with
the output head: a forward pass costs 2 x matmul_parameters a token plus attention, which is counted causally (L^2 / 2
keys for a sequence of L). Training is three forward passes. Leaves out: rotary embeddings, norm and softmax FLOPs,
index and compression side networks (each below 2% of a layer); multi-token-prediction heads, vision towers, biases
other than of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mopdsim.base.arrays import Array


def _capped_sum(length: ArrayLike, slope: float, cap: float | None) -> Array:
    """Integral over t from 0 to `length` of min(slope t, cap): keys seen by all queries of one causal
    sequence."""
    length = np.asarray(length, dtype=float)
    if cap is None:
        return slope * length**2 / 2
    ramp = np.minimum(length, cap / slope)
    return slope * ramp**2 / 2 + (length - ramp) * cap


def _visible(keys: ArrayLike, most: float | None) -> Array:
    """Of so many earlier keys those that one query sees."""
    keys = np.asarray(keys, dtype=float)
    return keys if most is None else np.minimum(keys, most)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head attention with grouped keys and values; `window` bounds what a query sees."""

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    output_gate: bool = False

    def matmul_parameters(self, hidden: int) -> int:
        query = self.heads * self.head_dim * (2 if self.output_gate else 1)
        key_value = self.kv_heads * (self.head_dim + self.v_head_dim)
        return hidden * (query + key_value + self.heads * self.v_head_dim)

    def other_parameters(self, hidden: int) -> int:
        bias = self.heads * self.head_dim + self.kv_heads * (self.head_dim + self.v_head_dim)
        return (bias if self.qkv_bias else 0) + (2 * self.head_dim if self.qk_norm else 0)

    def score_flops(self, keys: ArrayLike) -> Array:
        """Query times keys and weights times values, for one query token."""
        return 2.0 * self.heads * (self.head_dim + self.v_head_dim) * np.asarray(keys, dtype=float)

    def sequence_flops(self, length: ArrayLike) -> Array:
        return self.score_flops(_capped_sum(length, 1.0, self.window))

    def visible(self, context: ArrayLike) -> Array:
        return _visible(context, self.window)

    def cache_elements(self, context: ArrayLike) -> Array:
        return self.visible(context) * self.kv_heads * (self.head_dim + self.v_head_dim)

    read_elements = cache_elements


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds one latent and one rotary
    key.

    Training decompresses keys and values; decoding absorbs the up-projections and works on the latent. With
    `top_k`, an indexer picks the keys that are read (DeepSeek sparse attention), all are still stored.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    top_k: int | None = None
    index_heads: int = 0
    index_dim: int = 0

    def matmul_parameters(self, hidden: int) -> int:
        query_out = self.heads * (self.nope_dim + self.rope_dim)
        query = hidden * query_out if self.q_rank is None else self.q_rank * (hidden + query_out)
        key_value = hidden * (self.kv_rank + self.rope_dim)
        key_value += self.kv_rank * self.heads * (self.nope_dim + self.v_head_dim)
        return query + key_value + self.heads * self.v_head_dim * hidden + self._index_parameters(hidden)

    def _index_parameters(self, hidden: int) -> int:
        """The indexer: its queries from the queries' latent, its keys and its heads' weights from the hidden state."""
        return (self.q_rank or hidden) * self.index_heads * self.index_dim + hidden * (
            self.index_dim + self.index_heads
        )

    def other_parameters(self, hidden: int) -> int:
        return (self.q_rank or 0) + self.kv_rank + 2 * self.index_dim

    def score_flops(self, keys: ArrayLike) -> Array:
        return (
            2.0
            * self.heads
            * (self.nope_dim + self.rope_dim + self.v_head_dim)
            * np.asarray(keys, dtype=float)
        )

    def sequence_flops(self, length: ArrayLike) -> Array:
        return self.score_flops(_capped_sum(length, 1.0, self.top_k))

    def visible(self, context: ArrayLike) -> Array:
        return _visible(context, self.top_k)

    def cache_elements(self, context: ArrayLike) -> Array:
        return np.asarray(context, dtype=float) * (self.kv_rank + self.rope_dim)

    def read_elements(self, context: ArrayLike) -> Array:
        return self.visible(context) * (self.kv_rank + self.rope_dim)


@dataclass(frozen=True, kw_only=True)
class CompressedAttention:
    """DeepSeek-V4 attention: one key-value head shared by all queries, low-rank queries, grouped low-rank
    output.

    A query sees a sliding window and, with `ratio`, one entry per `ratio` older tokens, at most `top_k` of them. Where
    an indexer picks them (`top_k`), each entry is made from two windows of tokens, for the entries and for the indexer.
    """

    heads: int
    head_dim: int
    q_rank: int
    output_groups: int
    output_rank: int
    window: int
    ratio: int = 0
    top_k: int | None = None
    index_heads: int = 0
    index_dim: int = 0

    def matmul_parameters(self, hidden: int) -> int:
        wide = self.heads * self.head_dim
        output = self.output_rank * wide + self.output_groups * self.output_rank * hidden
        compressor = 2 * hidden * self.head_dim if self.ratio else 0
        if self.top_k is not None:
            compressor += 2 * hidden * self.head_dim + 4 * hidden * self.index_dim
            compressor += (self.q_rank * self.index_dim + hidden) * self.index_heads
        return self.q_rank * (hidden + wide) + hidden * self.head_dim + compressor + output

    def other_parameters(self, hidden: int) -> int:
        return self.q_rank + self.head_dim

    def score_flops(self, keys: ArrayLike) -> Array:
        return 4.0 * self.heads * self.head_dim * np.asarray(keys, dtype=float)

    def sequence_flops(self, length: ArrayLike) -> Array:
        far = _capped_sum(length, 1 / self.ratio, self.top_k) if self.ratio else 0.0
        return self.score_flops(_capped_sum(length, 1.0, self.window) + far)

    def visible(self, context: ArrayLike) -> Array:
        near = _visible(context, self.window)
        if not self.ratio:
            return near
        return near + _visible(np.asarray(context, dtype=float) / self.ratio, self.top_k)

    def cache_elements(self, context: ArrayLike) -> Array:
        context = np.asarray(context, dtype=float)
        far = context / self.ratio if self.ratio else 0.0
        return (np.minimum(context, self.window) + far) * self.head_dim

    def read_elements(self, context: ArrayLike) -> Array:
        return self.visible(context) * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """Linear attention (gated delta rule) or Mamba-2: a fixed state per sequence instead of a growing cache.

    `inner` is heads times head width of the values, `state` the key or state width per head, `projection` the
    width of everything the input projection makes, `inner_projection` that of what is projected from the values and
    back (Mamba-1). One token updates and reads the state: 6 FLOPs an element.
    """

    inner: int
    state: int
    projection: int
    convolution: int
    inner_projection: int = 0

    def matmul_parameters(self, hidden: int) -> int:
        return hidden * (self.projection + self.inner) + self.inner * self.inner_projection

    def other_parameters(self, hidden: int) -> int:
        return self.convolution

    def score_flops(self, keys: ArrayLike) -> Array:
        return 6.0 * self.inner * self.state * np.ones_like(np.asarray(keys, dtype=float))

    def sequence_flops(self, length: ArrayLike) -> Array:
        return self.score_flops(length) * np.asarray(length, dtype=float)

    def cache_elements(self, context: ArrayLike) -> Array:
        return float(self.inner * self.state + self.convolution) * np.ones_like(
            np.asarray(context, dtype=float)
        )

    read_elements = cache_elements


Mixer = Attention | LatentAttention | CompressedAttention | Recurrent


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Feed-forward of `matrices` (3: gated, 2: plain) matrices of hidden x width."""

    width: int
    matrices: int = 3

    def parameters(self, hidden: int) -> int:
        return self.matrices * hidden * self.width

    active_parameters = parameters


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Mixture of experts; `latent` is the width the experts work at when it is not the model's."""

    experts: int
    per_token: int
    width: int
    shared_width: int = 0
    matrices: int = 3
    latent: int | None = None
    shared_gate: bool = False

    def always_parameters(self, hidden: int) -> int:
        """Router, shared expert and latent projections: every token uses them."""
        projections = 2 * hidden * self.latent if self.latent else 0
        gate = hidden if self.shared_gate else 0
        return hidden * self.experts + self.matrices * hidden * self.shared_width + projections + gate

    def expert_parameters(self, hidden: int) -> int:
        return self.matrices * (self.latent or hidden) * self.width

    def parameters(self, hidden: int) -> int:
        return self.always_parameters(hidden) + self.experts * self.expert_parameters(hidden)

    def active_parameters(self, hidden: int) -> int:
        return self.always_parameters(hidden) + self.per_token * self.expert_parameters(hidden)

    def touched(self, tokens: ArrayLike) -> Array:
        """Expected share of the experts that `tokens` independent tokens wake: 1 - (1 - k/E)^tokens."""
        return -np.expm1(np.asarray(tokens, dtype=float) * np.log1p(-self.per_token / self.experts + 1e-12))


FeedForward = Dense | Experts


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """`count` equal layers; either half may be missing (hybrid models give each its own layer)."""

    count: int
    mixer: Mixer | None
    feed_forward: FeedForward | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Frozen description; `groups` are the layers, equal ones together."""

    name: str
    hidden: int
    vocab: int
    tied: bool
    groups: tuple[LayerGroup, ...]
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

    def sequence_flops(self, lengths: ArrayLike) -> Array:
        """The same of one sequence, for each of these lengths."""
        return self._summed("sequence_flops", lengths)

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
