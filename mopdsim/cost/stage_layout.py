"""Which layout a stage runs on: the fastest that trains, that scores and that generates.

Leaves out: layouts with context parallelism, and different layouts within one stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.constants import DecodeConstants, TrainConstants
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
from mopdsim.cost.training import (
    LayoutGrid,
    TrainLayout,
    TrainWork,
    forward_s,
    layout_span,
    train_step_s,
    train_work,
)
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
    train = TrainConstants.shipped()
    return train if stack.tuned else replace(train, microbatch_layer_s=stack.launch_layer_s)


def fastest_layouts(
    model: Model,
    gpu: Gpu,
    gpus: int,
    updates: Sequence[Update],
    *,
    longest: float,
    precision: str = "bf16",
    resident_models: int = 0,
    lora: bool = False,
    stack: Stack = MECHANISMS[UNKNOWN],
    constants: TrainConstants | None = None,
) -> list[list[TrainLayout]]:
    """For each update the fastest layout of at most so many GPUs that trains the model with so many more of its size
    held as weights: with full sharding alone where the stack knows no other, experts within the fast link if they can
    be. Where one copy of the weights reaches beyond the fast link, the fastest that does not follows, if there is one.
    constants: of the training (None: of fine-tuning on the stack)."""
    grid = _usable_layouts(
        model, gpu, gpus, longest=longest, precision=precision, resident_models=resident_models, lora=lora,
        stack=stack,
    )  # fmt: skip
    constants = constants or training_constants(stack)
    if all(update.packed_to for update in updates):
        columns = ([u.sequences, u.lengths.mean, u.packed_to] for u in updates)
        sequences_B1, mean_B1, packed_B1 = np.array([*columns]).T[:, :, None]
        work = train_work(model, gpu, grid, sequences=sequences_B1, mean_length=mean_B1, packed_to=packed_B1)
        seconds_BL = train_step_s(work, constants)
    else:
        works = [update.work(model, gpu, grid) for update in updates]
        seconds_BL = np.array([train_step_s(work, constants) for work in works])
    near_L = layout_span(grid) <= gpu.scale_up_gpus
    found = []
    for seconds_L in seconds_BL:
        places = [int(np.argmin(seconds_L))]
        if not near_L[places[0]] and np.any(near_L):
            places.append(int(np.argmin(np.where(near_L, seconds_L, np.inf))))
        found.append([grid.at(place) for place in places])
    return found


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
    seconds_L = np.asarray(forward_s(work, TrainConstants.shipped()))
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
    """The fastest of `replicas_of` for a batch. constants: of decoding (None: of a server); drain: whether the last
    sample is waited for; memory_share: of a GPU's memory for weights and cache. InfeasibleError where the batch fits no
    replica."""
    choices = replicas_of(model, gpu, gpus, np.array([prompt_tokens + lengths.maximum]), formats)
    grid = side_by_side(choices)
    replicas = gpus // grid.gpus
    seconds_R = generation_s(
        model, gpu, grid, constants or DecodeConstants.shipped(), samples_per_replica=sequences / replicas,
        lengths=lengths, prompt_length=prompt_tokens, slowest_of=replicas if drain else 1.0, drain=drain,
        memory_share=memory_share,
    )  # fmt: skip
    # infinite where attention weights on every GPU leave no room for the cache
    return choices[0][int(np.argmin(seconds_R))]


def fastest_of(seconds_R: Array, counts: Sequence[int]) -> list[int]:
    """Where in each run of so many the least stands."""
    return [int(np.argmin(own)) for own in np.split(seconds_R, np.cumsum(counts)[:-1])]


def side_by_side(choices: Sequence[Sequence[Replica]]) -> ReplicaGrid:
    """All choices of all batches as one grid."""
    splits = [(one.gpus, one.attention_replicas) for own in choices for one in own]
    return ReplicaGrid.of(choices[0][0], splits)


def replicas_of(model: Model, gpu: Gpu, gpus: int, contexts: Array, formats: Formats) -> list[list[Replica]]:
    """The ways to hold the model for sequences of each length (B,): the smallest replica that fits, up to eight times
    as large, attention split over all its GPUs or (mixtures of experts) kept within eight or one of them.
    InfeasibleError where one fits no replica."""
    smallest = [
        smallest_replica(
            model,
            gpu,
            context=context,
            precision=formats.precision,
            cache_precision=formats.cache_precision,
            most_gpus=gpus,
        )
        for context in contexts.tolist()
    ]
    made: dict[Replica, list[Replica]] = {
        least: [
            replace(least, gpus=size, attention_replicas=split, speculation=formats.speculation)
            for size in (least.gpus * factor for factor in (1, 2, 4, 8))
            if size <= min(gpus, _MOST_REPLICA_GPUS) or size == least.gpus
            for split in sorted({1, max(size // NODE_GPUS, 1), size} if model.is_moe else {1})
        ]
        for least in dict.fromkeys(smallest)
    }
    return [made[least] for least in smallest]
