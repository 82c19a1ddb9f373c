"""Seconds of one optimizer step under tensor, pipeline, context, expert and data parallelism.

Per token and GPU (work is spread evenly over the GPUs of a replica):

    products    k (N_dense + x N_experts) / (F f)        k = 6, LoRA 4, +2 with recomputation;
                                                         F = bf16 peak x (peak / bf16 peak)^power
                                                         x contains all-to-all, permutation and launches
    attention   3 x causal FLOPs / (bf16 peak a)
    elementwise L hidden 2 passes / memory bandwidth
    links       16 L hidden (tp - 1) / scale-up link
    bubble      x (1 + (pp - 1) / (microbatches x virtual stages))

Gradient and weight traffic of data parallelism overlaps with the sum of these: a p-norm of 3; members of a group on one
node share their network cards. The optimizer's
pass over its state is added. Experts are sharded over max(ep, tp) GPUs. Leaves out: imbalance of experts,
slower links between nodes for their all-to-all, stragglers, input pipeline, checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import TrainConstants
from mopdsim.cost.lengths import Lengths
from mopdsim.facts.hardware import PRECISIONS, Gpu
from mopdsim.facts.layers import Array
from mopdsim.facts.model import Model

OVERLAP_NORM = 3.0
OPTIMIZER_BYTES = 18.0


@dataclass(frozen=True, kw_only=True)
class TrainLayout:
    """How a training step is spread. `fully_sharded`: weights are gathered for every microbatch (FSDP,
    ZeRO-3)."""

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
    lora: bool = False

    def __post_init__(self) -> None:
        for name in ("gpus", "tensor", "pipeline", "context", "expert", "virtual_stages", "micro_batch"):
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

    @property
    def data(self) -> int:
        return self.gpus // (self.tensor * self.pipeline * self.context)


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
    data_s_per_step: Any
    optimizer_s_per_step: Any


def _group_link(gpu: Gpu, gpus: int, ranks_apart: int) -> float:
    """Bytes/s per GPU of a data-parallel group among `gpus` GPUs, its members `ranks_apart`. Rings across nodes enter
    each node through the network cards of all its members, and no ring is faster than the link within."""
    if gpus <= gpu.scale_up_gpus:
        return gpu.scale_up_bytes_per_s
    members_per_node = max(gpu.scale_up_gpus / ranks_apart, 1.0)
    return min(gpu.scale_up_bytes_per_s, gpu.scale_out_bytes_per_s * members_per_node)


def _data_traffic_s(model: Model, gpu: Gpu, layout: TrainLayout, microbatches: float) -> float:
    """Seconds to exchange gradients and weights of a step between data-parallel GPUs, at full link speed."""
    routed = model.routed_parameters
    expert_group = max(layout.expert, layout.tensor)
    dense = (model.total_parameters - routed) / (layout.tensor * layout.pipeline) * (layout.data > 1)
    experts = routed / (expert_group * layout.pipeline) * (layout.gpus > layout.pipeline * expert_group)
    per_parameter = 6.0 * microbatches if layout.fully_sharded else 4.0
    if layout.lora:
        per_parameter = 4.0 * microbatches if layout.fully_sharded else 0.0
    dense_s = dense / _group_link(gpu, layout.gpus, layout.tensor)
    return per_parameter * (dense_s + experts / _group_link(gpu, layout.gpus, expert_group))


def train_work(
    model: Model, gpu: Gpu, layout: TrainLayout, *, sequences: float, mean_length: float
) -> TrainWork:
    """Work of one step over `sequences` sequences of `mean_length` tokens."""
    if sequences <= 0 or mean_length <= 0:
        raise UsageError(
            f"training step has {sequences!r} sequences of {mean_length!r} tokens; both must be positive."
        )
    microbatches = max(sequences / (layout.data * layout.micro_batch), 1.0)
    recompute = float(layout.recompute)
    tokens = sequences * mean_length / layout.gpus
    optimizer_s = OPTIMIZER_BYTES * model.total_parameters / layout.gpus / gpu.memory_bytes_per_s
    return TrainWork(
        tokens_per_gpu=tokens,
        passes=(4.0 if layout.lora else 6.0) + 2.0 * recompute,
        dense_parameters=float(model.dense_matmul_parameters),
        expert_parameters_active=float(model.matmul_parameters - model.dense_matmul_parameters),
        attention_flops=(3.0 + recompute) * model.attention_flops(mean_length) / mean_length,
        bf16_flops_per_s=gpu.bf16_flops_per_s,
        precision_speed=gpu.flops_per_s(layout.precision) / gpu.bf16_flops_per_s,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        elementwise_bytes=model.layers * model.hidden * 2.0 * (1 + recompute / 3),
        tensor_s=16.0 * model.layers * model.hidden * (layout.tensor - 1) / gpu.scale_up_bytes_per_s,
        bubble=1 + (layout.pipeline - 1) / (microbatches * layout.virtual_stages),
        data_s_per_step=_data_traffic_s(model, gpu, layout, microbatches),
        optimizer_s_per_step=0.0 if layout.lora else optimizer_s,
    )


def unpacked_length(layout: TrainLayout, lengths: Lengths) -> float:
    """Tokens per sequence that are paid for when sequences are not packed: every sequence of a microbatch is padded to
    its longest, and with fully sharded weights all ranks gather each layer together, so that the longest sequence of
    all ranks' microbatches sets the pace. Pass it as `mean_length` of `train_work`.
    """
    ranks = layout.data if layout.fully_sharded else 1
    return float(lengths.expected_longest(layout.micro_batch * ranks))


def stack(works: Sequence[TrainWork]) -> TrainWork:
    """Rows of scalar works as one work of arrays."""
    return TrainWork(
        **{f.name: np.array([float(getattr(w, f.name)) for w in works]) for f in fields(TrainWork)}
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
    busy = (products + attention + elementwise + links) * work.bubble * work.tokens_per_gpu
    data = work.data_s_per_step * c.data_traffic
    overlapped = (busy**OVERLAP_NORM + data**OVERLAP_NORM) ** (1 / OVERLAP_NORM)
    return overlapped + work.optimizer_s_per_step


def roofline_train_s(work: TrainWork, *, mfu: float = 0.4) -> Array:
    """The naive model to beat: active parameters and attention at a fixed share of the format's peak."""
    flops = work.passes * (work.dense_parameters + work.expert_parameters_active) + work.attention_flops
    return work.tokens_per_gpu * flops / (mfu * work.bf16_flops_per_s * work.precision_speed)
