"""Seconds of one step of a stage by phase, at central values: who generates, who scores, what is trained.

What no update changes is sampled ahead, at the rate of full replicas: rejection sampling, pairs, teachers' samples. A
teacher of another size samples (off-policy) or scores (on-policy) with its own sizes and layouts. Narrower formats
speed up matrix products and shrink weights and cache (`mopdsim.cost.decode`, `mopdsim.cost.memory`); speculative
decoding makes several tokens of a decode step. Leaves out: how many steps (`mopdsim.cost.stage_cost`); on a CPU,
formats and speculation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mopdsim.cost.counting import forward_flops
from mopdsim.cost.decode import WEIGHT_BYTES
from mopdsim.cost.generation import generation_s
from mopdsim.cost.lengths import Lengths
from mopdsim.cost.memory import train_memory
from mopdsim.cost.rlstep import Overlap, RlStep, StepSeconds, rl_step_s, scoring_s, teacher_scoring_s
from mopdsim.cost.stage_batch import Batch, TestSet
from mopdsim.cost.stage_layout import Formats, central_constants, fastest_replica, training_layout
from mopdsim.cost.training import train_step_s, train_work
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.model import Model

Phase = Literal["generation", "scoring", "training", "fixed", "evaluation"]
_CPU_EFFICIENCY = 0.25  # of the dense peak, all phases; tiny exploration: 35 GFLOP/s on one of two cores
_CPU_STEP_SECONDS = 0.01
_TRAINING_PASSES = 3.0
_FULL_REPLICA = 32  # sequences a GPU samples at once where none waits for another; prior


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What stages run on. teacher: the model of a stage's teachers, where it is another size than the student's."""

    model: Model
    gpu: Gpu
    overlap: Overlap = "synchronous"
    teacher: Model | None = None
    formats: Formats = field(default_factory=Formats)

    @property
    def on_cpu(self) -> bool:
        return self.gpu.name.startswith("CPU")

    def sampler(self, batch: Batch) -> Model:
        """The model that generates."""
        return self.teacher if self.teacher is not None and batch.by_teacher else self.model

    def scorer(self, batch: Batch) -> Model:
        """The model of the scoring passes."""
        return self.teacher if self.teacher is not None and batch.teachers else self.model


@lru_cache(maxsize=4096)
def step_seconds(batch: Batch, machine: Machine, gpus: int) -> tuple[dict[Phase, float], str, float]:
    """Seconds of one step by phase, the layout in words, and bytes on the fullest GPU."""
    if machine.on_cpu:
        return _on_cpu(batch, machine), "one process", 0.0
    if not batch.trained_sequences:
        return _sampling_alone(batch, machine, gpus)
    model, gpu = machine.model, machine.gpu
    _, train, _ = central_constants(batch.log_spread)
    overlapped = machine.overlap != "synchronous" and batch.generates and not batch.ahead and gpus > 1
    training_gpus = gpus // 2 if overlapped else gpus
    layout = training_layout(
        model, gpu, training_gpus, _longest(batch), machine.formats.precision, batch.resident_models
    )
    memory = train_memory(model, layout, length=_longest(batch), resident_models=batch.resident_models).total
    words = f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}"
    if not batch.generates:
        work = train_work(
            model, gpu, layout, sequences=batch.trained_sequences, mean_length=batch.sequence_tokens
        )
        return {"training": float(train_step_s(work, train))}, words, memory
    sampling_gpus = gpus - training_gpus if overlapped else gpus
    step, replica_gpus = _rl_step(batch, machine, model, sampling_gpus, training_gpus)
    phases: dict[Phase, float] = {
        "generation": float(step.generation),
        "scoring": float(step.scoring),
        "training": float(step.training),
        "fixed": float(step.fixed + step.sync),
    }
    if overlapped:
        phases = {"generation": float(step.step - step.fixed - step.sync), "fixed": phases["fixed"]}
    if batch.ahead:
        phases["generation"], replica_gpus = _ahead_seconds(batch, machine, gpus)
        phases["fixed"] = 0.0
    if batch.teachers and batch.scoring_passes:
        phases["scoring"] = _teachers_seconds(batch, machine, training_gpus)
    return phases, f"{words}; {sampling_gpus // replica_gpus} replicas of {replica_gpus}", memory


def _rl_step(
    batch: Batch, machine: Machine, model: Model, sampling_gpus: int, training_gpus: int
) -> tuple[StepSeconds, int]:
    """A step of `model` as sampler and trainee, and the GPUs of one of its replicas."""
    gpu, lengths = machine.gpu, _lengths(batch)
    decode, train, rl = central_constants(batch.log_spread)
    replica = fastest_replica(
        model, gpu, sampling_gpus, batch.sequences, batch.prompt_tokens, lengths, machine.formats
    )
    step = RlStep(
        model=model,
        gpu=gpu,
        replica=replica,
        generation_gpus=sampling_gpus,
        layout=training_layout(
            model, gpu, training_gpus, _longest(batch), machine.formats.precision, batch.resident_models
        ),
        samples=batch.sequences,
        lengths=lengths,
        prompt_length=batch.prompt_tokens,
        overlap="synchronous" if batch.ahead else machine.overlap,
        scoring_passes=0.0 if batch.teachers else batch.scoring_passes,
        environment_s=batch.environment_seconds,
        trained_share=(batch.trained_sequences or batch.sequences) / batch.sequences,
    )
    return rl_step_s(step, decode, train, rl), replica.gpus


def _teachers_seconds(batch: Batch, machine: Machine, gpus: int) -> float:
    """Seconds in which all teachers score, one after the other, each loaded first where there are several."""
    model, gpu = machine.scorer(batch), machine.gpu
    _, train, _ = central_constants(batch.log_spread)
    resident = batch.resident_models if model is machine.model else 0
    layout = training_layout(model, gpu, gpus, _longest(batch), machine.formats.precision, resident)
    passes = batch.sequences * batch.scoring_passes / batch.teachers
    one = scoring_s(model, gpu, layout, train, sequences=passes, mean_length=batch.sequence_tokens)
    load = 2.0 * model.total_parameters / (gpus * gpu.scale_out_bytes_per_s)
    loads = [load] * batch.teachers if batch.teachers > 1 else []
    return float(teacher_scoring_s([one] * batch.teachers, load_s=loads))


def _ahead_seconds(batch: Batch, machine: Machine, gpus: int) -> tuple[float, int]:
    """Seconds to sample a step's sequences at the rate of full replicas, and the GPUs of one replica. New
    samples replace those that end, and waiting for environments costs nothing.
    """
    model, gpu, lengths = machine.sampler(batch), machine.gpu, _lengths(batch)
    decode, _, _ = central_constants(batch.log_spread)
    full = float(_FULL_REPLICA * gpus)
    replica = fastest_replica(model, gpu, gpus, full, batch.prompt_tokens, lengths, machine.formats)
    replicas = gpus // replica.gpus
    seconds = generation_s(
        model,
        gpu,
        replica,
        decode,
        samples_per_replica=full / replicas,
        lengths=lengths,
        prompt_length=batch.prompt_tokens,
        drain=False,
    )
    return float(seconds) * batch.sequences / full, replica.gpus


def _sampling_alone(batch: Batch, machine: Machine, gpus: int) -> tuple[dict[Phase, float], str, float]:
    """A step that samples and scores and trains nothing: all GPUs take part in each."""
    model, gpu = machine.model, machine.gpu
    generation, replica_gpus = _ahead_seconds(batch, machine, gpus)
    phases: dict[Phase, float] = {"generation": generation}
    if batch.scoring_passes:
        _, train, _ = central_constants(batch.log_spread)
        layout = training_layout(
            model, gpu, gpus, _longest(batch), machine.formats.precision, batch.resident_models
        )
        judged = batch.sequences * batch.scoring_passes
        phases["scoring"] = float(
            scoring_s(model, gpu, layout, train, sequences=judged, mean_length=batch.sequence_tokens)
        )
    held = WEIGHT_BYTES[machine.formats.precision] * model.total_parameters * (1 + batch.resident_models)
    return phases, f"{gpus // replica_gpus} replicas of {replica_gpus}", held / replica_gpus


@lru_cache(maxsize=4096)
def evaluation_seconds(test: TestSet, machine: Machine, gpus: int) -> float:
    """Seconds of one evaluation."""
    model, gpu = machine.model, machine.gpu
    if machine.on_cpu:
        flops = forward(model, test.prompt_tokens + test.response_tokens) * test.sequences
        return flops / (gpu.flops_per_s() * _CPU_EFFICIENCY)
    decode, _, rl = central_constants(0.6)
    lengths = Lengths(mean=test.response_tokens, maximum=test.max_response_tokens, sigma=rl.length_sigma)
    replica = fastest_replica(model, gpu, gpus, test.sequences, test.prompt_tokens, lengths, machine.formats)
    replicas = gpus // replica.gpus
    seconds = generation_s(
        model,
        gpu,
        replica,
        decode,
        samples_per_replica=test.sequences / replicas,
        lengths=lengths,
        prompt_length=test.prompt_tokens,
        slowest_of=replicas,
    )
    return float(seconds)


def _on_cpu(batch: Batch, machine: Machine) -> dict[Phase, float]:
    """Seconds of one step on a CPU: FLOPs at one efficiency, and a fixed cost."""
    rate = machine.gpu.flops_per_s() * _CPU_EFFICIENCY
    seconds = {phase: flops / rate for phase, flops in step_flops(batch, machine).items()}
    return {**seconds, "fixed": _CPU_STEP_SECONDS}


def step_flops(batch: Batch, machine: Machine) -> dict[Phase, float]:
    """Model FLOPs of one step by phase: of whole sequences, on a CPU as the project's trainer packs them."""

    def one(model: Model, group: int) -> float:
        return _packed(model, batch, group) if machine.on_cpu else forward(model, batch.sequence_tokens)

    return {
        "generation": batch.generates * one(machine.sampler(batch), batch.group) * batch.sequences,
        "scoring": batch.scoring_passes * one(machine.scorer(batch), batch.group) * batch.sequences,
        "training": _TRAINING_PASSES * one(machine.model, batch.trained_group) * batch.trained_sequences,
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
    return forward_flops(model, [length])


def _longest(batch: Batch) -> float:
    return batch.prompt_tokens + batch.max_response_tokens


def _lengths(batch: Batch) -> Lengths:
    return Lengths(mean=batch.response_tokens, maximum=batch.max_response_tokens, sigma=batch.log_spread)
