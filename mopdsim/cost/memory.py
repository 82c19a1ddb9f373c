"""Bytes per GPU of training and generation, and the smallest layout that fits.

Training keeps 2 bytes of weights, 4 of gradients and 12 of optimizer state (fp32 master, two Adam moments)
per parameter: 18 B without sharding, 6 + 12/DP with a distributed optimizer, 18/GPUs fully sharded.
Activations per token and layer are 2 (9 hidden + 3 active feed-forward width) bytes, or 2 hidden when
recomputed; the pipeline's first stage holds 1/PP of the layers for PP microbatches, so the two cancel. Logits
take 6 bytes (bf16 and fp32) per vocabulary entry. Leaves out: fragmentation beyond the usable share,
communication buffers, CUDA context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mopdsim.cost.decode import CACHE_BYTES, WEIGHT_BYTES, Replica
from mopdsim.cost.training import TrainLayout
from mopdsim.errors import InfeasibleError
from mopdsim.hardware import Gpu
from mopdsim.layers import Experts
from mopdsim.model import Model

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


def activation_bytes(model: Model, *, recompute: bool) -> float:
    """Bytes kept per token over all layers until its backward pass."""
    if recompute:
        return 2.0 * model.hidden * model.layers
    widths = 0.0
    for group in model.groups:
        kind = group.feed_forward
        if isinstance(kind, Experts):
            widths += group.count * (kind.per_token * kind.width + kind.shared_width)
        elif kind is not None:
            widths += group.count * kind.width
    return 2.0 * (9.0 * model.hidden * model.layers + 3.0 * widths)


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
    routed = model.routed_parameters
    expert_group = max(layout.expert, layout.tensor)
    local = (model.total_parameters - routed) / (layout.tensor * layout.pipeline)
    local += routed / (expert_group * layout.pipeline)
    if layout.fully_sharded or sharding == "full":
        local = model.total_parameters / layout.gpus
    trained = local * (LORA_SHARE if layout.lora else 1.0)
    spread = layout.data * layout.context if sharding == "optimizer" and not layout.fully_sharded else 1
    tokens = layout.micro_batch * length / layout.context
    return TrainMemory(
        weights=2.0 * local * (1 + resident_models),
        gradients=4.0 * trained,
        optimizer=12.0 * trained / spread,
        activations=tokens * activation_bytes(model, recompute=layout.recompute) / layout.tensor,
        logits=6.0 * tokens * model.vocab / layout.tensor,
    )


def generation_bytes(model: Model, replica: Replica, *, sequences: float, context: float) -> float:
    """Bytes per GPU of weights and cache of `sequences` sequences of `context` tokens on one replica."""
    routed = model.routed_parameters
    dense = (model.total_parameters - routed) * WEIGHT_BYTES[replica.precision] * replica.attention_replicas
    experts = routed * WEIGHT_BYTES[replica.expert_precision or replica.precision]
    cache = sequences * float(model.cache_elements(context)) * CACHE_BYTES
    return (dense + experts + cache) / replica.gpus


def smallest_replica(
    model: Model,
    gpu: Gpu,
    *,
    context: float,
    sequences: float = 1.0,
    precision: str = "bf16",
    most_gpus: int = 64,
) -> Replica:
    """Fewest GPUs (a power of two) whose memory holds the weights and the cache; InfeasibleError
    otherwise."""
    gpus = 1
    while True:
        replica = Replica(gpus=gpus, precision=precision)
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


def _layouts(model: Model, gpu: Gpu, gpus: int, base: TrainLayout) -> Iterator[TrainLayout]:
    """From least to most split: tensor within the node, pipeline, then recomputation."""
    most_experts = max((kind.experts for _, kind in model.expert_layers), default=1)
    for recompute in (False, True):
        for split in (2**i for i in range(12)):
            for tensor in (2**i for i in range(5)):
                pipeline = split // tensor
                if split % tensor or tensor > gpu.gpus_per_node or pipeline > model.layers or gpus % split:
                    continue
                expert = 1
                while (
                    expert * 2 <= min(most_experts, gpus // pipeline) and gpus // pipeline % (expert * 2) == 0
                ):
                    expert *= 2
                yield replace(
                    base, gpus=gpus, tensor=tensor, pipeline=pipeline, expert=expert, recompute=recompute
                )


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
    """Least split layout on `gpus` GPUs that fits with a distributed optimizer and microbatches of one
    sequence.

    InfeasibleError says by how much the best layout fails.
    """
    base = TrainLayout(gpus=gpus, lora=lora, precision=precision)
    best = float("inf")
    for layout in _layouts(model, gpu, gpus, base):
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
