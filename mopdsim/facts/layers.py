"""Layer kinds of a decoder: what each holds (parameters), computes (FLOPs per token) and keeps (cache
elements).

A mixer lets tokens see each other (attention, latent attention, linear attention, Mamba); a feed-forward does
not (dense, mixture of experts). All methods take the model width `hidden`; FLOPs count a multiply-add as two.
`keys` is the number of earlier positions one query may see, scalars or arrays. Leaves out: rotary embeddings,
norm and softmax FLOPs, index and compression side networks (each below 2% of a layer).
"""

from __future__ import annotations

from dataclasses import dataclass

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
        context = np.asarray(context, dtype=float)
        return context if self.window is None else np.minimum(context, self.window)

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
        context = np.asarray(context, dtype=float)
        return context if self.top_k is None else np.minimum(context, self.top_k)

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
        context = np.asarray(context, dtype=float)
        near = np.minimum(context, self.window)
        if not self.ratio:
            return near
        far = context / self.ratio
        return near + (far if self.top_k is None else np.minimum(far, self.top_k))

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
