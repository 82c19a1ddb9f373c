"""Which layout a stage runs on: the fastest that trains, that scores and that generates.

Leaves out: layouts with context parallelism, and different layouts within one stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants, shipped
from mopdsim.cost.decode import CACHE_BYTES, NODE_GPUS, Replica, ReplicaGrid, Speculation
from mopdsim.cost.generation import generation_s
from mopdsim.cost.lengths import Lengths
from mopdsim.cost.memory import (
    USABLE_MEMORY,
    fitting_training_layouts,
    scoring_bytes,
    smallest_replica,
    training_layouts,
)
from mopdsim.cost.stacks import MECHANISMS, UNKNOWN, Stack
from mopdsim.cost.training import LayoutGrid, TrainLayout, TrainWork, forward_s, train_step_s, train_work
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.model import Model

_MOST_REPLICA_GPUS = 64


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Number formats and speculative decoding. precision: of weights and matrix products, and of the cache if
    it supports that width. speculative_factor: tokens that a decode step yields (1: no speculation); the
    fewest drafted tokens that reach it are assumed.
    """

    precision: str = "bf16"
    speculative_factor: float = 1.0

    @property
    def cache_precision(self) -> str:
        return self.precision if self.precision in CACHE_BYTES else "bf16"

    @property
    def speculation(self) -> Speculation | None:
        if self.speculative_factor == 1:
            return None
        drafted = math.ceil(self.speculative_factor) - 1
        return Speculation(drafted=drafted, tokens_per_step=self.speculative_factor)


@dataclass(frozen=True, kw_only=True)
class Update:
    """The sequences of one optimizer step and how their microbatches are filled. packed_to: tokens of a packed
    microbatch; 0 where each holds one sequence, padded to the longest of all ranks if weights are sharded in full."""

    sequences: float
    lengths: Lengths
    packed_to: float

    def work(self, model: Model, gpu: Gpu, layout: TrainLayout | LayoutGrid) -> TrainWork:
        """What the step computes and moves in a layout, or in each of a grid."""
        mean: Any = self.lengths.mean
        if not self.packed_to and np.any(layout.fully_sharded):
            ranks_L = np.where(
                layout.fully_sharded, np.clip(layout.data, 1, max(self.sequences, 1)), 1
            ).astype(float)
            padded = {float(n): float(self.lengths.expected_longest(n)) for n in np.unique(ranks_L)}
            longest_L = np.array([padded[float(n)] for n in np.atleast_1d(ranks_L)])
            mean = np.where(layout.fully_sharded, longest_L.reshape(np.shape(ranks_L)), mean)
            mean = mean if np.ndim(mean) else float(mean)
        return train_work(
            model, gpu, layout, sequences=self.sequences, mean_length=mean, packed_to=self.packed_to
        )


def training_constants(stack: Stack) -> TrainConstants:
    """Central constants of fine-tuning, with the stack's launches where it is not tuned."""
    _, train, _ = central_constants(0.6)
    return train if stack.tuned else replace(train, microbatch_layer_s=stack.launch_layer_s)


@lru_cache(maxsize=4096)
def training_layout(
    model: Model,
    gpu: Gpu,
    gpus: int,
    update: Update,
    *,
    longest: float,
    precision: str = "bf16",
    resident_models: int = 0,
    lora: bool = False,
    stack: Stack = MECHANISMS[UNKNOWN],
    constants: TrainConstants | None = None,
) -> TrainLayout:
    """The fastest layout of at most so many GPUs that trains the model with so many more of its size held as weights:
    with full sharding alone where the stack knows no other, experts within the fast link where they can be.
    constants: of the training (None: of fine-tuning on the stack)."""
    grid = _usable_layouts(
        model, gpu, gpus, longest=longest, precision=precision, resident_models=resident_models, lora=lora,
        stack=stack,
    )  # fmt: skip
    seconds_L = np.asarray(
        train_step_s(update.work(model, gpu, grid), constants or training_constants(stack))
    )
    return grid.at(int(np.argmin(seconds_L)))


@lru_cache(maxsize=1024)
def _usable_layouts(
    model: Model,
    gpu: Gpu,
    gpus: int,
    *,
    longest: float,
    precision: str,
    resident_models: int,
    lora: bool,
    stack: Stack,
) -> LayoutGrid:
    """The layouts that fit: those with full sharding where the stack knows no other, and with experts within the fast
    link where any has them there."""
    grid = fitting_training_layouts(
        model, gpu, gpus, length=longest, resident_models=resident_models, lora=lora, precision=precision,
        offload=not stack.tuned,
    )  # fmt: skip
    if stack.sharded and np.any(grid.fully_sharded):
        grid = grid.only(np.flatnonzero(grid.fully_sharded))
    near = grid.expert * grid.tensor <= gpu.scale_up_gpus
    return grid.only(np.flatnonzero(near)) if np.any(near) else grid


@lru_cache(maxsize=1024)
def scoring_layout(
    model: Model, gpu: Gpu, gpus: int, sequences: float, mean_length: float, longest: float, precision: str
) -> TrainLayout:
    """The fastest layout of a model that only scores: weights and activations, no gradients and no optimizer.
    InfeasibleError says what it lacks."""
    grid = training_layouts(model, gpu, gpus, precision=precision)
    need = scoring_bytes(model, grid, length=longest)
    room = USABLE_MEMORY * gpu.memory_bytes
    places = np.flatnonzero(need <= room)
    if not places.size:
        raise InfeasibleError(
            f"{model.name} does not fit on {gpus} x {gpu.name} for scoring at length {longest:,.0f}: it lacks "
            f"{(float(need.min()) - room) / 1e9:,.0f} GB per GPU; use more GPUs or a narrower precision."
        )
    work = train_work(model, gpu, grid, sequences=sequences, mean_length=mean_length)
    seconds_L = np.asarray(forward_s(work, central_constants(0.6)[1]))
    return grid.at(int(places[np.argmin(seconds_L[places])]))


@lru_cache(maxsize=4096)
def fastest_replica(
    model: Model,
    gpu: Gpu,
    gpus: int,
    sequences: float,
    prompt_tokens: float,
    lengths: Lengths,
    formats: Formats,
    *,
    constants: DecodeConstants | None = None,
    drain: bool = True,
    memory_share: float = USABLE_MEMORY,
) -> Replica:
    """The fastest way to hold the model for this batch: the smallest replica that fits, up to eight times as
    large, attention split over all its GPUs or (mixtures of experts) kept within eight or one of them.
    constants: of decoding (None: of a server); drain: whether the last sample is waited for;
    memory_share: of a GPU's memory for weights and cache."""
    smallest = smallest_replica(
        model,
        gpu,
        context=prompt_tokens + lengths.maximum,
        precision=formats.precision,
        cache_precision=formats.cache_precision,
        most_gpus=gpus,
    )
    smallest = replace(smallest, speculation=formats.speculation)
    splits = [
        (size, split)
        for size in (smallest.gpus * factor for factor in (1, 2, 4, 8))
        if size <= min(gpus, _MOST_REPLICA_GPUS)
        for split in sorted({1, max(size // NODE_GPUS, 1), size} if model.is_moe else {1})
    ]
    if not splits:
        return smallest
    grid = ReplicaGrid.of(smallest, splits)
    replicas_R1 = gpus // grid.gpus
    seconds_R = generation_s(
        model,
        gpu,
        grid,
        constants or central_constants(0.6)[0],
        samples_per_replica=sequences / replicas_R1,
        lengths=lengths,
        prompt_length=prompt_tokens,
        slowest_of=replicas_R1 if drain else 1.0,
        drain=drain,
        memory_share=memory_share,
    )  # infinite where attention weights on every GPU leave no room for the cache
    return grid.at(int(np.argmin(seconds_R)))


@lru_cache(maxsize=4096)
def central_constants(log_spread: float) -> tuple[DecodeConstants, TrainConstants, RlConstants]:
    """Central constants, the length spread set to this batch's."""
    sets = shipped()
    decode, train, rl = (sets[kind].constants for kind in ("decode", "train_throughput", "rl_steps"))
    assert (
        isinstance(decode, DecodeConstants)
        and isinstance(train, TrainConstants)
        and isinstance(rl, RlConstants)
    )
    return decode, train, replace(rl, length_sigma=log_spread)
