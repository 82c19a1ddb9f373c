"""Rows of training throughput (columns of train_throughput.csv) as training steps.

Identity of a row: published TFLOP/s equal tokens/s times FLOPs per token, attention counted causally or in
full (both are in use), to within 0.75 to 1.25. Rows that break it, or whose layout does not divide their
GPUs, are refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.arrays import stacked as side_by_side
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import TrainConstants
from mopdsim.cost.constants import stack as software
from mopdsim.cost.training import TrainLayout, TrainWork, roofline_train_s, train_step_s, train_work
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Model
from mopdsim.validate.tables import Row, Table, family, number, read_rows, sort_rows

COLUMNS = (
    "kind", "model", "system", "gpus", "precision", "global_batch", "micro_batch", "sequence", "tp",
    "pp", "ep", "tokens_per_s_per_gpu",
)  # fmt: skip
OPTIONAL_COLUMNS = (
    "source", "release", "vp", "cp", "published_tflops_per_gpu", "note",
)  # fmt: skip
IDENTITY = (0.75, 1.25)
PRECISIONS = ("bf16", "fp8")
REFIT_BYTES_PER_S = 3e9  # of weights handed to rollouts through files, in rows of RL trainers; prior
ASSUMED = {"global_batch": (128.0, 2048.0), "micro_batch": (1.0, 4.0), "sequence": (2048.0, 8192.0)}
ASSUMED_DRAWS = 32


def _is_fsdp(row: dict[str, str]) -> bool:
    """Whether the row ran on a framework of the FSDP class. A stack's factor is of whole runs: benchmarks of the update
    alone have none, but its spread."""
    return "FSDP" in row["note"]


def _precision(text: str) -> str | None:
    text = text.lower()
    return next(
        (found for key, found in (("fp4", "fp4"), ("fp8", "fp8"), ("bf16", "bf16")) if key in text), None
    )


def _layout(row: dict[str, str], line: int, model: Model, precision: str) -> TrainLayout:
    gpus = int(number(row, "gpus", line))
    expert = int(number(row, "ep", line, default=1.0))
    if row["ep"] == "-" and model.is_moe:
        expert = min(gpus, min(kind.experts for _, kind in model.expert_layers))
    return TrainLayout(
        gpus=gpus,
        tensor=int(number(row, "tp", line, default=1.0)),
        pipeline=int(number(row, "pp", line, default=1.0)),
        context=int(number(row, "cp", line, default=1.0)),
        expert=expert,
        virtual_stages=int(number(row, "vp", line, default=1.0)),
        micro_batch=int(number(row, "micro_batch", line)),
        precision=precision,
        recompute="ac=true" in row["note"].lower() or "Recompute" in row["note"],
        fully_sharded="llm-foundry" in row["source"] or "Automodel" in row["source"] or _is_fsdp(row),
        lora=row["kind"] == "lora",
    )


def broken_identity(model: Model, row: dict[str, str], line: int) -> str | None:
    """Why the row contradicts itself, or None."""
    layout = _layout(row, line, model, "bf16")
    if number(row, "global_batch", line) < layout.micro_batch * layout.data:
        return f"global batch {row['global_batch']} is below micro batch x data parallelism"
    published = number(row, "published_tflops_per_gpu", line, default=0.0)
    if not published:
        return None
    rate, length = number(row, "tokens_per_s_per_gpu", line), number(row, "sequence", line)
    products = (4.0 if layout.lora else 6.0) * model.matmul_parameters
    attention = 3.0 * model.attention_flops(length) / length
    causal, full = (published * 1e12 / (rate * (products + k * attention)) for k in (1.0, 2.0))
    if causal < IDENTITY[0] or full > IDENTITY[1]:
        return (
            f"published {published:.0f} TFLOP/s is {causal:.2f} (causal) or {full:.2f} (full "
            f"attention) of tokens/s x "
            f"FLOPs per token; it must lie within {IDENTITY[0]} to {IDENTITY[1]}"
        )
    return None


def _work(model: Model, gpu: Gpu, row: dict[str, str], line: int, precision: str) -> TrainWork:
    work = train_work(
        model,
        gpu,
        _layout(row, line, model, precision),
        sequences=number(row, "global_batch", line),
        mean_length=number(row, "sequence", line),
    )
    if not _is_fsdp(row):
        return work
    written = 2.0 * model.total_parameters / REFIT_BYTES_PER_S if "RL Full" in row["note"] else 0.0
    return replace(work, optimizer_s_per_step=work.optimizer_s_per_step + written)


def _assumed(row: dict[str, str], line: int, model: Model, gpu: Gpu) -> TrainWork:
    """The row's work under draws of what it does not say: log-uniform over `ASSUMED`, bf16 or fp8 alike."""
    rng = np.random.default_rng(line)
    works = []
    for draw in range(ASSUMED_DRAWS):
        filled = dict(row)
        for name, (low, high) in ASSUMED.items():
            filled[name] = row[name] or str(round(float(np.exp(rng.uniform(np.log(low), np.log(high))))))
        precision = _precision(row["precision"]) or PRECISIONS[draw % 2]
        works.append(_work(model, gpu, filled, line, precision))
    return side_by_side(works)


def _place(line: int, row: dict[str, str], model: Model, gpu: Gpu) -> Row:
    missing = [name for name in (*ASSUMED, "gpus", "tokens_per_s_per_gpu") if not row[name]]
    precision = _precision(row["precision"])
    rate = number(row, "tokens_per_s_per_gpu", line, default=math.nan)
    if missing or precision is None:
        missing += ["precision"] if precision is None else []
        drawn = _assumed(row, line, model, gpu) if row["gpus"] else None
        return Row.of(line, model, gpu, measured=1.0 / rate, payload=drawn, missing=tuple(missing))
    reason = broken_identity(model, row, line)
    if reason:
        raise UsageError(f"line {line}: {reason}.")
    names = ("gpus", "global_batch", "micro_batch", "sequence", "tp", "pp", "cp", "vp", "ep")
    layout = " ".join(row[name] for name in names)
    suite = "MPT" if "llm-foundry" in row["source"] else "FSDP" if _is_fsdp(row) else "NVIDIA"
    return Row.of(
        line,
        model,
        gpu,
        label=f"{row['model']} {row['kind']} {gpu.name} {precision} {row['release']}".strip(),
        measured=1.0 / rate,
        keys={"family": family(model.name), "suite": suite, "framework": suite},
        configuration=f"{model.name} {gpu.name} {row['kind']} {precision} {layout}",
        payload=_work(model, gpu, row, line, precision),
        extra_log_sd=software("fsdp").log_sd if _is_fsdp(row) else 0.0,
    )


def load(data: Path | str) -> Table:
    """The rows of a CSV file, or of its text."""
    return sort_rows(read_rows(data, COLUMNS, OPTIONAL_COLUMNS), "system", _place)


def stacked(rows: list[Row]) -> TrainWork:
    return side_by_side([row.payload for row in rows])


def predict(work: TrainWork, constants: TrainConstants) -> Array:
    """Seconds per token and GPU of stacked rows."""
    return np.asarray(train_step_s(work, constants) / work.tokens_per_gpu)


def naive(work: TrainWork) -> Array:
    return np.asarray(roofline_train_s(work) / work.tokens_per_gpu)
