"""Seconds of one step of reinforcement learning or on-policy distillation: phases, and how they overlap.

    synchronous   V (generation + environment + scoring + training + fixed + sync)
    one_step_off  V (max(generation + environment, scoring + training) + fixed + sync)      two pools
    asynchronous  V max(generation + environment, scoring + training + fixed + sync), without waiting for the tail:
                  generation at its mean rate (k-step off)

V is one factor per framework release. Scoring passes (old log-probabilities, reference, teachers of the
student's size) cost a third of a training pass each. sync: new weights to the rollout replicas, textbook bytes
(`weight_sync_s`) and `refit_s` per parameter for gathering, renaming and loading them (adapters only with LoRA).
Leaves out: the quality price of staleness (`mopdsim.quality.walk`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants
from mopdsim.cost.generation import Lengths, Replica, generation_bytes, generation_s
from mopdsim.cost.own_trainer import phase_s
from mopdsim.cost.training import LORA_SHARE, TrainLayout, train_step_s, train_work
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Model

Overlap = Literal["synchronous", "one_step_off", "asynchronous"]
# Share of a GPU's memory that a rollout engine has, beside a trainer and on GPUs of its own: `gpu_memory_utilization`
# of NeMo-RL's examples/configs.
SHARED_MEMORY, OWN_MEMORY = 0.6, 0.8
_REFERENCE_FLOPS_PER_S = 989.4e12  # bf16, of an H100


def rollout_memory(overlap: Overlap) -> float:
    """Share of a GPU's memory for the weights and cache of a rollout engine."""
    return SHARED_MEMORY if overlap == "synchronous" else OWN_MEMORY


@dataclass(frozen=True, kw_only=True)
class RlStep:
    """One step: who runs where, on what. `scoring_passes`: forward passes over the samples besides the
    update.

    With overlap, `generation_gpus` and `layout.gpus` are two pools; synchronously they are the same GPUs.
    `trained_share`: of the samples that reach the update (the rest carries no signal); `oversampling`: samples drawn
    for one of `samples`, the others thrown away before they are scored (dynamic sampling). `updates_per_sample` > 1
    reuses samples (epochs). `critic_share`: the active parameters of PPO's value model against the policy's. `lag`:
    updates that a sample may be behind, in asynchronous mode; the rollout engine holds as many steps' samples at once.
    Many steps side by side, (B,): as many replicas and layouts, and arrays of what differs.
    """

    model: Model
    gpu: Gpu
    replica: Replica
    generation_gpus: int
    layout: TrainLayout
    samples: Any
    lengths: Lengths
    prompt_length: Any = 200.0
    overlap: Overlap = "synchronous"
    framework: str = "any"
    scoring_passes: Any = 2.0
    environment_s: Any = 0.0
    trained_share: Any = 1.0
    updates_per_sample: float = 1.0
    oversampling: float = 1.0
    critic_share: Any = 0.0
    lag: int = 1

    def __post_init__(self) -> None:
        if self.overlap not in ("synchronous", "one_step_off", "asynchronous"):
            raise UsageError(
                f"overlap is {self.overlap!r}; it must be synchronous, one_step_off or asynchronous."
            )
        if np.any(np.asarray(self.samples) <= 0) or np.any(self.generation_gpus < self.replica.gpus):
            raise UsageError(
                f"step has {self.samples!r} samples and {self.generation_gpus} generation GPUs in "
                f"replicas of "
                f"{self.replica.gpus}; samples must be positive and a replica must fit the pool."
            )


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Phases of a step; arrays over steps side by side. `step` is what the clock shows."""

    generation: Array
    scoring: Array
    training: Array
    fixed: Array
    sync: Array
    step: Array

    def some(self, places: NDArray[np.intp]) -> StepSeconds:
        """Some of many steps side by side."""
        size = np.shape(self.step)
        return StepSeconds(
            **{name: np.broadcast_to(value, size)[places] for name, value in vars(self).items()}
        )


def rollout_decode(c: DecodeConstants, rl: RlConstants) -> DecodeConstants:
    """Decode constants inside a training loop: launches and per-sequence work, which the host does, cost more than in a
    tuned server; reductions cost the same."""
    return replace(
        c,
        layer_s=c.layer_s * rl.decode_overhead,
        moe_layer_s=c.moe_layer_s * rl.decode_overhead,
        sequence_s=c.sequence_s * rl.decode_overhead,
        cross_node_s=rl.cross_node_s,
    )


def rollout_training(train: TrainConstants, rl: RlConstants, gpu: Gpu) -> TrainConstants:
    """Training constants inside the loop: experts and launches cost more, and a faster GPU gains less."""
    slower = (gpu.bf16_flops_per_s / _REFERENCE_FLOPS_PER_S) ** rl.faster_gpu_power
    return replace(
        train,
        flops_efficiency=train.flops_efficiency / slower,
        attention_efficiency=train.attention_efficiency / slower,
        expert_overhead=train.expert_overhead * rl.expert_train_overhead,
        microbatch_layer_s=train.microbatch_layer_s * rl.microbatch_overhead / rl.train_overhead,
    )


def training_phase_s(step: RlStep, train: TrainConstants, rl: RlConstants) -> Array:
    """The update over the samples that carry signal, once or several times."""
    work = train_work(
        step.model,
        step.gpu,
        step.layout,
        sequences=step.samples * step.trained_share,
        mean_length=step.lengths.mean + step.prompt_length,
        packed_to=step.lengths.maximum + step.prompt_length,
    )
    passes = step.updates_per_sample * (1.0 + step.critic_share)
    return train_step_s(work, rollout_training(train, rl, step.gpu)) * rl.train_overhead * passes


def weight_sync_s(step: RlStep) -> Any:
    """Seconds to hand the updated weights to every rollout replica, textbook bytes over one link.

    Every GPU receives what it holds for generation, in the served format (adapters only with LoRA). On shared GPUs
    the bytes stay within the fast link when one training copy and one replica each fit into it; between two pools the
    trainer sends one copy and replicas pass it on, so the slower of one copy out and one share in counts.
    """
    gpu, layout = step.gpu, step.layout
    replica = step.replica
    received = _flat(generation_bytes(step.model, replica, sequences=0, context=0))
    if step.overlap == "synchronous":
        span = np.maximum(layout.span, _flat(replica.gpus))
    else:
        span = layout.gpus + step.generation_gpus
        one_copy = generation_bytes(
            step.model, replace(replica, attention_replicas=1), sequences=0, context=0
        )
        received = np.maximum(received, _flat(one_copy * replica.gpus) / layout.gpus)
    link = np.where(span <= gpu.scale_up_gpus, gpu.scale_up_bytes_per_s, gpu.scale_out_bytes_per_s)
    return received * (LORA_SHARE if layout.lora else 1.0) / link


def _flat(values: Any) -> Any:
    """What each of several replicas has, (R,), of (R, 1)."""
    return values[:, 0] if np.ndim(values) else values


def _column(values: Any) -> Any:
    """What differs between steps, to broadcast against an axis of work."""
    return values[:, None] if np.ndim(values) else values


def rl_step_s(step: RlStep, decode: DecodeConstants, train: TrainConstants, rl: RlConstants) -> StepSeconds:
    """Phases and total of one step (module equations). On a CPU, whatever the constants, by the
    pace of this project's own trainer."""
    if step.gpu.is_cpu:
        return _on_cpu(step)
    replicas = np.maximum(step.generation_gpus // step.replica.gpus, 1)
    waits = step.overlap != "asynchronous"
    held = 1 if waits else step.lag
    same = np.array_equal(step.lengths.sigma, rl.length_sigma)
    generation = generation_s(
        step.model,
        step.gpu,
        step.replica,
        rollout_decode(decode, rl),
        samples_per_replica=_column(step.samples * step.oversampling) * held / replicas,
        lengths=step.lengths if same else replace(step.lengths, sigma=rl.length_sigma),
        prompt_length=_column(step.prompt_length),
        slowest_of=replicas,
        drain=waits,
        memory_share=rollout_memory(step.overlap),
    )
    generation = (generation + step.environment_s) / held
    training = training_phase_s(step, train, rl)
    passes, scoring = step.scoring_passes + step.critic_share, np.zeros_like(training)
    if np.any(passes):
        full = replace(step, trained_share=1.0, updates_per_sample=1.0, critic_share=0.0)
        scoring = passes / 3.0 * training_phase_s(full, train, rl)
    fixed = np.asarray(rl.fixed_s)
    handed = LORA_SHARE if step.layout.lora else 1.0
    sync = weight_sync_s(step) + rl.refit_s * handed * step.model.total_parameters / 1e9
    version = rl.version(step.framework)
    if step.overlap == "synchronous":
        total = generation + scoring + training + fixed + sync
    elif waits:
        total = np.maximum(generation, scoring + training) + fixed + sync
    else:
        total = np.maximum(generation, scoring + training + fixed + sync)
    return StepSeconds(
        generation=version * generation,
        scoring=version * scoring,
        training=version * training,
        fixed=version * fixed,
        sync=version * np.asarray(sync),
        step=version * total,
    )


def _on_cpu(step: RlStep) -> StepSeconds:
    """One process that does one thing after the other."""
    model = step.model
    one = step.samples * model.forward_flops([step.prompt_length + step.lengths.mean])
    longest = float(step.lengths.expected_longest(step.samples))
    scored = step.scoring_passes + step.critic_share
    updated = 3.0 * step.trained_share * step.updates_per_sample * (1.0 + step.critic_share)
    generation = phase_s("generation", model, one * step.oversampling, longest) + step.environment_s
    scoring = phase_s("scoring", model, one * scored, scored)
    training = phase_s("rl", model, one * updated, step.updates_per_sample)
    return StepSeconds(
        generation=np.asarray(generation),
        scoring=np.asarray(scoring),
        training=np.asarray(training),
        fixed=np.asarray(0.0),
        sync=np.asarray(0.0),
        step=np.asarray(generation + scoring + training),
    )


def fastest_split(
    step: RlStep, decode: DecodeConstants, train: TrainConstants, rl: RlConstants, *, gpus: int
) -> RlStep:
    """The step with `gpus` divided between trainer and rollouts so that it ends soonest, central constants. The trainer
    keeps its layout and takes whole copies of it, rollouts whole replicas. UsageError when both do not fit.
    """
    layout: Any = step.layout
    copy = layout.tensor * layout.pipeline * layout.context
    copies = [count * copy for count in range(1, (gpus - step.replica.gpus) // copy + 1)]
    if step.overlap == "synchronous" or not copies:
        raise UsageError(
            f"{gpus} GPUs cannot be split between a trainer of {copy} and replicas of {step.replica.gpus} "
            f"({step.overlap}); two pools need overlap and room for one of each."
        )
    found = [
        replace(step, layout=replace(layout, gpus=trainer), generation_gpus=gpus - trainer)
        for trainer in copies
    ]
    return min(found, key=lambda one: float(rl_step_s(one, decode, train, rl).step))
