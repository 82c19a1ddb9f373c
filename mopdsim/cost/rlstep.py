"""Seconds of one step of reinforcement learning or on-policy distillation: phases, and how they overlap.

    synchronous   V (generation + environment + scoring + training + fixed + sync)
    one_step_off  V (max(generation + environment, scoring + training) + fixed + sync)      two pools
    asynchronous  as one_step_off without waiting for the tail: generation at its mean rate, fixed and sync hidden

V is one factor per framework release. Scoring passes (old log-probabilities, reference, teachers of the
student's size) cost a third of a training pass each. sync: new weights to the rollout replicas (`weight_sync_s`);
what a refit costs beyond its bytes is inside fixed. Leaves out: the quality price of staleness
(`mopdsim.quality.walk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants
from mopdsim.cost.decode import Replica
from mopdsim.cost.generation import generation_s
from mopdsim.cost.lengths import Lengths
from mopdsim.cost.memory import LORA_SHARE, generation_bytes
from mopdsim.cost.training import TrainLayout, train_step_s, train_work
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Array
from mopdsim.facts.model import Model

Overlap = Literal["synchronous", "one_step_off", "asynchronous"]


@dataclass(frozen=True, kw_only=True)
class RlStep:
    """One step: who runs where, on what. `scoring_passes`: forward passes over the samples besides the
    update.

    With overlap, `generation_gpus` and `layout.gpus` are two pools; synchronously they are the same GPUs.
    `trained_share`: of the samples that reach the update (the rest carries no signal). `updates_per_sample` >
    1 reuses samples. `critic` doubles training (PPO).
    """

    model: Model
    gpu: Gpu
    replica: Replica
    generation_gpus: int
    layout: TrainLayout
    samples: float
    lengths: Lengths
    prompt_length: float = 200.0
    overlap: Overlap = "synchronous"
    framework: str = "any"
    scoring_passes: float = 2.0
    environment_s: float = 0.0
    trained_share: float = 1.0
    updates_per_sample: float = 1.0
    critic: bool = False

    def __post_init__(self) -> None:
        if self.overlap not in ("synchronous", "one_step_off", "asynchronous"):
            raise UsageError(
                f"overlap is {self.overlap!r}; it must be synchronous, one_step_off or asynchronous."
            )
        if self.samples <= 0 or self.generation_gpus < self.replica.gpus:
            raise UsageError(
                f"step has {self.samples!r} samples and {self.generation_gpus} generation GPUs in "
                f"replicas of "
                f"{self.replica.gpus}; samples must be positive and a replica must fit the pool."
            )


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Phases of a step; arrays over draws of the constants. `step` is what the clock shows."""

    generation: Array
    scoring: Array
    training: Array
    fixed: Array
    sync: Array
    step: Array


def _rollout_decode(c: DecodeConstants, rl: RlConstants) -> DecodeConstants:
    """Decode constants inside a training loop: launches and per-sequence work cost more than in a tuned
    server."""
    return replace(
        c,
        layer_s=c.layer_s * rl.decode_overhead,
        moe_layer_s=c.moe_layer_s * rl.decode_overhead,
        reduce_latency_s=c.reduce_latency_s * rl.decode_overhead,
        sequence_s=c.sequence_s * rl.decode_overhead,
    )


def training_phase_s(step: RlStep, train: TrainConstants, rl: RlConstants) -> Array:
    """The update over the samples that carry signal, once or several times."""
    work = train_work(
        step.model,
        step.gpu,
        step.layout,
        sequences=step.samples * step.trained_share,
        mean_length=step.lengths.mean + step.prompt_length,
    )
    loop = replace(train, expert_overhead=train.expert_overhead * rl.expert_train_overhead)
    passes = step.updates_per_sample * (2.0 if step.critic else 1.0)
    return train_step_s(work, loop) * rl.train_overhead * passes


def weight_sync_s(step: RlStep) -> float:
    """Seconds to hand the updated weights to every rollout replica, textbook bytes over one link.

    Every GPU receives what it holds for generation, in the served format (adapters only with LoRA). On shared GPUs
    the bytes stay within the fast link when one training copy and one replica each fit into it; between two pools the
    trainer sends one copy and replicas pass it on, so the slower of one copy out and one share in counts.
    """
    gpu, layout, replica = step.gpu, step.layout, step.replica
    received = generation_bytes(step.model, replica, sequences=0, context=0)
    if step.overlap == "synchronous":
        split = max(layout.tensor * layout.context, layout.expert) * layout.pipeline
        span = max(layout.gpus if layout.fully_sharded else split, replica.gpus)
    else:
        span = layout.gpus + step.generation_gpus
        one_copy = generation_bytes(
            step.model, replace(replica, attention_replicas=1), sequences=0, context=0
        )
        received = max(received, one_copy * replica.gpus / layout.gpus)
    link = gpu.scale_up_bytes_per_s if span <= gpu.scale_up_gpus else gpu.scale_out_bytes_per_s
    return received * (LORA_SHARE if layout.lora else 1.0) / link


def rl_step_s(step: RlStep, decode: DecodeConstants, train: TrainConstants, rl: RlConstants) -> StepSeconds:
    """Phases and total of one step (module equations); constants may carry draws of one shape."""
    replicas = max(step.generation_gpus // step.replica.gpus, 1)
    waits = step.overlap != "asynchronous"
    generation = generation_s(
        step.model,
        step.gpu,
        step.replica,
        _rollout_decode(decode, rl),
        samples_per_replica=step.samples / replicas,
        lengths=replace(step.lengths, sigma=rl.length_sigma),
        prompt_length=step.prompt_length,
        slowest_of=replicas,
        drain=waits,
    )
    generation = generation + step.environment_s
    full = replace(step, trained_share=1.0, updates_per_sample=1.0, critic=False)
    scoring = step.scoring_passes / 3.0 * training_phase_s(full, train, rl)
    training = training_phase_s(step, train, rl)
    fixed = np.asarray(rl.fixed_s) * (1.0 if waits else 0.0)
    sync = weight_sync_s(step) * (1.0 if waits else 0.0)
    version = rl.version(step.framework)
    if step.overlap == "synchronous":
        total = generation + scoring + training
    else:
        total = np.maximum(generation, scoring + training)
    return StepSeconds(
        generation=version * generation,
        scoring=version * scoring,
        training=version * training,
        fixed=version * fixed,
        sync=version * np.asarray(sync),
        step=version * (total + fixed + sync),
    )


def staleness_updates(step: RlStep, seconds: StepSeconds) -> Array:
    """Updates between the weights a sample was begun with and the update that trains on it: none, one step off one,
    and asynchronously one more for each step's time that a sample of mean length takes.
    """
    if step.overlap == "synchronous":
        return np.zeros_like(seconds.step)
    if step.overlap == "one_step_off":
        return np.ones_like(seconds.step)
    return 1.0 + seconds.generation / seconds.step


def fastest_split(
    step: RlStep, decode: DecodeConstants, train: TrainConstants, rl: RlConstants, *, gpus: int
) -> RlStep:
    """The step with `gpus` divided between trainer and rollouts so that it ends soonest, central constants. The trainer
    keeps its layout and takes whole copies of it, rollouts whole replicas. UsageError when both do not fit.
    """
    layout = step.layout
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


def scoring_s(
    model: Model,
    gpu: Gpu,
    layout: TrainLayout,
    train: TrainConstants,
    *,
    sequences: float,
    mean_length: float,
) -> Array:
    """One forward pass (reference, teacher) over the sequences: a third of a training pass without its
    traffic."""
    work = train_work(model, gpu, layout, sequences=sequences, mean_length=mean_length)
    return train_step_s(replace(work, data_s_per_step=0.0, optimizer_s_per_step=0.0), train) / 3.0


def teacher_scoring_s(
    passes_s: Sequence[Array], *, load_s: Sequence[float] = (), dedicated: bool = False
) -> Array:
    """Several teachers, each scoring its share: one after the other on the same GPUs, each loaded first
    (`load_s` seconds), or each on GPUs of its own (`dedicated`: the slowest counts, nothing is loaded).
    """
    if dedicated:
        return np.maximum.reduce([np.asarray(seconds) for seconds in passes_s])
    return np.asarray(sum(passes_s) + sum(load_s))
