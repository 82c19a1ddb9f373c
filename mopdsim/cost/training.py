"""Training: layouts, bytes per GPU, seconds of an optimizer step, and the fastest layout that fits.

Per token and GPU (work is spread evenly over the GPUs of a replica):

    products    k (N_dense + x N_experts) / (F f)        k = 6, LoRA 4, +2 with recomputation;
                                                         F = bf16 peak x (peak / bf16 peak)^power
                                                         x contains all-to-all, permutation and launches
    attention   3 x causal FLOPs / (bf16 peak a)
    elementwise L hidden 2 passes / memory bandwidth
    links       16 L hidden (tp - 1) / scale-up link
    bubble      x (1 + (pp - 1) / (microbatches x virtual stages))

A microbatch takes no less than its launches, L / pp layers of `microbatch_layer_s` each: a p-norm of 3 with the work
above, so that short sequences cost more a token. Padding is work: pass the padded length. Gradient
and weight traffic of data parallelism overlaps with the sum of these: a p-norm of 3; members of a group on one node
share their network cards. The optimizer's pass over its state is added, on the host where it is offloaded. Experts are
sharded over max(ep, tp) GPUs.

Training keeps 2 bytes of weights, 4 of gradients and 12 of optimizer state (fp32 master, two Adam moments)
per parameter: 18 B without sharding, 6 + 12/DP with a distributed optimizer (experts: over the copies of their
group only), 18/GPUs fully sharded, 6/GPUs where the optimizer is offloaded to the host as well. A model that only
scores keeps weights, one layer's activations and a block of logits. LoRA keeps gradients and optimizer state of its
adapters only. In FP8 the weights that are multiplied take 1 byte (the fp32 master stays), and so do the kept inputs of
matrix products (DeepSeek-V3, arXiv 2412.19437, section 3.3.3); gradients and optimizer state stay as they are.
Activations per token and layer are 2 (9 hidden + 3 active feed-forward width) bytes, of which 2 hidden (the inputs
of the two norms) are never narrowed, or 2 hidden when recomputed; the pipeline's first stage holds 1/PP of the layers
for PP microbatches, so the two cancel. Logits take 6 bytes (bf16 and fp32) per vocabulary entry.
Leaves out: imbalance of experts, slower links between nodes for their all-to-all, stragglers, input pipeline,
checkpoints; fragmentation beyond the usable share, communication buffers, CUDA context; a search over context
parallelism, and different layouts within one stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import MECHANISMS, UNKNOWN, Stack, TrainConstants
from mopdsim.cost.generation import USABLE_MEMORY, Lengths, does_not_fit
from mopdsim.facts.hardware import PRECISIONS, WEIGHT_BYTES, Gpu, group_link
from mopdsim.facts.layers import Experts, Model

OVERLAP_NORM = 3.0
OPTIMIZER_BYTES = 18.0
OFFLOADED_BYTES_PER_S = 10e9  # of optimizer state in host memory, read, updated and written, per GPU; prior
VARIED = ("gpus", "tensor", "pipeline", "expert", "recompute", "fully_sharded", "offload")
_DEGREES = ("gpus", "tensor", "pipeline", "context", "expert", "virtual_stages", "micro_batch")
LORA_SHARE = 0.01
HOST_BYTES_PER_GPU = 200e9  # of 2 TB in a node of eight; prior
_SCORED_WIDTHS = 8.0  # hidden vectors of a token that a forward pass holds at once; prior
_LOGITS_BLOCK = 4096.0  # tokens whose logits are held at once; prior


@dataclass(frozen=True, kw_only=True)
class TrainLayout:
    """How a training step is spread. `fully_sharded`: weights are gathered for every microbatch (FSDP, ZeRO-3).
    `offload`: optimizer state and its update on the host.

    Many layouts of one precision and method are one whose `VARIED` fields are arrays (L,)."""

    gpus: Any
    tensor: Any = 1
    pipeline: Any = 1
    context: int = 1
    expert: Any = 1
    virtual_stages: int = 1
    micro_batch: int = 1
    precision: str = "bf16"
    recompute: Any = False
    fully_sharded: Any = False
    offload: Any = False
    lora: bool = False

    def __post_init__(self) -> None:
        for name in _DEGREES:
            if np.any(getattr(self, name) < 1):
                raise UsageError(
                    f"training layout has {name} = {getattr(self, name)!r}; it must be at least 1."
                )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"training precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}."
            )
        if np.any(self.gpus % (self.tensor * self.pipeline * self.context)):
            raise UsageError(
                f"training layout has gpus = {self.gpus}; it must be a multiple of tensor x pipeline "
                f"x context = "
                f"{self.tensor * self.pipeline * self.context}."
            )

    @classmethod
    def side_by_side(cls, layouts: Sequence[TrainLayout]) -> TrainLayout:
        """Layouts of one precision and method, as one of arrays."""
        rows: dict[str, Any] = {name: np.array([getattr(one, name) for one in layouts]) for name in VARIED}
        return replace(layouts[0], **rows)

    def some(self, places: NDArray[np.intp]) -> TrainLayout:
        """Some of many."""
        return replace(self, **{name: getattr(self, name)[places] for name in VARIED})

    def at(self, place: int) -> TrainLayout:
        """One of many."""
        return replace(self, **{name: getattr(self, name)[place].item() for name in VARIED})

    @property
    def data(self) -> Any:
        """Copies of the weights."""
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def expert_group(self) -> Any:
        """GPUs that share one set of experts."""
        return np.maximum(self.expert, self.tensor)

    @property
    def span(self) -> Any:
        """GPUs over which one copy of the weights is spread."""
        split = np.maximum(self.tensor * self.context, self.expert) * self.pipeline
        return np.where(self.fully_sharded, self.gpus, split)


@dataclass(frozen=True, kw_only=True)
class TrainMemory:
    """Bytes on the fullest GPU; arrays for layouts side by side."""

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


def _held_parameters(model: Model, layout: TrainLayout) -> tuple[Any, Any, Any]:
    """Parameters on the fullest GPU: dense and routed before full sharding, and what is held of both."""
    routed = model.routed_parameters / (layout.expert_group * layout.pipeline)
    dense = (model.total_parameters - model.routed_parameters) / (layout.tensor * layout.pipeline)
    return dense, routed, np.where(layout.fully_sharded, model.total_parameters / layout.gpus, dense + routed)


def train_memory(model: Model, layout: TrainLayout, *, length: Any, resident_models: Any = 0) -> TrainMemory:
    """Bytes per GPU to train `model` on sequences of `length`; resident_models more copies (reference,
    teachers of the same size) stay in memory as weights. Arrays for layouts side by side."""
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


def scoring_bytes(model: Model, layout: TrainLayout, *, length: float) -> Any:
    """Bytes per GPU of a model that only scores sequences of `length`: no gradients, no optimizer."""
    dense, routed, held = _held_parameters(model, layout)
    gathered = (dense + routed) / model.layers * layout.fully_sharded
    tokens = length / layout.context
    working = 2.0 * _SCORED_WIDTHS * model.hidden * tokens + 6.0 * model.vocab * min(tokens, _LOGITS_BLOCK)
    return WEIGHT_BYTES[layout.precision] * (held + gathered) + working / layout.tensor


def stored_bytes(model: Model, *, lora: bool = False) -> float:
    """Bytes of a checkpoint to go on from: bf16 weights, fp32 master and two moments; of the adapters with LoRA."""
    return 14.0 * model.total_parameters * (LORA_SHARE if lora else 1.0)


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
) -> TrainLayout:
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

    columns: dict[str, Any] = dict(
        zip(VARIED, map(np.array, zip(*sorted(found, key=price), strict=True)), strict=True)
    )
    return TrainLayout(**columns, precision=precision, lora=lora)


def fitting_training_layouts(
    model: Model,
    gpu: Gpu,
    gpus: int,
    *,
    length: float,
    lora: bool = False,
    precision: str = "bf16",
    offload: bool = False,
) -> TrainLayout:
    """The layouts that fit, with microbatches of one sequence, from cheap to dear; InfeasibleError says by how much the
    best one fails. `offload`: the optimizer may go to the host, as far as its memory reaches."""
    grid = training_layouts(model, gpu, gpus, lora=lora, precision=precision, offload=offload)
    (fits_L,) = _fitting(model, gpu, gpus, grid, np.array([length]), np.zeros(1))
    return grid.some(np.flatnonzero(fits_L))


def _fitting(
    model: Model, gpu: Gpu, gpus: int, grid: TrainLayout, length_B: Array, resident_B: Array
) -> NDArray[np.bool_]:
    """Which layouts of a grid hold sequences of each length and so many more models as weights, (B, L); InfeasibleError
    for the first that none holds."""
    memory = train_memory(model, grid, length=length_B[:, None], resident_models=resident_B[:, None])
    need_BL, room = memory.total, USABLE_MEMORY * gpu.memory_bytes
    host_L = 12.0 * model.total_parameters / grid.gpus * (LORA_SHARE if grid.lora else 1.0)
    fits_BL = (need_BL <= room) & (~grid.offload | (host_L <= HOST_BYTES_PER_GPU))
    if not fits_BL.any(axis=1).all():
        place = int(fits_BL.any(axis=1).argmin())
        work, lacking = f"training at length {length_B[place]:,.0f}", float(need_BL[place].min()) - room
        remedy = "more GPUs or a smaller model" if grid.lora else "more GPUs, lora = true or a smaller model"
        raise does_not_fit(model, gpu, gpus, work, lacking=lacking, remedy=remedy)
    return np.asarray(fits_BL)


@dataclass(frozen=True, kw_only=True)
class TrainWork:
    """What one step moves and computes; fields are floats or arrays of one shape. Per token unless named."""

    tokens_per_gpu: Any
    passes: Any
    dense_parameters: Any
    expert_parameters_active: Any
    attention_flops: Any
    bf16_flops_per_s: Any
    precision_speed: Any
    memory_bytes_per_s: Any
    elementwise_bytes: Any
    tensor_s: Any
    bubble: Any
    launched_layers: Any
    data_s_per_step: Any
    optimizer_s_per_step: Any


def _data_traffic_s(model: Model, gpu: Gpu, layout: TrainLayout, microbatches: Any) -> Any:
    """Seconds to exchange gradients and weights of a step between data-parallel GPUs, at full link speed."""
    routed = model.routed_parameters
    dense = (model.total_parameters - routed) / (layout.tensor * layout.pipeline) * (layout.data > 1)
    experts = routed / (layout.expert_group * layout.pipeline)
    experts = experts * (layout.gpus > layout.pipeline * layout.expert_group)
    gathered, reduced = (4.0, 0.0) if layout.lora else (6.0, 4.0)
    per_parameter = np.where(layout.fully_sharded, gathered * microbatches, reduced)
    dense_s = dense / group_link(gpu, layout.gpus, layout.tensor)
    return per_parameter * (dense_s + experts / group_link(gpu, layout.gpus, layout.expert_group))


def train_work(
    model: Model,
    gpu: Gpu,
    layout: TrainLayout,
    *,
    sequences: Any,
    mean_length: Any,
    packed_to: Any = 0.0,
) -> TrainWork:
    """Work of one step over `sequences` sequences of `mean_length` tokens; each may be an array that broadcasts against
    the layouts. packed_to: tokens of a microbatch that packs sequences (0: it holds `micro_batch` sequences)."""
    if np.any(np.asarray(sequences) <= 0) or np.any(np.asarray(mean_length) <= 0):
        raise UsageError(
            f"training step has {sequences!r} sequences of {mean_length!r} tokens; both must be positive."
        )
    held = np.maximum(packed_to / mean_length, layout.micro_batch)
    microbatches = np.maximum(sequences / (layout.data * held), 1.0)
    recompute = np.multiply(layout.recompute, 1.0)
    # A copy trains at least one sequence of a step: copies beyond the sequences stand idle.
    tokens = np.maximum(sequences, layout.data) * mean_length / layout.gpus
    optimizer_rate = np.where(layout.offload, OFFLOADED_BYTES_PER_S, gpu.memory_bytes_per_s)
    optimizer_s = OPTIMIZER_BYTES * model.total_parameters / layout.gpus / optimizer_rate
    return TrainWork(
        tokens_per_gpu=tokens,
        passes=(4.0 if layout.lora else 6.0) + 2.0 * recompute,
        dense_parameters=float(model.dense_matmul_parameters),
        expert_parameters_active=float(model.matmul_parameters - model.dense_matmul_parameters),
        attention_flops=(3.0 + recompute) * model.sequence_flops(mean_length) / mean_length,
        bf16_flops_per_s=gpu.bf16_flops_per_s,
        precision_speed=gpu.flops_per_s(layout.precision) / gpu.bf16_flops_per_s,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        elementwise_bytes=model.layers * model.hidden * 2.0 * (1 + recompute / 3),
        tensor_s=16.0 * model.layers * model.hidden * (layout.tensor - 1) / gpu.scale_up_bytes_per_s,
        bubble=1 + (layout.pipeline - 1) / (microbatches * layout.virtual_stages),
        launched_layers=microbatches * model.layers / layout.pipeline,
        data_s_per_step=_data_traffic_s(model, gpu, layout, microbatches),
        optimizer_s_per_step=0.0 if layout.lora else optimizer_s,
    )


def train_step_s(work: TrainWork, c: TrainConstants) -> Array:
    """Seconds of one optimizer step (module equation); broadcasts over the work and the constants."""
    peak = work.bf16_flops_per_s * work.precision_speed**c.precision_power * c.flops_efficiency
    products = (
        work.passes * (work.dense_parameters + c.expert_overhead * work.expert_parameters_active) / peak
    )
    attention = work.attention_flops / (work.bf16_flops_per_s * c.attention_efficiency)
    elementwise = work.elementwise_bytes * c.elementwise_passes / work.memory_bytes_per_s
    links = work.tensor_s * c.tensor_traffic
    busy = (products + attention + elementwise + links) * work.tokens_per_gpu
    busy = _longer(busy, work.launched_layers * c.microbatch_layer_s) * work.bubble
    overlapped = _longer(busy, work.data_s_per_step * c.data_traffic)
    return np.asarray(overlapped + work.optimizer_s_per_step)


def _longer(a: Array, b: Array) -> Array:
    """The time of two things that overlap, a smooth maximum."""
    return np.asarray((a**OVERLAP_NORM + b**OVERLAP_NORM) ** (1 / OVERLAP_NORM))


def forward_s(work: TrainWork, c: TrainConstants) -> Array:
    """Seconds of one forward pass over the step's sequences: a third of training without its traffic."""
    return train_step_s(replace(work, data_s_per_step=0.0, optimizer_s_per_step=0.0), c) / 3.0


def roofline_train_s(work: TrainWork, *, mfu: float = 0.4) -> Array:
    """The naive model to beat: active parameters and attention at a fixed share of the format's peak."""
    flops = work.passes * (work.dense_parameters + work.expert_parameters_active) + work.attention_flops
    return work.tokens_per_gpu * flops / (mfu * work.bf16_flops_per_s * work.precision_speed)


@dataclass(frozen=True, kw_only=True)
class Update:
    """The sequences of one optimizer step and how their microbatches are filled. packed_to: tokens of a packed
    microbatch; 0 where each holds one sequence, padded to the longest of all ranks if weights are sharded in full.
    resident_models: more of the model's size that are held as weights."""

    sequences: float
    lengths: Lengths
    packed_to: float
    resident_models: int = 0

    def work(self, model: Model, gpu: Gpu, layout: TrainLayout) -> TrainWork:
        """What the step computes and moves in a layout, or in each of many."""
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
    precision: str = "bf16",
    lora: bool = False,
    stack: Stack = MECHANISMS[UNKNOWN],
    constants: TrainConstants | None = None,
) -> list[list[TrainLayout]]:
    """For each update the fastest layout of at most so many GPUs that trains the model: with full sharding alone where
    the stack knows no other, experts within the fast link if they can be. Where one copy of the weights reaches beyond
    the fast link, the fastest that does not follows, if there is one. constants: of the training (None: of fine-tuning
    on the stack)."""
    grid = training_layouts(model, gpu, gpus, lora=lora, precision=precision, offload=not stack.tuned)
    longest_B, resident_B = np.array(
        [(update.lengths.maximum, update.resident_models) for update in updates]
    ).T
    fits_BL = _fitting(model, gpu, gpus, grid, longest_B, resident_B)
    if stack.sharded:
        fits_BL = _rather(fits_BL, grid.fully_sharded)
    fits_BL = _rather(fits_BL, grid.expert * grid.tensor <= gpu.scale_up_gpus)
    places_L = np.flatnonzero(fits_BL.any(axis=0))
    grid, fits_BL = grid.some(places_L), fits_BL[:, places_L]
    constants = constants or training_constants(stack)
    if all(update.packed_to for update in updates):
        columns = ([u.sequences, u.lengths.mean, u.packed_to] for u in updates)
        sequences_B1, mean_B1, packed_B1 = np.array([*columns]).T[:, :, None]
        work = train_work(model, gpu, grid, sequences=sequences_B1, mean_length=mean_B1, packed_to=packed_B1)
        seconds_BL = train_step_s(work, constants)
    else:
        works = [update.work(model, gpu, grid) for update in updates]
        seconds_BL = np.array([train_step_s(work, constants) for work in works])
    near_L = grid.span <= gpu.scale_up_gpus
    chosen = []
    for seconds_L in np.where(fits_BL, seconds_BL, np.inf):
        places = [int(np.argmin(seconds_L))]
        nearest_L = np.where(near_L, seconds_L, np.inf)
        if not near_L[places[0]] and np.isfinite(nearest_L).any():
            places.append(int(np.argmin(nearest_L)))
        chosen.append(places)
    made = {place: grid.at(place) for place in {*chain(*chosen)}}  # many updates choose the same
    return [[made[place] for place in places] for places in chosen]


def _rather(fits_BL: NDArray[np.bool_], wanted_L: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of what fits what is wanted, if any of it fits."""
    wanted_BL = fits_BL & wanted_L
    return np.where(wanted_BL.any(axis=1, keepdims=True), wanted_BL, fits_BL)


@lru_cache(maxsize=1024)
def fastest_scoring(
    model: Model, gpu: Gpu, gpus: int, sequences: float, mean_length: float, longest: float, precision: str
) -> tuple[TrainLayout, float]:
    """The fastest layout of a model that only scores (weights and activations, no gradients and no optimizer), and the
    seconds of its forward pass over so many sequences. InfeasibleError says what it lacks."""
    grid = training_layouts(model, gpu, gpus, precision=precision)
    need = scoring_bytes(model, grid, length=longest)
    room = USABLE_MEMORY * gpu.memory_bytes
    places = np.flatnonzero(need <= room)
    if not places.size:
        lacking, remedy = float(need.min()) - room, "more GPUs or a narrower precision"
        raise does_not_fit(
            model, gpu, gpus, f"scoring at length {longest:,.0f}", lacking=lacking, remedy=remedy
        )
    work = train_work(model, gpu, grid, sequences=sequences, mean_length=mean_length)
    seconds_L = np.asarray(forward_s(work, TrainConstants.shipped()))
    best = int(places[np.argmin(seconds_L[places])])
    return grid.at(best), float(seconds_L[best])
