"""What one stage of a recipe costs: tokens, FLOPs, memory and seconds at central values, from domains and
amounts.

Puts together the functions of `mopdsim.cost`: a stage's steps, who generates, who scores, what is trained. A
batch of several domains has the mixture's mean length and its wider spread, and waits for the slowest
environment. Axes: none (central values); `Bill.seconds_at` carries the draws of lengths and of the time
model's error.
Leaves out: failures, reruns and waiting for GPUs (`mopdsim.schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mopdsim.amounts import Amounts
from mopdsim.cost.constants import Fitted, shipped
from mopdsim.cost.counting import forward_flops, training_flops
from mopdsim.cost.generation import Lengths, generation_s
from mopdsim.cost.memory import train_memory
from mopdsim.cost.rlstep import Overlap, RlStep, rl_step_s, scoring_s, teacher_scoring_s
from mopdsim.cost.training import train_step_s, train_work
from mopdsim.domains import P90, Domain
from mopdsim.hardware import Gpu
from mopdsim.interference import Array
from mopdsim.model import Model
from mopdsim.recipe import AnyStage, Merge, Sft
from mopdsim.stage_batch import Batch, TestSet
from mopdsim.stage_layout import central_constants, fastest_replica, training_layout
from mopdsim.validate.rl_rows import UNKNOWN_FRAMEWORK_LOG_SD

Phase = Literal["generation", "scoring", "training", "fixed", "evaluation"]
EVALUATIONS = 5  # per stage; prior
MERGE_SECONDS = 600.0  # prior: read the inputs, write the result
_CPU_EFFICIENCY = 0.25  # of the dense peak, all phases; tiny exploration: 35 GFLOP/s on one of two cores
_CPU_STEP_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What stages run on."""

    model: Model
    gpu: Gpu
    overlap: Overlap = "synchronous"


@dataclass(frozen=True, kw_only=True)
class Bill:
    """A stage's cost at central values.

    tokens: generated, scored by other passes, trained, and the response tokens that carry gradient. flops:
    model FLOPs by phase, evaluation apart. seconds: by phase, over all steps. length_power: how seconds grow
    with the mean length. log_sd: of the time model's error.
    """

    name: str
    gpus: int
    steps: int
    generated_tokens: float
    scored_tokens: float
    trained_tokens: float
    gradient_tokens: float
    flops: Mapping[Phase, float]
    seconds: Mapping[Phase, float]
    mean_length: float
    longer_seconds: float
    log_sd: float
    grade: str
    layout: str
    memory_bytes: float
    shares: Mapping[str, float]

    @property
    def training_run_flops(self) -> float:
        """FLOPs of sampling, scoring and gradient; evaluation is not counted, as in a run's `max_flops`."""
        return sum(value for phase, value in self.flops.items() if phase != "evaluation")

    @property
    def length_power(self) -> float:
        """How seconds grow with the mean length: 1 is in proportion."""
        return math.log2(self.longer_seconds / sum(self.seconds.values()))

    def seconds_at(self, relative_length_N: Array, noise_N: Array) -> Array:
        """Seconds by draw, from the mean length relative to the central one and a standard normal of the
        error.
        """
        return (
            sum(self.seconds.values()) * relative_length_N**self.length_power * np.exp(self.log_sd * noise_N)
        )


def bill(
    stage: AnyStage, amounts: Amounts | None, domains: Mapping[str, Domain], machine: Machine, *, gpus: int
) -> Bill:
    """The cost of a stage on `gpus` GPUs. InfeasibleError where the model fits no layout on them."""
    if isinstance(stage, Merge) or amounts is None:
        return _merge(stage, machine)
    chosen = {name: domains[name] for name in stage.domains}
    batch = Batch.of(stage, amounts, chosen, overlapped=machine.overlap != "synchronous")
    seconds, layout, memory = _seconds(batch, machine, gpus)
    longer, _, _ = _seconds(batch.longer(), machine, gpus)
    test = TestSet.of(domains)
    evaluation = _evaluation_seconds(test, machine, gpus)
    tested = _forward(machine.model, test.prompt_tokens + test.response_tokens) * test.sequences * EVALUATIONS
    generates = 0.0 if isinstance(stage, Sft) else 1.0
    tokens, responses = batch.sequences * batch.sequence_tokens, batch.sequences * batch.response_tokens
    scored = tokens * batch.scoring_passes
    forward = _forward(machine.model, batch.sequence_tokens) * batch.sequences
    flops: dict[Phase, float] = {
        "generation": generates * forward,
        "scoring": batch.scoring_passes * forward,
        "training": _training(machine.model, batch.sequence_tokens) * batch.trained_sequences,
    }
    steps = _steps(amounts, sum(flops.values()))
    fitted = (
        None if _on_cpu(machine) else shipped()["train_throughput" if isinstance(stage, Sft) else "rl_steps"]
    )
    return Bill(
        name=stage.name,
        gpus=gpus,
        steps=steps,
        generated_tokens=steps * generates * responses,
        scored_tokens=steps * scored,
        trained_tokens=steps * batch.trained_sequences * batch.sequence_tokens,
        gradient_tokens=steps * batch.trained_sequences * batch.response_tokens,
        flops={**{phase: steps * value for phase, value in flops.items()}, "evaluation": tested},
        seconds={**{phase: steps * value for phase, value in seconds.items()}, "evaluation": evaluation},
        mean_length=batch.response_tokens,
        longer_seconds=steps * sum(longer.values()) + evaluation,
        log_sd=_log_sd(fitted, machine),
        grade="prior" if fitted is None else fitted.grade,
        layout=layout,
        memory_bytes=memory,
        shares=dict(zip(stage.domains, batch.prompt_shares, strict=True)),
    )


def _merge(stage: AnyStage, machine: Machine) -> Bill:
    seconds = MERGE_SECONDS * (0.001 if _on_cpu(machine) else 1.0)
    return Bill(
        name=stage.name,
        gpus=1,
        steps=1,
        generated_tokens=0.0,
        scored_tokens=0.0,
        trained_tokens=0.0,
        gradient_tokens=0.0,
        flops={},
        seconds={"fixed": seconds},
        mean_length=1.0,
        longer_seconds=seconds,
        log_sd=0.5,
        grade="prior",
        layout="host memory",
        memory_bytes=0.0,
        shares={},
    )


@lru_cache(maxsize=4096)
def _seconds(batch: Batch, machine: Machine, gpus: int) -> tuple[dict[Phase, float], str, float]:
    """Seconds of one step by phase, the layout in words, and bytes on the fullest GPU."""
    if _on_cpu(machine):
        return _cpu_seconds(batch, machine), "one process", 0.0
    model, gpu = machine.model, machine.gpu
    decode, train, rl = central_constants(batch.log_spread)
    longest = batch.prompt_tokens + batch.max_response_tokens
    overlapped = machine.overlap != "synchronous" and batch.generates and gpus > 1
    training_gpus = gpus // 2 if overlapped else gpus
    layout = training_layout(model, gpu, training_gpus, longest)
    memory = train_memory(model, layout, length=longest).total
    words = f"tensor {layout.tensor}, pipeline {layout.pipeline}, data {layout.data}"
    if not batch.generates:
        work = train_work(
            model, gpu, layout, sequences=batch.trained_sequences, mean_length=batch.sequence_tokens
        )
        return {"training": float(train_step_s(work, train))}, words, memory
    sampling_gpus = gpus - training_gpus if overlapped else gpus
    lengths = Lengths(mean=batch.response_tokens, maximum=batch.max_response_tokens, sigma=batch.log_spread)
    replica = fastest_replica(model, gpu, sampling_gpus, batch.sequences, batch.prompt_tokens, lengths)
    step = rl_step_s(
        RlStep(
            model=model,
            gpu=gpu,
            replica=replica,
            generation_gpus=sampling_gpus,
            layout=layout,
            samples=batch.sequences,
            lengths=lengths,
            prompt_length=batch.prompt_tokens,
            overlap=machine.overlap,
            scoring_passes=0.0 if batch.teachers else batch.scoring_passes,
            environment_s=batch.environment_seconds,
            trained_share=batch.trained_sequences / batch.sequences,
        ),
        decode,
        train,
        rl,
    )
    phases: dict[Phase, float] = {
        "generation": float(step.generation),
        "scoring": float(step.scoring),
        "training": float(step.training),
        "fixed": float(step.fixed),
    }
    if overlapped:
        phases = {"generation": float(step.step - step.fixed), "fixed": float(step.fixed)}
    if batch.teachers and batch.scoring_passes:
        passes = batch.sequences * batch.scoring_passes / batch.teachers
        one = scoring_s(model, gpu, layout, train, sequences=passes, mean_length=batch.sequence_tokens)
        load = 2.0 * model.total_parameters / (training_gpus * gpu.scale_out_bytes_per_s)
        loads = [load] * batch.teachers if batch.teachers > 1 else []
        phases["scoring"] = float(teacher_scoring_s([one] * batch.teachers, load_s=loads))
    return phases, f"{words}; {sampling_gpus // replica.gpus} replicas of {replica.gpus}", memory


@lru_cache(maxsize=4096)
def _evaluation_seconds(test: TestSet, machine: Machine, gpus: int) -> float:
    """Seconds of all evaluations of a stage."""
    model, gpu = machine.model, machine.gpu
    if _on_cpu(machine):
        flops = _forward(model, test.prompt_tokens + test.response_tokens) * test.sequences
        return EVALUATIONS * flops / (gpu.flops_per_s() * _CPU_EFFICIENCY)
    decode, _, rl = central_constants(0.6)
    lengths = Lengths(mean=test.response_tokens, maximum=test.max_response_tokens, sigma=rl.length_sigma)
    replica = fastest_replica(model, gpu, gpus, test.sequences, test.prompt_tokens, lengths)
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
    return EVALUATIONS * float(seconds)


def _cpu_seconds(batch: Batch, machine: Machine) -> dict[Phase, float]:
    """Seconds of one step on a CPU: FLOPs at one efficiency, and a fixed cost."""
    rate = machine.gpu.flops_per_s() * _CPU_EFFICIENCY
    forward = _forward(machine.model, batch.sequence_tokens) * batch.sequences / rate
    trained = _training(machine.model, batch.sequence_tokens) * batch.trained_sequences / rate
    return {
        "generation": forward * batch.generates,
        "scoring": forward * batch.scoring_passes,
        "training": trained,
        "fixed": _CPU_STEP_SECONDS,
    }


@lru_cache(maxsize=4096)
def _forward(model: Model, length: float) -> float:
    return forward_flops(model, [length])


@lru_cache(maxsize=4096)
def _training(model: Model, length: float) -> float:
    return training_flops(model, [length])


def _log_sd(fitted: Fitted | None, machine: Machine) -> float:
    """Standard deviation of the time model's log error, an unnamed framework's spread included; a factor of
    1.5 on a CPU, where nothing is fitted yet."""
    if fitted is None:
        return math.log(1.5)
    width = fitted.half_width(moe=machine.model.is_moe, model=machine.model.name, gpu=machine.gpu.name)
    return math.hypot(width / P90, UNKNOWN_FRAMEWORK_LOG_SD)


def _on_cpu(machine: Machine) -> bool:
    return machine.gpu.name.startswith("CPU")


def _steps(amounts: Amounts, flops_per_step: float) -> int:
    """Steps until the stage ends: the given number, or the step that reaches the ceiling of FLOPs."""
    if amounts.max_flops is None:
        return amounts.steps
    return max(1, min(amounts.steps, math.ceil(amounts.max_flops / flops_per_step)))
