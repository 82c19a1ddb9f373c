"""Bytes per GPU of training and generation, and the smallest layout that fits.

Training keeps 2 bytes of weights, 4 of gradients and 12 of optimizer state (fp32 master, two Adam moments)
per parameter: 18 B without sharding, 6 + 12/DP with a distributed optimizer (experts: over the copies of their
group only), 18/GPUs fully sharded, 6/GPUs where the optimizer is offloaded to the host as well. A model that only
scores keeps weights, one layer's activations and a block of logits. LoRA keeps gradients and optimizer state of its
adapters only. In FP8 the weights that are multiplied take 1 byte (the fp32 master stays), and so do the kept inputs of
matrix products (DeepSeek-V3, arXiv 2412.19437, section 3.3.3); gradients and optimizer state stay as they are.
Activations per token and layer are 2 (9 hidden + 3 active feed-forward width) bytes, of which 2 hidden (the inputs
of the two norms) are never narrowed, or 2 hidden when recomputed; the pipeline's first stage holds 1/PP of the layers
for PP microbatches, so the two cancel. Logits take 6 bytes (bf16 and fp32) per vocabulary entry. Leaves out:
fragmentation beyond the usable share, communication buffers, CUDA context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.decode import WEIGHT_BYTES, Replica, ReplicaGrid
from mopdsim.cost.training import LayoutGrid, TrainLayout
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Experts
from mopdsim.facts.model import Model

USABLE_MEMORY = 0.9
LORA_SHARE = 0.01
HOST_BYTES_PER_GPU = 200e9  # of 2 TB in a node of eight; prior
_SCORED_WIDTHS = 8.0  # hidden vectors of a token that a forward pass holds at once; prior
_LOGITS_BLOCK = 4096.0  # tokens whose logits are held at once; prior
AnyLayout = TrainLayout | LayoutGrid


@dataclass(frozen=True, kw_only=True)
class TrainMemory:
    """Bytes on the fullest GPU; arrays for a grid of layouts."""

    weights: Any
    gradients: Any
    optimizer: Any
    activations: Any
    logits: Any

    @property
    def total(self) -> Any:
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


def _held_parameters(model: Model, layout: AnyLayout) -> tuple[Any, Any, Any]:
    """Parameters on the fullest GPU: dense and routed before full sharding, and what is held of both."""
    routed = model.routed_parameters / (layout.expert_group * layout.pipeline)
    dense = (model.total_parameters - model.routed_parameters) / (layout.tensor * layout.pipeline)
    return dense, routed, np.where(layout.fully_sharded, model.total_parameters / layout.gpus, dense + routed)


def train_memory(model: Model, layout: AnyLayout, *, length: Any, resident_models: Any = 0) -> TrainMemory:
    """Bytes per GPU to train `model` on sequences of `length`; resident_models more copies (reference,
    teachers of the same size) stay in memory as weights. Arrays for a grid of layouts."""
    dense, routed, held = _held_parameters(model, layout)
    expert_copies = np.maximum(layout.gpus // (layout.expert_group * layout.pipeline), 1)
    shared = dense / (layout.data * layout.context) + routed / expert_copies
    optimized = np.where(layout.fully_sharded, held, shared)
    trained = LORA_SHARE if layout.lora else 1.0
    tokens = layout.micro_batch * length / layout.context
    kept = np.where(
        layout.recompute,
        activation_bytes(model, recompute=True),
        activation_bytes(model, recompute=False, precision=layout.precision),
    )
    # One layer is gathered at a time where weights are sharded in full.
    gathered = WEIGHT_BYTES[layout.precision] * (dense + routed) / model.layers * layout.fully_sharded
    return TrainMemory(
        weights=WEIGHT_BYTES[layout.precision] * held * (1 + resident_models) + gathered,
        gradients=4.0 * held * trained,
        optimizer=12.0 * optimized * trained * np.logical_not(layout.offload),
        activations=tokens * kept / layout.tensor,
        logits=6.0 * tokens * model.vocab / layout.tensor,
    )


def scoring_bytes(model: Model, layout: AnyLayout, *, length: float) -> Any:
    """Bytes per GPU of a model that only scores sequences of `length`: no gradients, no optimizer."""
    dense, routed, held = _held_parameters(model, layout)
    gathered = (dense + routed) / model.layers * layout.fully_sharded
    tokens = length / layout.context
    working = 2.0 * _SCORED_WIDTHS * model.hidden * tokens + 6.0 * model.vocab * min(tokens, _LOGITS_BLOCK)
    return WEIGHT_BYTES[layout.precision] * (held + gathered) + working / layout.tensor


def stored_bytes(model: Model, *, lora: bool = False) -> float:
    """Bytes of a checkpoint to go on from: bf16 weights, fp32 master and two moments; of the adapters with LoRA."""
    return 14.0 * model.total_parameters * (LORA_SHARE if lora else 1.0)


def generation_bytes(
    model: Model, replica: Replica | ReplicaGrid, *, sequences: float, context: float
) -> Any:
    """Bytes per GPU of weights and cache of `sequences` sequences of `context` tokens on one replica, or each of a
    grid."""
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


def _used_gpus(gpu: Gpu, gpus: int, split: int, group: int) -> list[int]:
    """How many of so many GPUs the copies of a split may use: as many as there are, those within the fast link, as many
    as share one set of experts, one copy. None falls where there are more GPUs, so that no layout is lost."""
    most = (gpus, min(gpus, gpu.scale_up_gpus), min(gpus, group), split)
    return sorted({count - count % split for count in most if count >= split}, reverse=True)


@lru_cache(maxsize=256)
def training_layouts(
    model: Model, gpu: Gpu, gpus: int, *, lora: bool = False, precision: str = "bf16", offload: bool = False
) -> LayoutGrid:
    """Every layout of at most `gpus` GPUs, from cheap to dear: GPUs left idle, then doublings of a split. Tensor
    degrees are powers of two within a node (they divide the heads). Each doubling of tensor or pipeline degree costs
    one, recomputation 1.5, experts beyond the fast link 2, each doubling of the expert group a tenth, full sharding 3,
    the host 6.
    """
    experts = max((kind.experts for _, kind in model.expert_layers), default=1)
    found: list[tuple[int, int, int, int, bool, bool, bool]] = []
    for tensor in _powers_of_two(min(gpus, gpu.gpus_per_node)):
        for recompute in (False, True):
            found += [
                (used, tensor, 1, 1, recompute, True, host)
                for used in _used_gpus(gpu, gpus, tensor, tensor)
                for host in ((False, True) if offload else (False,))
            ]
            found += [
                (used, tensor, pipeline, expert, recompute, False, False)
                for pipeline in _powers_of_two(min(model.layers, gpus / tensor))
                for expert in _powers_of_two(min(experts, gpus / pipeline))
                for used in _used_gpus(gpu, gpus, tensor * pipeline, pipeline * max(expert, tensor))
                if pipeline * expert <= used
            ]

    def price(row: tuple[int, int, int, int, bool, bool, bool]) -> float:
        used, tensor, pipeline, expert, recompute, sharded, host = row
        wide = expert * tensor > gpu.scale_up_gpus
        kept = 1.5 * recompute + 3.0 * sharded + 6.0 * host + 20.0 * (1 - used / gpus)
        return kept + math.log2(tensor * pipeline) + 2.0 * wide + 0.1 * math.log2(expert)

    return LayoutGrid(sorted(found, key=price), precision=precision, lora=lora)


@lru_cache(maxsize=1024)
def fitting_training_layouts(
    model: Model,
    gpu: Gpu,
    gpus: int,
    *,
    length: float,
    resident_models: int = 0,
    lora: bool = False,
    precision: str = "bf16",
    offload: bool = False,
) -> LayoutGrid:
    """The layouts that fit, with microbatches of one sequence, from cheap to dear; InfeasibleError says by how much the
    best one fails. `offload`: the optimizer may go to the host, as far as its memory reaches."""
    grid = training_layouts(model, gpu, gpus, lora=lora, precision=precision, offload=offload)
    need = train_memory(model, grid, length=length, resident_models=resident_models).total
    room = USABLE_MEMORY * gpu.memory_bytes
    host = 12.0 * model.total_parameters / grid.gpus * (LORA_SHARE if lora else 1.0)
    places = np.flatnonzero((need <= room) & (~grid.offload | (host <= HOST_BYTES_PER_GPU)))
    if not places.size:
        raise InfeasibleError(
            f"{model.name} does not fit on {gpus} x {gpu.name} for training at length {length:,.0f}: the "
            f"best layout lacks {max(float(need.min()) - room, 1e9) / 1e9:,.0f} GB per GPU; use more GPUs, "
            f"{'' if lora else 'lora = true '}or a smaller model."
        )
    return grid.only(places)


def smallest_training_layout(
    model: Model, gpu: Gpu, gpus: int, *, length: float, lora: bool = False, precision: str = "bf16"
) -> TrainLayout:
    """The cheapest of `fitting_training_layouts` without the host's memory."""
    return fitting_training_layouts(model, gpu, gpus, length=length, lora=lora, precision=precision).at(0)
