"""What the phases of a step take on this device: the rows that the trainer's pace is fitted to (`mopdsim.fit.trainer`).

Models of random weights in several sizes go through real stages: fine-tuning, RL, and distillation from three teachers,
each with batches of several sizes, after a warm-up that does not count. Leaves out: evaluation; learning (random
weights seldom end an answer, so nearly all are as long as their task allows).
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE, Amounts, Distill, Rl, Sft
from trainer.bench.ledger import DOMAINS, SETTINGS
from trainer.bench.step import LEARNING_RATE
from trainer.files.atomic import read_json
from trainer.model.tiny import init_model
from trainer.runs.worker import run_stage
from trainer.stages.job import Job
from trainer.tasks import task

STEPS, WARM_UP = 5, 2
SCHEMA = 1
Shapes = Mapping[str, Mapping[str, Any]]  # of models of random weights: sizes for `init_model`
CPU: Shapes = {
    "0.17M": {"hidden": 64},
    "0.65M": {"hidden": 128},
    "2.6M": {"hidden": 256},
    "10M": {"hidden": 512},
    "10M, deep": {"hidden": 256, "layers": 12},
}
GPU: Shapes = {
    "38M": {"hidden": 512, "layers": 12, "heads": 8},
    "200M": {"hidden": 1024, "layers": 16, "heads": 16},
    "700M": {"hidden": 1536, "layers": 24, "heads": 16},
}
SEQUENCES = {"cpu": (16, 64, 256), "cuda": (64, 512, 4096)}  # of a step
GROUP = 8  # answers to a prompt in RL


def bench_pace(
    device: Literal["cpu", "cuda"] = "cpu",
    *,
    shapes: Shapes | None = None,
    sequences: tuple[int, ...] | None = None,
    steps: int | None = None,
    doing: Callable[[str, str], object] = lambda what, where: None,
) -> dict[str, Any]:
    """Rows of every kind of stage, size and batch: seconds and FLOPs of a step by phase, with what they were measured
    on. On a CPU seconds are those that the process computed on one thread, in float32; on a GPU those of the clock, in
    bfloat16. `doing` is told what is measured."""
    shapes, steps = shapes or (CPU if device == "cpu" else GPU), steps or STEPS
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    rows, configs = [], {}
    try:
        for name, shape in shapes.items():
            with tempfile.TemporaryDirectory() as folder:
                weights = _weights(Path(folder), shape)
                configs[name] = read_json(weights[BASE] / "config.json")
                for kind in stages():
                    doing(f"times {kind}", name)
                    for count in (None, *(sequences or SEQUENCES[device])):  # the first is a warm-up
                        row = _row(kind, count or GROUP, steps if count else WARM_UP, weights, device)
                        rows += [{"model": name, **row}] if count else []
    finally:
        torch.set_num_threads(before)
    return {"schema_version": SCHEMA, **about(device), "models": configs, "rows": rows}


def about(device: str) -> dict[str, Any]:
    """What the rows were measured on."""
    gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else processor(),
        "accelerator": gpu,
        "dtype": _dtype(device),
        "threads": None if gpu else 1,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def processor() -> str:
    """The CPU's name and family, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in told.items()}
    return f"{found.get('model name', platform.machine())}, family {found.get('cpu family', '?')}, model " + (
        found.get("model", "?")
    )


@cache
def stages() -> Mapping[str, Sft | Rl | Distill]:
    """A stage of every kind whose pace is fitted."""
    taught, mixed = catalogue.recipe("mopd", DOMAINS), catalogue.recipe("mixed_rl", DOMAINS)
    student, reinforced = taught.stage[taught.output], mixed.stage[mixed.output]
    assert isinstance(student, Distill) and isinstance(reinforced, Rl)
    return {
        "sft": Sft(name="tuned", domains=dict.fromkeys(DOMAINS, 1.0)),
        "rl": reinforced.model_copy(update={"zero_signal": "keep"}),  # random weights are seldom right
        "distill": student,
    }


def _weights(folder: Path, shape: Mapping[str, Any]) -> dict[str, Path]:
    """The base and its teachers."""
    student = stages()["distill"]
    assert isinstance(student, Distill)
    places = {name: folder / name for name in (BASE, *(teacher.stage for teacher in student.teachers))}
    for seed, place in enumerate(places.values()):
        init_model(place, seed=seed, **shape)
    return places


def _row(kind: str, sequences: int, steps: int, weights: Mapping[str, Path], device: str) -> dict[str, Any]:
    """One stage: what a step of it was and took."""
    stage, group = stages()[kind], GROUP if kind == "rl" else 1
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            key=f"pace {kind} {sequences}",
            stage=stage,
            amounts=Amounts(
                steps=steps,
                prompts_per_step=max(sequences // group, 1),
                rollouts_per_prompt=group,
                learning_rate=LEARNING_RATE,
            ),
            settings=SETTINGS.model_copy(update={"device": device, "dtype": _dtype(device)}),
            domains=DOMAINS,
            weights=weights,
            directory=Path(folder),
        )
        summary = run_stage(job, lambda note: None)
    seconds = summary["cpu_seconds" if device == "cpu" else "seconds"]
    phases = [phase for phase in ("generation", "scoring", "training") if summary["flops"][phase]]
    tokens = sum(summary["tokens"]["trained"].values())
    return {
        "kind": kind,
        "sequences": sequences,
        "group": group,
        "teachers": len(DOMAINS) if kind == "distill" else 0,
        "steps": steps,
        "prompt_tokens": _prompt_tokens(),
        "response_tokens": tokens / (steps * sequences),
        "longest": max(task(name).max_new_tokens for name in DOMAINS),
        "flops": {phase: summary["flops"][phase] / steps for phase in phases},
        "seconds": {phase: seconds[phase] / steps for phase in phases},
    }


@cache
def _prompt_tokens() -> float:
    """Mean length of a prompt in the characters of these models, with the two that open the turns."""
    items = [item for name in DOMAINS for item in task(name).stream("train", 0, 100, seed=0)]
    return 2 + statistics.fmean(len(item.prompt) for item in items)


def _dtype(device: str) -> Literal["float32", "bfloat16"]:
    return "float32" if device == "cpu" else "bfloat16"
