"""Seconds of one step of a stage by phase, at central values: who generates, who scores, what is trained.

What no update changes is sampled ahead, at the rate of full replicas: rejection sampling, pairs, teachers' samples. A
teacher of another size samples (off-policy) or scores (on-policy) with its own sizes and layouts. Narrower formats
speed up matrix products and shrink weights and cache (`mopdsim.cost.generation`, `mopdsim.cost.training`); speculative
decoding makes several tokens of a decode step. Leaves out: how many steps (`mopdsim.cost.stage_cost`); on a CPU,
formats and speculation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.constants import MECHANISMS, UNKNOWN, DecodeConstants, RlConstants, Stack, TrainConstants
from mopdsim.cost.generation import (
    Lengths,
    Replica,
    Speculation,
    fastest_of,
    fastest_replica,
    generation_s,
    replicas_of,
)
from mopdsim.cost.own_trainer import Kind, phase_s
from mopdsim.cost.rlstep import (
    Overlap,
    RlStep,
    StepSeconds,
    rl_step_s,
    rollout_decode,
    rollout_memory,
    rollout_training,
)
from mopdsim.cost.training import (
    HOST_BYTES_PER_GPU,
    TrainLayout,
    Update,
    fastest_layouts,
    fastest_scoring,
    train_memory,
    train_step_s,
    training_constants,
)
from mopdsim.facts.hardware import CACHE_BYTES, WEIGHT_BYTES, Gpu
from mopdsim.facts.layers import Model

Phase = Literal["generation", "scoring", "training", "fixed", "evaluation"]
_TRAINING_PASSES = 3.0
_PACKED_TOKENS = 8192.0  # of a packed microbatch of fine-tuning, or its longest sequence; prior
_HOST_BYTES_PER_S, _STORAGE_BYTES_PER_S = 25e9, 2.5e9  # a GPU's share in loading weights; priors
_MOST_KNOWN = 16_384  # steps remembered
_FULL_REPLICA = 32  # sequences a GPU samples at once where none waits for another; prior

Timed = tuple[dict[Phase, float], str, float]  # seconds by phase, layout in words, bytes on the fullest GPU


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's sequences: how many, how long, scored how often, at what environment. What tools write counts as
    prompt: it is read and not sampled.

    by_teacher: a teacher samples them. ahead: no update changes their sampler, so that they need not wait for each
    other. group: samples of one prompt; trained_group: those of them that are trained on (DPO's pair). valued: PPO.
    scoring_passes: forward passes over the sequences, of the policy's or teachers' size; teachers: distinct ones that
    score; resident_models: others held as weights beside the one that is trained.
    """

    sequences: float
    trained_sequences: float
    prompt_tokens: float
    response_tokens: float
    max_response_tokens: float
    log_spread: float
    environment_seconds: float
    scoring_passes: float = 0.0
    teachers: int = 0
    resident_models: int = 0
    generates: bool
    by_teacher: bool
    ahead: bool
    group: int
    trained_group: int
    prompt_shares: tuple[float, ...]
    valued: bool = False

    @property
    def sequence_tokens(self) -> float:
        return self.prompt_tokens + self.response_tokens

    @property
    def longest_tokens(self) -> float:
        """Of the longest sequence."""
        return self.prompt_tokens + self.max_response_tokens

    @cached_property
    def lengths(self) -> Lengths:
        """How response lengths are spread."""
        return Lengths(mean=self.response_tokens, maximum=self.max_response_tokens, sigma=self.log_spread)

    def longer(self) -> Batch:
        """The same with responses of twice the mean length."""
        length = 2 * self.response_tokens
        return replace(
            self, response_tokens=length, max_response_tokens=max(self.max_response_tokens, 2 * length)
        )


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """The sequences of one evaluation on every domain."""

    sequences: float
    prompt_tokens: float
    response_tokens: float
    max_response_tokens: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What stages run on. teacher: the model of a stage's teachers, where it is another size than the student's.
    precision: of weights and matrix products; speculative_factor: tokens that a decode step yields (1: no speculation).
    trainer_share: of the GPUs that train where generation overlaps (None: what is fastest), or that take turns with
    those that sample where it does not (None: all GPUs do both). lag: steps that a sample
    may be behind in asynchronous mode. lora: adapters alone are trained. packed: whether fine-tuning packs (None: as
    the stack does). evaluations: tests a stage (None: five; one of fine-tuning and of reward models). Of RL: epochs
    over a batch of samples; value_model of PPO (None: a head on the policy's own states); sampled_per_trained, samples
    drawn for one that is kept; environment_slots, samples whose environment runs at once (None: all)."""

    model: Model
    gpu: Gpu
    overlap: Overlap = "synchronous"
    teacher: Model | None = None
    precision: str = "bf16"
    speculative_factor: float = 1.0
    stack: Stack = MECHANISMS[UNKNOWN]
    trainer_share: float | None = None
    lag: int = 1
    lora: bool = False
    packed: bool | None = None
    evaluations: int | None = None
    epochs: int = 1
    value_model: Model | None = None
    sampled_per_trained: float = 1.0
    environment_slots: int | None = None

    @cached_property
    def served(self) -> Replica:
        """The formats of a replica that samples: the cache as narrow as it can be, and the fewest drafted tokens that
        reach the speculative factor."""
        drafted = math.ceil(self.speculative_factor) - 1
        return Replica(
            precision=self.precision,
            cache_precision=self.precision if self.precision in CACHE_BYTES else "bf16",
            speculation=Speculation(drafted=drafted, tokens_per_step=self.speculative_factor)
            if drafted
            else None,
        )

    def critic_share(self, batch: Batch) -> float:
        """Active parameters of a separate value model against the policy's; 0 without one."""
        if self.value_model is None or not batch.valued:
            return 0.0
        return self.value_model.active_parameters / self.model.active_parameters

    def waiting(self, batch: Batch) -> float:
        """Seconds that a step's samples wait for environments, in turns where there are fewer slots than samples."""
        drawn = batch.sequences * self.sampled_per_trained
        turns = 1.0 if self.environment_slots is None else max(drawn / self.environment_slots, 1.0)
        return batch.environment_seconds * turns

    def sampler(self, batch: Batch) -> Model:
        """The model that generates."""
        return self.teacher if self.teacher is not None and batch.by_teacher else self.model

    def scorer(self, batch: Batch) -> Model:
        """The model of the scoring passes."""
        return self.teacher if self.teacher is not None and batch.teachers else self.model

    def update(self, batch: Batch) -> Update:
        """A step's sequences as they are trained: RL engines fill microbatches up to the longest sample."""
        whole = replace(batch.lengths, mean=batch.sequence_tokens, maximum=batch.longest_tokens)
        packs = batch.generates or (self.stack.packs if self.packed is None else self.packed)
        room = max(batch.longest_tokens, 0.0 if batch.generates else _PACKED_TOKENS)
        return Update(
            sequences=batch.trained_sequences or batch.sequences,
            lengths=whole,
            packed_to=room if packs else 0.0,
            resident_models=batch.resident_models,
        )


_known: dict[tuple[Batch, Machine, int], Timed] = {}


def step_seconds(batch: Batch, machine: Machine, gpus: int) -> Timed:
    """Seconds of one step by phase, the layout in words, and bytes on the fullest GPU. A stack's factor is in every
    phase. Where fewer GPUs are faster, the others stay idle."""
    key = batch, machine, gpus
    if key not in _known:
        if machine.gpu.is_cpu:
            _known[key] = _on_cpu(batch, machine), "one process", 0.0
        else:
            _known[key] = _slowed(batch, machine, _with_overlap(batch, machine, gpus))
    return _known[key]


def time_together(batches: Iterable[Batch], machine: Machine, gpus: int) -> None:
    """Works out steps that sample and train on the same GPUs side by side, so that `step_seconds` knows them; leaves
    the others to it, and all where one does not fit."""
    if len(_known) > _MOST_KNOWN:
        forget()
    if machine.gpu.is_cpu or machine.overlap != "synchronous" or machine.trainer_share is not None:
        return
    new = [
        batch
        for batch in dict.fromkeys(batches)
        if batch.generates and batch.trained_sequences and (batch, machine, gpus) not in _known
    ]
    with suppress(InfeasibleError):
        found = _phases(tuple(new), machine, gpus, gpus) if len(new) > 1 else []
        for batch, timed in zip(new, found, strict=False):
            if math.isfinite(sum(timed[0].values())):
                _known[batch, machine, gpus] = _slowed(batch, machine, timed)


def forget() -> None:
    """Forgets every step."""
    _known.clear()


def _slowed(batch: Batch, machine: Machine, timed: Timed) -> Timed:
    """With the stack's factor."""
    seconds, words, memory = timed
    slower = math.exp(machine.stack.log_bias)
    waiting = machine.waiting(batch) if "generation" in seconds and not batch.ahead else 0.0
    waiting = min(waiting, seconds.get("generation", 0.0))
    scaled: dict[Phase, float] = {phase: slower * value for phase, value in seconds.items()}
    if waiting:  # for environments no stack is slower
        scaled["generation"] -= (slower - 1) * waiting
    return scaled, words, memory


def _with_overlap(batch: Batch, machine: Machine, gpus: int) -> Timed:
    if not batch.trained_sequences:
        return _sampling_alone(batch, machine, gpus)
    apart = machine.overlap != "synchronous" or machine.trainer_share is not None
    if not (apart and batch.generates and not batch.ahead and gpus > 1):
        return _phases((batch,), machine, gpus, gpus)[0]
    found: list[Timed] = []
    refusal = None
    # new weights may stay within the fast link
    for used in sorted({gpus, min(gpus, machine.gpu.scale_up_gpus)} - {1}):
        for trainers in _trainers(machine, used):
            try:
                ((seconds, words, memory),) = _phases((batch,), machine, used - trainers, trainers)
            except InfeasibleError as error:
                refusal = error
            else:
                found.append((seconds, words + f"; {gpus - used} idle" * (used < gpus), memory))
    if refusal is not None and not found:
        raise refusal
    return min(found, key=lambda one: sum(one[0].values()))


@lru_cache(maxsize=1024)
def waiting_share(batch: Batch, machine: Machine, gpus: int) -> float:
    """Share of a step in which its GPUs mostly wait: for the longest answers, beyond the time that the same tokens take
    at a full batch, and for environments. 0 where no answer is waited for."""
    waits = (
        machine.overlap == "synchronous" and batch.generates and not batch.ahead and batch.trained_sequences
    )
    if machine.gpu.is_cpu or not waits:
        return 0.0
    decode = rollout_decode(DecodeConstants.shipped(), RlConstants.shipped())
    drawn, lengths = batch.sequences * machine.sampled_per_trained, batch.lengths
    replica, _ = fastest_replica(
        machine.model, machine.gpu, gpus, drawn, batch.prompt_tokens, lengths, machine.served,
        constants=decode, memory_share=rollout_memory("synchronous"),
    )  # fmt: skip
    full = generation_s(
        machine.model, machine.gpu, replica, decode, samples_per_replica=drawn / (gpus // replica.gpus),
        lengths=lengths, prompt_length=batch.prompt_tokens, drain=False, memory_share=rollout_memory("synchronous"),
    )  # fmt: skip
    seconds, _, _ = _phases((batch,), machine, gpus, gpus)[0]
    return max(seconds["generation"] - float(full), 0.0) / sum(seconds.values())


def _trainers(machine: Machine, gpus: int) -> list[int]:
    """How many of the GPUs may train: as the split says, or the round numbers of those that train and of those that
    sample. These stay where GPUs are added, so that no pair of pools is lost."""
    if machine.trainer_share is not None:
        return [min(max(round(machine.trainer_share * gpus), 1), gpus - 1)]
    rounds = {many for power in range(gpus.bit_length()) for many in (2**power, 3 * 2**power) if many < gpus}
    return sorted(rounds | {gpus - many for many in rounds})


def _phases(
    batches: tuple[Batch, ...], machine: Machine, sampling_gpus: int, training_gpus: int
) -> list[Timed]:
    """Seconds by phase of each batch on GPUs that sample and GPUs that train: the same ones unless generation overlaps.
    All of the batches generate, or none."""
    model, gpu = machine.model, machine.gpu
    if batches[0].generates:
        step, replicas, layouts = _rl_steps(batches, machine, training_gpus, sampling_gpus)
    else:
        layouts = [own[0] for own in _layouts(batches, machine, training_gpus)]
    longest_B = np.array([b.longest_tokens for b in batches])
    resident_B = np.array([batch.resident_models for batch in batches])
    held = train_memory(
        model, TrainLayout.side_by_side(layouts), length=longest_B, resident_models=resident_B
    )
    memory_B = held.total.tolist()
    words = [_words(layout, training_gpus) for layout in layouts]
    if not batches[0].generates:
        constants = training_constants(machine.stack)
        works = [machine.update(b).work(model, gpu, one) for b, one in zip(batches, layouts, strict=True)]
        seconds = [float(train_step_s(work, constants)) for work in works]
        return [
            ({"training": own}, told, memory)
            for own, told, memory in zip(seconds, words, memory_B, strict=True)
        ]
    sampled, scored, trained, fixed, whole = (
        np.broadcast_to(row, longest_B.shape).tolist()
        for row in (step.generation, step.scoring, step.training, step.fixed + step.sync, step.step)
    )
    found: list[Timed] = []
    for place, batch in enumerate(batches):
        phases: dict[Phase, float] = {
            "generation": sampled[place],
            "scoring": scored[place],
            "training": trained[place],
            "fixed": fixed[place],
        }
        told, replica_gpus = words[place], replicas[place].gpus
        if machine.overlap != "synchronous" and not batch.ahead:
            phases = {"generation": whole[place] - fixed[place], "fixed": fixed[place]}
        if "scoring" not in phases or sampling_gpus != training_gpus:
            told += f"; {training_gpus} train, {sampling_gpus} sample"
        if batch.ahead:
            phases["generation"], replica_gpus = _ahead_seconds(batch, machine, sampling_gpus)
            phases["fixed"] = 0.0
        if batch.teachers and batch.scoring_passes:
            phases["scoring"] = _teachers_seconds(batch, machine, training_gpus)
        told += f"; {sampling_gpus // replica_gpus} replicas of {replica_gpus}"
        found.append((phases, told, memory_B[place]))
    return found


def _layouts(batches: tuple[Batch, ...], machine: Machine, gpus: int) -> list[list[TrainLayout]]:
    """Where the machine's model is trained, for each batch: the fastest, and where that reaches beyond the fast link
    the fastest that does not. All of the batches generate, or none."""
    train, rl = TrainConstants.shipped(), RlConstants.shipped()
    return fastest_layouts(
        machine.model, machine.gpu, gpus, [machine.update(batch) for batch in batches],
        precision=machine.precision, lora=machine.lora, stack=machine.stack,
        constants=rollout_training(train, rl, machine.gpu) if batches[0].generates else None,
    )  # fmt: skip


def _words(layout: TrainLayout, gpus: int) -> str:
    """A training layout for people."""
    split = f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}"
    split += ", fully sharded" * layout.fully_sharded + ", optimizer on the host" * layout.offload
    idle = gpus - layout.gpus
    return split + (f", {idle} idle" if idle else "")


def _rl_steps(
    batches: tuple[Batch, ...], machine: Machine, training_gpus: int, sampling_gpus: int
) -> tuple[StepSeconds, list[Replica], list[TrainLayout]]:
    """Steps of the machine's model as sampler and trainee, side by side, each on the replica and the layout with which
    the whole of it ends soonest, handing over the new weights included."""
    model, gpu = machine.model, machine.gpu
    longest_B = np.array([batch.longest_tokens for batch in batches])
    choices = [
        [(replica, layout) for layout in layouts for replica in replicas]
        for replicas, layouts in zip(
            replicas_of(model, gpu, sampling_gpus, longest_B, machine.served),
            _layouts(batches, machine, training_gpus),
            strict=True,
        )
    ]
    counts = [len(own) for own in choices]
    rows = np.repeat(np.arange(len(batches)), counts)

    def every(of: Callable[[Batch], float]) -> Array:
        return np.array([of(batch) for batch in batches], dtype=float)[rows]

    overlap: Overlap = "synchronous" if batches[0].ahead else machine.overlap
    lengths = Lengths(
        mean=every(lambda b: b.response_tokens),
        maximum=every(lambda b: b.max_response_tokens),
        sigma=every(lambda b: b.log_spread),
    )
    step = RlStep(
        model=model,
        gpu=gpu,
        replica=Replica.side_by_side([replica for own in choices for replica, _ in own]),
        generation_gpus=sampling_gpus,
        layout=TrainLayout.side_by_side([layout for own in choices for _, layout in own]),
        samples=every(lambda b: b.sequences),
        lengths=lengths,
        prompt_length=every(lambda b: b.prompt_tokens),
        overlap=overlap,
        scoring_passes=every(lambda b: 0.0 if b.teachers else b.scoring_passes),
        environment_s=every(machine.waiting),
        trained_share=every(lambda b: (b.trained_sequences or b.sequences) / b.sequences),
        oversampling=machine.sampled_per_trained,
        updates_per_sample=float(machine.epochs),
        critic_share=every(machine.critic_share),
        lag=machine.lag,
    )
    rl = replace(RlConstants.shipped(), length_sigma=lengths.sigma)
    seconds = rl_step_s(step, DecodeConstants.shipped(), TrainConstants.shipped(), rl)
    best = fastest_of(seconds.step, counts)
    chosen = [own[place] for own, place in zip(choices, best, strict=True)]
    placed = seconds.some(np.cumsum([0, *counts[:-1]], dtype=np.intp) + np.array(best, dtype=np.intp))
    return placed, [replica for replica, _ in chosen], [layout for _, layout in chosen]


def _teachers_seconds(batch: Batch, machine: Machine, gpus: int) -> float:
    """Seconds in which all teachers score, one after the other, each loaded first where there are several: from host
    memory as far as it holds them, from storage otherwise."""
    model = machine.scorer(batch)
    one = _scored(machine, model, gpus, batch, batch.sequences * batch.scoring_passes / batch.teachers)
    held = WEIGHT_BYTES[machine.precision] * model.total_parameters
    in_host = held * batch.teachers <= HOST_BYTES_PER_GPU * gpus
    load = held / (gpus * (_HOST_BYTES_PER_S if in_host else _STORAGE_BYTES_PER_S))
    return batch.teachers * (one + load if batch.teachers > 1 else one)


def _scored(machine: Machine, model: Model, gpus: int, batch: Batch, sequences: float) -> float:
    """Seconds of a forward pass (reference, teacher, judge) over so many of a batch's sequences."""
    _, seconds = fastest_scoring(
        model, machine.gpu, gpus, sequences, batch.sequence_tokens, batch.longest_tokens, machine.precision
    )
    return seconds


def _ahead_seconds(batch: Batch, machine: Machine, gpus: int) -> tuple[float, int]:
    """Seconds to sample a step's sequences at the rate of full replicas, and the GPUs of one replica. New
    samples replace those that end, and waiting for environments costs nothing.
    """
    full = float(_FULL_REPLICA * gpus)
    replica, seconds = fastest_replica(
        machine.sampler(batch), machine.gpu, gpus, full, batch.prompt_tokens, batch.lengths, machine.served,
        drain=False,
    )  # fmt: skip
    return seconds * batch.sequences / full, replica.gpus


def _sampling_alone(batch: Batch, machine: Machine, gpus: int) -> tuple[dict[Phase, float], str, float]:
    """A step that samples and scores and trains nothing: all GPUs take part in each."""
    generation, replica_gpus = _ahead_seconds(batch, machine, gpus)
    phases: dict[Phase, float] = {"generation": generation}
    if batch.scoring_passes:
        judged = batch.sequences * batch.scoring_passes
        phases["scoring"] = _scored(machine, machine.model, gpus, batch, judged)
    held = WEIGHT_BYTES[machine.precision] * machine.model.total_parameters * (1 + batch.resident_models)
    return phases, f"{gpus // replica_gpus} replicas of {replica_gpus}", held / replica_gpus


@lru_cache(maxsize=4096)
def evaluation_seconds(test: TestSet, machine: Machine, gpus: int) -> float:
    """Seconds of one evaluation."""
    model = machine.model
    if machine.gpu.is_cpu:
        flops = forward(model, test.prompt_tokens + test.response_tokens) * test.sequences
        return phase_s("generation", model, flops, passes=test.max_response_tokens)
    lengths = Lengths(mean=test.response_tokens, maximum=test.max_response_tokens)
    _, seconds = fastest_replica(
        model, machine.gpu, gpus, test.sequences, test.prompt_tokens, lengths, machine.served
    )
    return seconds * math.exp(machine.stack.log_bias)


def _on_cpu(batch: Batch, machine: Machine) -> dict[Phase, float]:
    """Seconds of one step of this project's own trainer."""
    kind: Kind = "distill" if batch.teachers else "rl" if batch.generates else "sft"
    flops, longest = step_flops(batch, machine), float(batch.lengths.expected_longest(batch.sequences))
    seconds: dict[Phase, float] = {"training": phase_s(kind, machine.model, flops["training"], passes=1)}
    if batch.generates:
        samplers = batch.teachers if batch.by_teacher else 1
        seconds["generation"] = phase_s(
            "generation", machine.sampler(batch), flops["generation"], passes=samplers * longest
        )
    if batch.scoring_passes:
        passes = max(batch.teachers, batch.scoring_passes)
        seconds["scoring"] = phase_s("scoring", machine.scorer(batch), flops["scoring"], passes=passes)
    return seconds


def step_flops(batch: Batch, machine: Machine) -> dict[Phase, float]:
    """Model FLOPs of one step by phase: of whole sequences, on a CPU as the project's trainer packs them."""

    def one(model: Model, group: int) -> float:
        return _packed(model, batch, group) if machine.gpu.is_cpu else forward(model, batch.sequence_tokens)

    drawn = batch.sequences * machine.sampled_per_trained
    updated = batch.trained_sequences * machine.epochs * (1 + machine.critic_share(batch))
    passes = _TRAINING_PASSES - machine.lora  # frozen weights have no gradient
    scored = batch.sequences * (batch.scoring_passes + machine.critic_share(batch))
    return {
        "generation": batch.generates * one(machine.sampler(batch), batch.group) * drawn,
        "scoring": one(machine.scorer(batch), batch.group) * scored,
        "training": passes * one(machine.model, batch.trained_group) * updated,
    }


def _packed(model: Model, batch: Batch, group: int) -> float:
    """FLOPs of a forward pass over one sequence as the project's trainer packs and meters it: the prompt of a group
    once, the head at response tokens alone."""
    prompt = batch.prompt_tokens
    head = 2.0 * model.embedding_parameters
    shared = (forward(model, prompt) - head * prompt) / group
    return forward(model, batch.sequence_tokens) - forward(model, prompt) + shared


@lru_cache(maxsize=4096)
def forward(model: Model, length: float) -> float:
    """FLOPs of a forward pass over one sequence."""
    return model.forward_flops([length])
