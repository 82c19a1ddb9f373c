"""Bytes per GPU of training and generation, and the smallest layout that fits.

Training keeps 2 bytes of weights, 4 of gradients and 12 of optimizer state (fp32 master, two Adam moments)
per parameter: 18 B without sharding, 6 + 12/DP with a distributed optimizer (experts: over the copies of their
group only), 18/GPUs fully sharded. LoRA keeps gradients and optimizer state of its adapters only. In FP8 the
weights that are multiplied take 1 byte (the fp32 master stays), and so do the kept inputs of matrix products
(DeepSeek-V3, arXiv 2412.19437, section 3.3.3); gradients and optimizer state stay as they are.
Activations per token and layer are 2 (9 hidden + 3 active feed-forward width) bytes, of which 2 hidden (the inputs
of the two norms) are never narrowed, or 2 hidden when recomputed; the pipeline's first stage holds 1/PP of the layers
for PP microbatches, so the two cancel. Logits take 6 bytes (bf16 and fp32) per vocabulary entry. Leaves out:
fragmentation beyond the usable share, communication buffers, CUDA context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.decode import WEIGHT_BYTES, Replica
from mopdsim.cost.training import TrainLayout
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Experts
from mopdsim.facts.model import Model

USABLE_MEMORY = 0.9
LORA_SHARE = 0.01
Sharding = Literal["none", "optimizer", "full"]


@dataclass(frozen=True, kw_only=True)
class TrainMemory:
    """Bytes on the fullest GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def activation_bytes(model: Model, *, recompute: bool, precision: str = "bf16") -> float:
    """Bytes kept per token over all layers until its backward pass; `precision` of the products' inputs."""
    if recompute:
        return 2.0 * model.hidden * model.layers
    widths = 0.0
    for group in model.groups:
        kind = group.feed_forward
        if isinstance(kind, Experts):
            widths += group.count * (kind.per_token * kind.width + kind.shared_width)
        elif kind is not None:
            widths += group.count * kind.width
    products = 7.0 * model.hidden * model.layers + 3.0 * widths
    return 2.0 * 2.0 * model.hidden * model.layers + WEIGHT_BYTES[precision] * products


def train_memory(
    model: Model,
    layout: TrainLayout,
    *,
    length: float,
    sharding: Sharding = "optimizer",
    resident_models: int = 0,
) -> TrainMemory:
    """Bytes per GPU to train `model` on sequences of `length`; resident_models more copies (reference,
    teachers of the same size) stay in memory as weights."""
    fully = layout.fully_sharded or sharding == "full"
    expert_group = max(layout.expert, layout.tensor)
    routed = model.routed_parameters / (expert_group * layout.pipeline)
    dense = (model.total_parameters - model.routed_parameters) / (layout.tensor * layout.pipeline)
    held = model.total_parameters / layout.gpus if fully else dense + routed
    optimized = held
    if sharding == "optimizer" and not fully:
        expert_copies = max(layout.gpus // (expert_group * layout.pipeline), 1)
        optimized = dense / (layout.data * layout.context) + routed / expert_copies
    trained = LORA_SHARE if layout.lora else 1.0
    tokens = layout.micro_batch * length / layout.context
    kept = activation_bytes(model, recompute=layout.recompute, precision=layout.precision)
    return TrainMemory(
        weights=WEIGHT_BYTES[layout.precision] * held * (1 + resident_models),
        gradients=4.0 * held * trained,
        optimizer=12.0 * optimized * trained,
        activations=tokens * kept / layout.tensor,
        logits=6.0 * tokens * model.vocab / layout.tensor,
    )


def generation_bytes(model: Model, replica: Replica, *, sequences: float, context: float) -> float:
    """Bytes per GPU of weights and cache of `sequences` sequences of `context` tokens on one replica."""
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
            lack = need / (USABLE_MEMORY * gpu.memory_bytes)
            raise InfeasibleError(
                f"{model.name} does not fit on {gpus} x {gpu.name} for generation: it needs "
                f"{lack:.1f} times their "
                "memory; use more GPUs, a larger one or a narrower precision."
            )
        gpus *= 2


def _powers_of_two(limit: float) -> list[int]:
    return [2**i for i in range(int(limit).bit_length()) if 2**i <= limit]


@lru_cache(maxsize=64)
def _layouts(model: Model, gpu: Gpu, base: TrainLayout) -> tuple[TrainLayout, ...]:
    """From cheap to dear in doublings of a split: each doubling of tensor (within a node) or pipeline degree costs
    one, recomputation 1.5, experts beyond the fast link 2, each doubling of the expert group a tenth.
    """
    experts = max((kind.experts for _, kind in model.expert_layers), default=1)
    found = []
    for tensor in _powers_of_two(min(gpu.gpus_per_node, base.gpus)):
        for pipeline in _powers_of_two(min(model.layers, base.gpus / tensor)):
            if base.gpus % (tensor * pipeline):
                continue
            for expert in _powers_of_two(min(experts, base.gpus / pipeline)):
                for recompute in (False, True):
                    found.append(
                        replace(base, tensor=tensor, pipeline=pipeline, expert=expert, recompute=recompute)
                    )

    def price(layout: TrainLayout) -> float:
        wide = layout.expert * layout.tensor > gpu.scale_up_gpus
        split = math.log2(layout.tensor * layout.pipeline)
        return split + 1.5 * layout.recompute + 2.0 * wide + 0.1 * math.log2(layout.expert)

    return tuple(sorted(found, key=price))


def smallest_training_layout(
    model: Model,
    gpu: Gpu,
    gpus: int,
    *,
    length: float,
    resident_models: int = 0,
    lora: bool = False,
    precision: str = "bf16",
) -> TrainLayout:
    """Cheapest layout on `gpus` GPUs that fits with a distributed optimizer and microbatches of one
    sequence.

    InfeasibleError says by how much the best layout fails.
    """
    base = TrainLayout(gpus=gpus, lora=lora, precision=precision)
    best = float("inf")
    for layout in _layouts(model, gpu, base):
        need = train_memory(model, layout, length=length, resident_models=resident_models).total
        if need <= USABLE_MEMORY * gpu.memory_bytes:
            return layout
        best = min(best, need)
    raise InfeasibleError(
        f"{model.name} does not fit on {gpus} x {gpu.name} for training at length {length:,.0f}: the "
        f"best layout lacks "
        f"{(best - USABLE_MEMORY * gpu.memory_bytes) / 1e9:,.0f} GB per GPU; use more GPUs, LoRA or a "
        f"smaller model."
    )
