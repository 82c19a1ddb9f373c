"""Seconds to generate a batch of rollouts: the length distribution and the batch that shrinks as samples end.

Every replica steps until its longest sample is done: T = integral over tokens t of step(b(t), prompt + t),
with b(t) the sequences still running. Lengths are lognormal, cut at the maximum and matched to the mean.
Leaves out: prompt computation (charged as scoring in `rlstep`), preemption.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.cost.constants import DecodeConstants
from mopdsim.cost.decode import Replica, ReplicaGrid, decode_step_s, decode_work
from mopdsim.cost.lengths import Lengths
from mopdsim.cost.memory import USABLE_MEMORY, generation_bytes
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.model import Model


def cache_slots(
    model: Model,
    gpu: Gpu,
    replica: Replica | ReplicaGrid,
    *,
    context: Any,
    memory_share: float = USABLE_MEMORY,
) -> Any:
    """Sequences of `context` tokens (one for each replica of a grid, where it differs) whose cache fits beside the
    weights in that share of the memory, for each replica (in all that is usable where the share holds not one);
    InfeasibleError where no replica holds the longest."""
    weights = replica.gpus * generation_bytes(model, replica, sequences=0, context=0)
    most_free = replica.gpus * gpu.memory_bytes * USABLE_MEMORY - weights
    free = most_free - replica.gpus * gpu.memory_bytes * (USABLE_MEMORY - memory_share)
    per_sequence = model.cache_elements(context) * replica.cache_bytes
    free = np.where(free < per_sequence, most_free, free)
    lacking = np.max(per_sequence) - np.max(free)
    if lacking > 0:
        raise InfeasibleError(
            f"{model.name} does not fit on {np.max(replica.gpus)} x {gpu.name} for generation: it lacks "
            f"{lacking / 1e9:,.0f} GB; use more GPUs per replica or a narrower precision."
        )
    return np.maximum(free // per_sequence, 0)


def generation_s(
    model: Model,
    gpu: Gpu,
    replica: Replica | ReplicaGrid,
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

    A grid of replicas, with samples for each, gives one number for each, infinite where the cache holds not one
    sequence; each may have lengths (R,) and prompts (R, 1) of its own. When the cache of all samples does not fit,
    the batch is held at what fits and the steady part lasts longer in proportion (continuous batching).
    drain=False: new samples take the place of those that end, so the full batch runs at its mean length.
    """
    if np.any(samples_per_replica <= 0):
        raise UsageError(f"generation has samples_per_replica={samples_per_replica!r}; it must be positive.")
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
    return np.where(np.ravel(slots) > 0, seconds, np.inf) if isinstance(replica, ReplicaGrid) else seconds
