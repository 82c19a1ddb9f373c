"""What teachers cost a distillation step: seconds, FLOPs, memory and network bytes of how they are served and what they
hand over.

Serving (`serving`):
    serial        one after the other on the student's training GPUs, each loaded first (seconds add up)
    dedicated     each on GPUs of its own, side by side (the slowest counts, nothing is loaded; outputs cross the link)
    hidden_cache  as serial, but teachers stop before their output head and store last hidden states; one resident head
                  at a time rebuilds the logits beside the student (DeepSeek-V4: samples sorted by teacher)
Output (`output`): log-probability of the sampled token, of the top k, or the full vocabulary. All three need the
teacher's whole head (the normaliser sums over the vocabulary), so FLOPs are the same; they differ in what is stored
and sent. With hidden_cache the stored thing is the hidden state, and the head's FLOPs move to the student's side.
Leaves out: overlap of loading with scoring, compression of hidden states, teachers of another tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import TrainConstants
from mopdsim.cost.counting import forward_flops, teacher_logit_bytes
from mopdsim.cost.decode import WEIGHT_BYTES
from mopdsim.cost.rlstep import scoring_s, teacher_scoring_s
from mopdsim.cost.training import TrainLayout
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Array
from mopdsim.facts.model import Model

Serving = Literal["serial", "dedicated", "hidden_cache"]
Output = Literal["sampled", "top_k", "vocabulary"]


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """`models`: every teacher that scores in this step. `layout`: the GPUs one teacher runs on (the student's training
    GPUs unless dedicated) and in which format. `top_k` counts for that output only."""

    models: Sequence[Model]
    layout: TrainLayout
    serving: Serving = "serial"
    output: Output = "sampled"
    top_k: int = 64

    def __post_init__(self) -> None:
        for name, value, known in (
            ("serving", self.serving, get_args(Serving)),
            ("output", self.output, get_args(Output)),
        ):
            if value not in known:
                raise UsageError(f"teachers have {name} {value!r}; it must be one of {', '.join(known)}.")
        if not self.models or self.top_k < 1:
            raise UsageError(
                f"teachers are {len(self.models)} models with top_k = {self.top_k!r}; both must be at least 1."
            )


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """Of one step. seconds: on the student's clock. flops: of all teachers. memory_bytes: on a student GPU beside the
    student, weights (or head) and stored outputs; teacher_memory_bytes: weights on a dedicated teacher GPU, else 0.
    network_bytes: handed from teachers to the student. loaded_bytes: weights read from storage."""

    seconds: Array
    flops: float
    memory_bytes: float
    teacher_memory_bytes: float
    network_bytes: float
    loaded_bytes: float


def teacher_cost(
    teachers: Teachers,
    gpu: Gpu,
    train: TrainConstants,
    *,
    sequences: float,
    mean_length: float,
    student_gpus: int,
) -> TeacherCost:
    """The cost of scoring `sequences` sequences, shared evenly among the teachers (each sequence has one)."""
    gpus, count = teachers.layout.gpus, len(teachers.models)
    share = sequences / count
    dedicated, cached = teachers.serving == "dedicated", teachers.serving == "hidden_cache"
    kept = "hidden" if cached else teachers.output
    passes = [
        scoring_s(model, gpu, teachers.layout, train, sequences=share, mean_length=mean_length)
        for model in teachers.models
    ]
    width = WEIGHT_BYTES[teachers.layout.precision]
    weights = [width * model.total_parameters for model in teachers.models]
    loads = (
        [held / (gpus * gpu.scale_out_bytes_per_s) for held in weights] if count > 1 and not dedicated else []
    )
    outputs = [
        teacher_logit_bytes(model, share * mean_length, kept=kept, top_k=teachers.top_k)
        for model in teachers.models
    ]
    stored = sum(outputs)
    sent_s = max(max(outputs) / gpus, stored / student_gpus) / gpu.scale_out_bytes_per_s if dedicated else 0.0
    head = max(width * model.embedding_parameters for model in teachers.models) / teachers.layout.tensor
    held = 0.0 if dedicated else max(weights) / gpus
    return TeacherCost(
        seconds=teacher_scoring_s(passes, load_s=loads, dedicated=dedicated) + np.asarray(sent_s),
        flops=sum(share * forward_flops(model, [mean_length]) for model in teachers.models),
        memory_bytes=max(held, head if cached else 0.0) + stored / student_gpus,
        teacher_memory_bytes=max(weights) / gpus if dedicated else 0.0,
        network_bytes=stored if dedicated else 0.0,
        loaded_bytes=sum(weights) if loads else 0.0,
    )
