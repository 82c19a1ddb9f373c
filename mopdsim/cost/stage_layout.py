"""Which layout a stage runs on: the least split one that trains, the fastest one that generates.

Leaves out: layouts with context parallelism, and different layouts within one stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants, shipped
from mopdsim.cost.decode import CACHE_BYTES, NODE_GPUS, Replica, Speculation
from mopdsim.cost.generation import generation_s
from mopdsim.cost.lengths import Lengths
from mopdsim.cost.memory import smallest_replica, smallest_training_layout
from mopdsim.cost.training import TrainLayout
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


@lru_cache(maxsize=256)
def training_layout(
    model: Model, gpu: Gpu, gpus: int, length: float, precision: str = "bf16", resident_models: int = 0
) -> TrainLayout:
    """The least split layout that trains the model with so many more of its size held as weights."""
    return smallest_training_layout(
        model, gpu, gpus, length=length, precision=precision, resident_models=resident_models
    )


@lru_cache(maxsize=4096)
def fastest_replica(
    model: Model,
    gpu: Gpu,
    gpus: int,
    sequences: float,
    prompt_tokens: float,
    lengths: Lengths,
    formats: Formats,
) -> Replica:
    """The fastest way to hold the model for this batch: the smallest replica that fits, up to eight times as
    large, attention split over all its GPUs or (mixtures of experts) kept within eight or one of them."""
    smallest = smallest_replica(
        model,
        gpu,
        context=prompt_tokens + lengths.maximum,
        precision=formats.precision,
        cache_precision=formats.cache_precision,
        most_gpus=gpus,
    )
    smallest = replace(smallest, speculation=formats.speculation)
    decode = central_constants(0.6)[0]
    best = (math.inf, smallest)
    for size in (smallest.gpus * factor for factor in (1, 2, 4, 8)):
        if size > min(gpus, _MOST_REPLICA_GPUS):
            break
        splits = {1, max(size // NODE_GPUS, 1), size} if model.is_moe else {1}
        for split in sorted(splits):
            replica = replace(smallest, gpus=size, attention_replicas=split)
            replicas = gpus // size
            try:
                seconds = generation_s(
                    model,
                    gpu,
                    replica,
                    decode,
                    samples_per_replica=sequences / replicas,
                    lengths=lengths,
                    prompt_length=prompt_tokens,
                    slowest_of=replicas,
                )
            except InfeasibleError:  # attention weights on every GPU leave no room for the cache
                continue
            best = min(best, (float(seconds), replica), key=lambda found: found[0])
    return best[1]


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
