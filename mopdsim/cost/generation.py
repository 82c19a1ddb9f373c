"""Sampling: response lengths, what a replica holds, seconds of a decode step and of a whole batch, the fastest replica.

Lengths are lognormal, cut at the maximum and matched to the mean. Every replica steps until its longest sample is done:
T = integral over tokens t of step(b(t), prompt + t), with b(t) the sequences still running. One decode step of an
engine with continuous batching:

    step = max(weights touched / (bandwidth e), FLOPs / (peak f))          matrix products
         + cache read / (bandwidth e)                                      attention
         + prompt FLOPs sharing the step / (peak p)                        continuous batching: each sequence that
                                                                           ends lets a new prompt in
         + exchanged bytes / link + L (a + r log2 G + n log2 nodes)        reductions, launches
         + L_moe (m + w wide) + s b                                        routing, all-to-all, per-sequence work

Weights are split over all G GPUs of a replica; under data-parallel attention each of A attention replicas
holds all dense weights and b / A sequences, and a token's hidden state goes to its experts and comes back
(dispatched bytes over the link, latency w). Grouped keys and values split over at most kv_heads GPUs, a latent
cache over none. Reductions between nodes go through the network cards of all members (`group_link`). Replicas of
more than eight GPUs compute prompts elsewhere. Speculative decoding: b (1 + drafted) tokens share a step's weights
and are verified at once (products, experts woken, reductions), the cache is read once a sequence, and drafting adds
a share of the step.
Leaves out: queueing, preemption, the cost of widening a narrow cache; prompt computation of a batch (charged as scoring
in `rlstep`); lengths of several modes (a mixed batch is given the spread of its mixture), and lengths that grow over a
run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.cost.constants import DecodeConstants, Value
from mopdsim.facts.hardware import CACHE_BYTES, WEIGHT_BYTES, Gpu, group_link
from mopdsim.facts.layers import Attention, Model

NODES = 16
GRID_POINTS = 256
_NEWTON = 50  # steps at most; five suffice where few answers are cut
PREFILL_ATTENTION_EFFICIENCY = 0.3
NODE_GPUS = 8
USABLE_MEMORY = 0.9
_MOST_REPLICA_GPUS = 64


def does_not_fit(
    model: Model, gpu: Gpu, gpus: int, work: str, *, lacking: float, remedy: str
) -> InfeasibleError:
    """The error where a kind of work has too little memory. lacking: bytes a GPU; less than 1 GB is told as that."""
    return InfeasibleError(
        f"{model.name} does not fit on {gpus} x {gpu.name} for {work}: it lacks {max(lacking / 1e9, 1):,.0f} GB per "
        f"GPU; use {remedy}."
    )


@cache
def _nodes() -> tuple[Array, Array]:
    u, weight = np.polynomial.legendre.leggauss(NODES)
    return (u + 1) / 2, weight / 2


def _normal_cdf(x: ArrayLike) -> Array:
    """Abramowitz and Stegun 26.2.17, absolute error below 1e-7; scipy stays off the forecast's path."""
    x = np.asarray(x, dtype=float)
    t = 1.0 / (1.0 + 0.2316419 * np.abs(x))
    poly = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * poly
    return np.where(x > 0, 1.0 - tail, tail)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Response lengths: mean and maximum in tokens, spread of the log. The mean is of the cut
    distribution. Each may be an array, of as many distributions side by side, (B,)."""

    mean: Any
    maximum: Any
    sigma: Value = 0.6

    def __post_init__(self) -> None:
        mean, maximum = np.asarray(self.mean), np.asarray(self.maximum)
        sound = (mean > 0) & (mean <= maximum) & np.isfinite(maximum)
        if not np.all(sound) or not np.all(np.asarray(self.sigma) > 0):
            raise UsageError(
                f"lengths have mean {self.mean!r}, maximum {self.maximum!r}, sigma {self.sigma!r}; "
                "0 < mean <= maximum and sigma > 0 must hold."
            )

    def survival(self, tokens: ArrayLike) -> Array:
        """Share of samples longer than `tokens`, shape (*sigma, *tokens); zero from the maximum on."""
        tokens = np.asarray(tokens, dtype=float)
        sigma = np.asarray(self.sigma, dtype=float)[..., None]
        mu = self._location[..., None]
        z = (np.log(np.maximum(tokens, 1e-9)) - mu) / sigma
        return np.where(tokens < np.asarray(self.maximum)[..., None], 1.0 - _normal_cdf(z), 0.0)

    @cached_property
    def over_tokens(self) -> tuple[Array, Array, Array]:
        """Gauss-Legendre nodes and weights of an integral over tokens, t = maximum u^2 (finer where samples end), and
        the survival at the nodes."""
        u, weight = _nodes()
        maximum = np.asarray(self.maximum, dtype=float)[..., None]
        tokens = maximum * u**2
        return tokens, weight * 2 * maximum * u, self.survival(tokens)

    def expected_longest(self, count: float) -> Array:
        """Mean of the longest of `count` samples, shape of sigma: integral of 1 - (1 - survival)^count."""
        edges = self.maximum * np.linspace(0.0, 1.0, GRID_POINTS + 1) ** 2
        survival = self.survival((edges[1:] + edges[:-1]) / 2)
        return ((1.0 - (1.0 - survival) ** count) * np.diff(edges)).sum(axis=-1)

    @cached_property
    def _location(self) -> Array:
        """Log median such that E[min(X, maximum)] is the mean: Newton on its ln, which is concave in mu: from the
        uncut location, below the root, it never passes it."""
        sigma = np.asarray(self.sigma, dtype=float)
        target = np.minimum(self.mean, 0.995 * np.asarray(self.maximum))
        mu = np.asarray(np.log(target) - sigma**2 / 2)
        for _ in range(_NEWTON):
            below, at_most = self._cut_mean(mu, sigma)
            step = np.log(target / (below + at_most)) * (below + at_most) / below
            mu = mu + step
            if np.all(np.abs(step) < 1e-9):
                break
        return mu

    def _cut_mean(self, mu: Array, sigma: Array) -> tuple[Array, Array]:
        """E[min(X, m)] = exp(mu + s^2/2) Phi(z - s) + m (1 - Phi(z)), z = (ln m - mu) / s: both terms, the first of
        which is also its slope in mu."""
        z = (np.log(self.maximum) - mu) / sigma
        return np.exp(mu + sigma**2 / 2) * _normal_cdf(z - sigma), self.maximum * _normal_cdf(-z)


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
    Formats of weights, of expert weights where they differ, and of the cache.

    Replicas of several sizes and the same formats are one of arrays (R, 1), to broadcast against an axis of work."""

    gpus: Any = 1
    attention_replicas: Any = 1
    precision: str = "bf16"
    expert_precision: str | None = None
    cache_precision: str = "bf16"
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        whole = (self.gpus >= 1) & (self.attention_replicas >= 1)
        if not np.all(whole) or np.any(self.gpus % self.attention_replicas):
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

    @classmethod
    def side_by_side(cls, replicas: Sequence[Replica]) -> Replica:
        """Replicas of the same formats, as one of arrays."""
        gpus, attention = np.array([(one.gpus, one.attention_replicas) for one in replicas]).T
        return replace(replicas[0], gpus=gpus[:, None], attention_replicas=attention[:, None])

    @property
    def cache_bytes(self) -> float:
        """Per element of the key-value cache."""
        return CACHE_BYTES[self.cache_precision]

    @property
    def tokens_per_step(self) -> float:
        """Tokens each sequence gains in one decode step."""
        return self.speculation.tokens_per_step if self.speculation else 1.0


def generation_bytes(model: Model, replica: Replica, *, sequences: float, context: float) -> Any:
    """Bytes per GPU of weights and cache of `sequences` sequences of `context` tokens on one replica, or each of
    several."""
    routed = model.routed_parameters
    dense = (model.total_parameters - routed) * WEIGHT_BYTES[replica.precision] * replica.attention_replicas
    experts = routed * WEIGHT_BYTES[replica.expert_precision or replica.precision]
    cache = sequences * float(model.cache_elements(context)) * replica.cache_bytes
    return (dense + experts + cache) / replica.gpus


def smallest_replica(
    model: Model,
    gpu: Gpu,
    *,
    context: float,
    sequences: float = 1.0,
    precision: str = "bf16",
    cache_precision: str = "bf16",
    most_gpus: int = 64,
) -> Replica:
    """Fewest GPUs (a power of two) whose memory holds the weights and the cache; InfeasibleError
    otherwise."""
    gpus = 1
    while True:
        replica = Replica(gpus=gpus, precision=precision, cache_precision=cache_precision)
        need = generation_bytes(model, replica, sequences=sequences, context=context)
        if need <= USABLE_MEMORY * gpu.memory_bytes:
            return replica
        if gpus * 2 > most_gpus:
            lacking = need - USABLE_MEMORY * gpu.memory_bytes
            remedy = "more or larger GPUs or a narrower precision"
            raise does_not_fit(model, gpu, gpus, "generation", lacking=lacking, remedy=remedy)
        gpus *= 2


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
    replica: Replica,
    *,
    batch: ArrayLike,
    context: ArrayLike,
    prompts_per_step: ArrayLike = 0.0,
    prompt_length: float = 0.0,
) -> DecodeWork:
    """Work of one step of `batch` sequences with `context` tokens behind them, on one replica or each of several.

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


def cache_slots(
    model: Model,
    gpu: Gpu,
    replica: Replica,
    *,
    context: Any,
    memory_share: float = USABLE_MEMORY,
) -> Any:
    """Sequences of `context` tokens (one for each of several replicas, where it differs) whose cache fits beside the
    weights in that share of the memory, for each replica (in all that is usable where the share holds not one);
    InfeasibleError where no replica holds the longest."""
    weights = replica.gpus * generation_bytes(model, replica, sequences=0, context=0)
    most_free = replica.gpus * gpu.memory_bytes * USABLE_MEMORY - weights
    free = most_free - replica.gpus * gpu.memory_bytes * (USABLE_MEMORY - memory_share)
    per_sequence = model.cache_elements(context) * replica.cache_bytes
    free = np.where(free < per_sequence, most_free, free)
    lacking = np.max(per_sequence) - np.max(free)
    if lacking > 0:
        gpus, remedy = int(np.max(replica.gpus)), "more GPUs per replica or a narrower precision"
        raise does_not_fit(model, gpu, gpus, "generation", lacking=lacking / gpus, remedy=remedy)
    return np.maximum(free // per_sequence, 0)


def generation_s(
    model: Model,
    gpu: Gpu,
    replica: Replica,
    c: DecodeConstants,
    *,
    samples_per_replica: Any,
    lengths: Lengths,
    prompt_length: Any,
    slowest_of: Any = 1.0,
    drain: bool = True,
    memory_share: float = USABLE_MEMORY,
) -> Array:
    """Seconds until the slowest of `slowest_of` equal replicas has ended its last sample.

    Replicas side by side, with samples for each, give one number for each, infinite where the cache holds not one
    sequence; each may have lengths (R,) and prompts (R, 1) of its own. When the cache of all samples does not fit,
    the batch is held at what fits and the steady part lasts longer in proportion (continuous batching).
    drain=False: new samples take the place of those that end, so the full batch runs at its mean length.
    """
    tokens, weight, survival = lengths.over_tokens
    running = samples_per_replica * survival
    everything = samples_per_replica * slowest_of
    alive = 1.0 - (1.0 - np.clip(survival, 0.0, 1.0)) ** np.maximum(everything, 1.0)
    if not drain:
        running, alive = np.ones_like(survival) * samples_per_replica, survival
    mean = lengths.mean[:, None] if np.ndim(lengths.mean) else lengths.mean
    slots = cache_slots(model, gpu, replica, context=prompt_length + mean, memory_share=memory_share)
    waves = np.maximum(running / np.maximum(slots, 1), 1.0)
    batch = np.maximum(running / waves, 1.0)
    work = decode_work(model, gpu, replica, batch=batch, context=prompt_length + tokens)
    step = decode_step_s(work, c)
    seconds = (step * waves * alive * weight).sum(axis=-1) / replica.tokens_per_step
    return np.where(np.ravel(slots) > 0, seconds, np.inf) if np.ndim(replica.gpus) else seconds


def fastest_replica(
    model: Model,
    gpu: Gpu,
    gpus: int,
    sequences: float,
    prompt_tokens: float,
    lengths: Lengths,
    like: Replica,
    *,
    constants: DecodeConstants | None = None,
    drain: bool = True,
    memory_share: float = USABLE_MEMORY,
) -> tuple[Replica, float]:
    """The fastest of `replicas_of` for a batch, with the formats of `like`, and its seconds. constants: of decoding
    (None: of a server); drain: whether the last sample is waited for; memory_share: of a GPU's memory for weights and
    cache. InfeasibleError where the batch fits no replica."""
    choices = replicas_of(model, gpu, gpus, np.array([prompt_tokens + lengths.maximum]), like)
    grid = Replica.side_by_side(choices[0])
    replicas = gpus // grid.gpus
    seconds_R = generation_s(
        model, gpu, grid, constants or DecodeConstants.shipped(), samples_per_replica=sequences / replicas,
        lengths=lengths, prompt_length=prompt_tokens, slowest_of=replicas if drain else 1.0, drain=drain,
        memory_share=memory_share,
    )  # fmt: skip
    # infinite where attention weights on every GPU leave no room for the cache
    best = int(np.argmin(seconds_R))
    return choices[0][best], float(seconds_R[best])


def fastest_of(seconds_R: Array, counts: Sequence[int]) -> list[int]:
    """Where in each run of so many the least stands."""
    return [int(np.argmin(own)) for own in np.split(seconds_R, np.cumsum(counts)[:-1])]


def replicas_of(model: Model, gpu: Gpu, gpus: int, contexts: Array, like: Replica) -> list[list[Replica]]:
    """The ways to hold the model in the formats of `like`, for sequences of each length (B,): the smallest replica that
    fits, up to eight times as large, attention split over all its GPUs or (mixtures of experts) kept within eight or
    one of them. InfeasibleError where one fits no replica."""
    smallest = [
        smallest_replica(
            model,
            gpu,
            context=context,
            precision=like.precision,
            cache_precision=like.cache_precision,
            most_gpus=gpus,
        )
        for context in contexts.tolist()
    ]
    made: dict[Replica, list[Replica]] = {
        least: [
            replace(least, gpus=size, attention_replicas=split, speculation=like.speculation)
            for size in (least.gpus * factor for factor in (1, 2, 4, 8))
            if size <= min(gpus, _MOST_REPLICA_GPUS) or size == least.gpus
            for split in sorted({1, max(size // NODE_GPUS, 1), size} if model.is_moe else {1})
        ]
        for least in dict.fromkeys(smallest)
    }
    return [made[least] for least in smallest]
