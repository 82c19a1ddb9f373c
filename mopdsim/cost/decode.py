"""Seconds of one decode step of a serving engine with continuous batching.

    step = max(weights touched / (bandwidth e), FLOPs / (peak f))          matrix products
         + cache read / (bandwidth e)                                      attention
         + prompt FLOPs sharing the step / (peak p)                        continuous batching: each sequence
         that
                                                                           ends lets a new prompt in
         + exchanged bytes / link + L (a + r log2 G + n log2 nodes)          reductions, launches
         + L_moe (m + w wide) + s b                                        routing, all-to-all, per-sequence work

Weights are split over all G GPUs of a replica; under data-parallel attention each of A attention replicas
holds all dense weights and b / A sequences, and a token's hidden state goes to its experts and comes back
(dispatched bytes over the link, latency w). Grouped keys and values split over at most kv_heads GPUs, a latent
cache over none. Reductions between nodes go through the network cards of all members (`group_link`). Replicas of
more than eight GPUs compute prompts elsewhere. Speculative decoding: b (1 + drafted) tokens share a step's weights
and are verified at once (products, experts woken, reductions), the cache is read once a sequence, and drafting adds
a share of the step. Leaves out: queueing, the cost of widening a narrow cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import DecodeConstants
from mopdsim.facts.hardware import Gpu, group_link
from mopdsim.facts.layers import Attention
from mopdsim.facts.model import Model

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
CACHE_BYTES = {"bf16": 2.0, "fp8": 1.0}
PREFILL_ATTENTION_EFFICIENCY = 0.3
NODE_GPUS = 8


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """Speculative decoding: `drafted` tokens per sequence and step, of which a step yields `tokens_per_step` with the
    one that verification adds. `draft_cost` per drafted token, of a step: prior, one layer and the output head.
    """

    drafted: int
    tokens_per_step: float
    draft_cost: float = 0.05

    def __post_init__(self) -> None:
        if self.drafted < 1 or not 1 <= self.tokens_per_step <= 1 + self.drafted or self.draft_cost < 0:
            raise UsageError(
                f"speculation drafts {self.drafted!r} tokens and yields {self.tokens_per_step!r} a step at a cost of "
                f"{self.draft_cost!r}; 1 <= tokens_per_step <= 1 + drafted and a cost of at least 0 must hold."
            )


@dataclass(frozen=True, kw_only=True)
class Replica:
    """GPUs that hold one copy of the model for generation. `attention_replicas` > 1: data-parallel attention.
    Formats of weights, of expert weights where they differ, and of the cache."""

    gpus: int = 1
    attention_replicas: int = 1
    precision: str = "bf16"
    expert_precision: str | None = None
    cache_precision: str = "bf16"
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.attention_replicas < 1 or self.gpus % self.attention_replicas:
            raise UsageError(
                f"replica of {self.gpus} GPUs with {self.attention_replicas} attention replicas; "
                "both must be positive and the first a multiple of the second."
            )
        for precision in (self.precision, self.expert_precision or self.precision):
            if precision not in WEIGHT_BYTES:
                raise UsageError(f"precision is {precision!r}; it must be one of {', '.join(WEIGHT_BYTES)}.")
        if self.cache_precision not in CACHE_BYTES:
            raise UsageError(
                f"cache precision is {self.cache_precision!r}; it must be one of {', '.join(CACHE_BYTES)}."
            )

    @property
    def cache_bytes(self) -> float:
        """Per element of the key-value cache."""
        return CACHE_BYTES[self.cache_precision]

    @property
    def tokens_per_step(self) -> float:
        """Tokens each sequence gains in one decode step."""
        return self.speculation.tokens_per_step if self.speculation else 1.0


@dataclass(frozen=True, kw_only=True)
class ReplicaGrid:
    """Replicas of several sizes and the formats of one, side by side: what generation is timed and counted by.
    gpus and attention_replicas: of each, (R, 1), to broadcast against an axis of work."""

    like: Replica
    gpus: NDArray[np.int64]
    attention_replicas: NDArray[np.int64]

    precision = property(lambda self: self.like.precision)
    expert_precision = property(lambda self: self.like.expert_precision)
    cache_bytes = property(lambda self: self.like.cache_bytes)
    speculation = property(lambda self: self.like.speculation)
    tokens_per_step = property(lambda self: self.like.tokens_per_step)

    @classmethod
    def of(cls, like: Replica, splits: Sequence[tuple[int, int]]) -> ReplicaGrid:
        """Replicas of so many GPUs and attention replicas."""
        gpus, attention = np.array(splits).T[:, :, None]
        return cls(like=like, gpus=gpus, attention_replicas=attention)


@dataclass(frozen=True, kw_only=True)
class DecodeWork:
    """What one step moves and computes; fields are floats or arrays of one shape. Bytes, FLOPs, counts.
    verified: tokens per sequence that one step computes; draft_share: of a step, spent on drafting."""

    batch: Any
    verified: Any
    draft_share: Any
    gpus: Any
    attention_replicas: Any
    dense_weight_bytes: Any
    expert_weight_bytes: Any
    dense_flops_per_token: Any
    expert_flops_per_token: Any
    dense_flops_per_s: Any
    expert_flops_per_s: Any
    bf16_flops_per_s: Any
    memory_bytes_per_s: Any
    ring_bytes_per_s: Any
    link_bytes_per_s: Any
    cache_bytes_per_sequence: Any
    cache_split: Any
    prompt_tokens: Any
    prompt_attention_flops: Any
    layers: Any
    moe_layers: Any
    wide_layers: Any
    dispatched_bytes: Any
    node_doublings: Any
    hidden: Any


def decode_work(
    model: Model,
    gpu: Gpu,
    replica: Replica | ReplicaGrid,
    *,
    batch: ArrayLike,
    context: ArrayLike,
    prompts_per_step: ArrayLike = 0.0,
    prompt_length: float = 0.0,
) -> DecodeWork:
    """Work of one step of `batch` sequences with `context` tokens behind them, on one replica or each of a grid.

    prompts_per_step: new prompts of prompt_length tokens computed in the same step (0 for a batch that only
    drains); in steady state batch / output length.
    """
    batch = np.asarray(batch, dtype=float)
    expert_precision = replica.expert_precision or replica.precision
    per_replica = replica.gpus / replica.attention_replicas
    heads = [g.mixer.kv_heads for g in model.groups if isinstance(g.mixer, Attention)]
    speculation = replica.speculation
    verified = 1.0 + (speculation.drafted if speculation else 0)
    prompts = np.where(replica.gpus > NODE_GPUS, 0.0, prompts_per_step)
    return DecodeWork(
        batch=batch,
        verified=verified,
        draft_share=speculation.drafted * speculation.draft_cost if speculation else 0.0,
        gpus=np.asarray(replica.gpus, dtype=float),
        attention_replicas=np.asarray(replica.attention_replicas, dtype=float),
        dense_weight_bytes=model.dense_matmul_parameters * WEIGHT_BYTES[replica.precision],
        expert_weight_bytes=model.expert_parameters_touched(batch * verified)
        * WEIGHT_BYTES[expert_precision],
        dense_flops_per_token=2.0 * model.dense_matmul_parameters,
        expert_flops_per_token=2.0 * (model.matmul_parameters - model.dense_matmul_parameters),
        dense_flops_per_s=gpu.flops_per_s(replica.precision),
        expert_flops_per_s=gpu.flops_per_s(expert_precision),
        bf16_flops_per_s=gpu.bf16_flops_per_s,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        ring_bytes_per_s=group_link(gpu, replica.gpus, 1),
        link_bytes_per_s=np.where(
            replica.gpus <= gpu.scale_up_gpus, gpu.scale_up_bytes_per_s, gpu.scale_out_bytes_per_s
        ),
        cache_bytes_per_sequence=model.cache_elements_read(context) * replica.cache_bytes,
        cache_split=np.minimum(per_replica, max(heads, default=1)),
        prompt_tokens=prompts * prompt_length,
        prompt_attention_flops=prompts * model.attention_flops(prompt_length),
        layers=model.layers,
        moe_layers=float(model.moe_layers),
        wide_layers=model.moe_layers * np.where(replica.attention_replicas > 1, 1.0, 0.0),
        dispatched_bytes=4.0 * model.hidden * _dispatches(model, replica.attention_replicas),
        node_doublings=np.log2(np.maximum(replica.gpus / gpu.scale_up_gpus, 1.0)),
        hidden=float(model.hidden),
    )


def _dispatches(model: Model, attention_replicas: Any) -> Any:
    """GPUs that a token is sent to for its experts, over all layers: its experts', but each other GPU once."""
    return sum(
        count * np.minimum(kind.per_token, attention_replicas - 1.0) for count, kind in model.expert_layers
    )


def decode_step_s(work: DecodeWork, c: DecodeConstants) -> Array:
    """Seconds of one step (module equation); broadcasts over the work and the constants."""
    share = work.gpus / work.attention_replicas
    local = work.batch / work.attention_replicas
    bandwidth = work.memory_bytes_per_s * c.bandwidth_efficiency
    weights = (work.dense_weight_bytes / share + work.expert_weight_bytes / work.gpus) / bandwidth
    dense = work.dense_flops_per_token / work.dense_flops_per_s
    experts = work.expert_flops_per_token / work.expert_flops_per_s
    computed = work.batch * work.verified
    products = np.maximum(weights, computed * (dense + experts) / work.gpus / c.flops_efficiency)
    cache = local * work.cache_bytes_per_sequence / (work.cache_split * bandwidth)
    attention = work.prompt_attention_flops / (work.bf16_flops_per_s * PREFILL_ATTENTION_EFFICIENCY)
    prefill = (work.prompt_tokens * (dense + experts) / c.prefill_efficiency + attention) / work.gpus
    tokens = local * work.verified + work.prompt_tokens / work.attention_replicas
    reduced = work.hidden * 4.0 * work.layers * (share - 1) / share / work.ring_bytes_per_s
    exchanged = tokens * (reduced + work.dispatched_bytes / work.link_bytes_per_s)
    reducing = c.reduce_latency_s * np.log2(work.gpus) + c.cross_node_s * work.node_doublings
    overhead = work.layers * (c.layer_s + reducing) + local * c.sequence_s
    overhead = overhead + work.moe_layers * c.moe_layer_s + work.wide_layers * c.wide_layer_s
    step = products + cache + prefill + c.reduce_bytes * exchanged + overhead
    return step * (1.0 + work.draft_share)


def roofline_step_s(work: DecodeWork) -> Array:
    """The naive model to beat: every byte and every FLOP at peak, no overhead, no prompts."""
    weights = (work.dense_weight_bytes + work.expert_weight_bytes) / (work.gpus * work.memory_bytes_per_s)
    flops = (
        work.dense_flops_per_token / work.dense_flops_per_s
        + work.expert_flops_per_token / work.expert_flops_per_s
    )
    cache = work.batch * work.cache_bytes_per_sequence / (work.gpus * work.memory_bytes_per_s)
    return np.maximum(weights, work.batch * flops / work.gpus) + cache
