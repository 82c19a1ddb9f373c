"""Seconds of one optimizer step under tensor, pipeline, context, expert and data parallelism.

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
sharded over max(ep, tp) GPUs. Leaves out: imbalance of experts, slower links between nodes for their all-to-all,
stragglers, input pipeline, checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import TrainConstants
from mopdsim.facts.hardware import PRECISIONS, Gpu, group_link
from mopdsim.facts.model import Model

OVERLAP_NORM = 3.0
OPTIMIZER_BYTES = 18.0
OFFLOADED_BYTES_PER_S = 10e9  # of optimizer state in host memory, read, updated and written, per GPU; prior


_VARIED = ("gpus", "tensor", "pipeline", "expert", "recompute", "fully_sharded", "offload")
_DEGREES = ("gpus", "tensor", "pipeline", "context", "expert", "virtual_stages", "micro_batch")


class _Split:
    """What one layout and a grid of them share."""

    gpus: Any
    tensor: Any
    pipeline: Any
    context: Any
    expert: Any

    @property
    def data(self) -> Any:
        """Copies of the weights."""
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def expert_group(self) -> Any:
        """GPUs that share one set of experts."""
        return np.maximum(self.expert, self.tensor)


@dataclass(frozen=True, kw_only=True)
class TrainLayout(_Split):
    """How a training step is spread. `fully_sharded`: weights are gathered for every microbatch (FSDP, ZeRO-3).
    `offload`: optimizer state and its update on the host."""

    gpus: int
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    virtual_stages: int = 1
    micro_batch: int = 1
    precision: str = "bf16"
    recompute: bool = False
    fully_sharded: bool = False
    offload: bool = False
    lora: bool = False

    def __post_init__(self) -> None:
        for name in _DEGREES:
            if getattr(self, name) < 1:
                raise UsageError(
                    f"training layout has {name} = {getattr(self, name)!r}; it must be at least 1."
                )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"training precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}."
            )
        if self.gpus % (self.tensor * self.pipeline * self.context):
            raise UsageError(
                f"training layout has gpus = {self.gpus}; it must be a multiple of tensor x pipeline "
                f"x context = "
                f"{self.tensor * self.pipeline * self.context}."
            )


class LayoutGrid(_Split):
    """Many layouts of one precision and method as one of arrays: what `train_work` and the memory functions read.

    rows: of each, in the order of `_VARIED`, without context parallelism and virtual stages."""

    context = virtual_stages = micro_batch = 1

    def __init__(self, rows: Sequence[tuple[Any, ...]], *, precision: str, lora: bool) -> None:
        self.precision, self.lora, self._rows = precision, lora, tuple(rows)
        for name, column in zip(_VARIED, np.array(rows, dtype=int).T, strict=True):
            setattr(self, name, column.astype(bool) if name in _VARIED[4:] else column)

    @classmethod
    def of(cls, layouts: Sequence[TrainLayout]) -> LayoutGrid:
        """Layouts of one precision and method, side by side."""
        rows = [tuple(getattr(one, name) for name in _VARIED) for one in layouts]
        return cls(rows, precision=layouts[0].precision, lora=layouts[0].lora)

    def only(self, places: NDArray[np.intp]) -> LayoutGrid:
        """Some of the layouts."""
        return LayoutGrid([self._rows[place] for place in places], precision=self.precision, lora=self.lora)

    def at(self, place: int) -> TrainLayout:
        """One of the layouts."""
        chosen = dict(zip(_VARIED, self._rows[place], strict=True))
        return TrainLayout(**chosen, precision=self.precision, lora=self.lora)

    recompute: Any
    fully_sharded: Any
    offload: Any


def layout_span(layout: TrainLayout | LayoutGrid) -> Any:
    """GPUs over which one copy of the weights is spread, of one layout or of each of a grid."""
    split = np.maximum(layout.tensor * layout.context, layout.expert) * layout.pipeline
    return np.where(layout.fully_sharded, layout.gpus, split)


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


def _data_traffic_s(model: Model, gpu: Gpu, layout: TrainLayout | LayoutGrid, microbatches: Any) -> Any:
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
    layout: TrainLayout | LayoutGrid,
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
        attention_flops=(3.0 + recompute) * _attention_flops(model, mean_length) / mean_length,
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


def _attention_flops(model: Model, lengths: Any) -> Any:
    """Forward attention FLOPs of one sequence, of each length where there are several."""
    if np.ndim(lengths) == 0:
        return model.attention_flops(lengths)
    if lengths.size == 1:
        return np.full(lengths.shape, model.attention_flops(lengths))
    found, places = np.unique(lengths, return_inverse=True)
    return np.array([model.attention_flops(length) for length in found])[places].reshape(lengths.shape)


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
