"""Rows of served-model measurements (columns of decode.csv) as decode steps.

The measured set multiplies tensor- and expert-parallel degrees that share the same GPUs: with `attention_dp`
given, equal moe_tp and moe_ep above 1 mean that many GPUs (tp 64, moe_tp 8, moe_ep 8 is eight GPUs).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.arrays import stacked as side_by_side
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import DecodeConstants
from mopdsim.cost.generation import (
    NODE_GPUS,
    DecodeWork,
    Replica,
    decode_step_s,
    decode_work,
    roofline_step_s,
)
from mopdsim.facts.hardware import Gpu
from mopdsim.facts.layers import Model
from mopdsim.validate.tables import Row, Table, number, read_rows, sort_rows

COLUMNS = (
    "model", "system", "isl", "osl", "concurrency", "tp", "tpot_ms",
)  # fmt: skip
OPTIONAL_COLUMNS = (
    "backend", "precision", "gemm_quant_mode", "moe_quant_mode", "attention_dp", "moe_tp", "moe_ep",
    "ttft_ms",
)  # fmt: skip
QUEUED_TTFT_MS = 5_000.0
ASSUMED = {"isl": (128.0, 8192.0), "osl": (128.0, 8192.0), "concurrency": (4.0, 256.0)}
ASSUMED_DRAWS = 32
_FORMATS = {"nvfp4": "fp4", "fp4": "fp4", "fp8": "fp8", "fp8_block": "fp8", "bf16": "bf16"}


def _replica(row: dict[str, str], line: int) -> Replica:
    attention = number(row, "attention_dp", line, default=0.0, zero=True)
    tensor, moe_tensor, moe_expert = (
        int(number(row, name, line, default=0.0, zero=True)) for name in ("tp", "moe_tp", "moe_ep")
    )
    if attention == 0:
        gpus = max(tensor, moe_tensor * moe_expert, 1)
        replicas = gpus // max(tensor, 1)
    elif moe_tensor == moe_expert > 1:
        gpus = moe_tensor
        replicas = gpus if attention > 1 else 1
    elif attention > 1:
        gpus = moe_expert if tensor == 1 else tensor
        replicas = int(attention)
    else:
        gpus = tensor
        replicas = tensor if tensor > NODE_GPUS else 1
    formats = [row["gemm_quant_mode"] or row["precision"] or "bf16"]
    formats.append(row["moe_quant_mode"] or formats[0])
    for name in formats:
        if name not in _FORMATS:
            raise UsageError(
                f"line {line}: weight format is {name!r}; it must be one of {', '.join(_FORMATS)}."
            )
    return Replica(
        gpus=gpus,
        attention_replicas=replicas if gpus % max(replicas, 1) == 0 else 1,
        precision=_FORMATS[formats[0]],
        expert_precision=_FORMATS[formats[1]],
    )


def _work(model: Model, gpu: Gpu, replica: Replica, values: dict[str, float]) -> DecodeWork:
    """Steady state: every step, concurrency / osl sequences end and as many prompts are computed."""
    return decode_work(
        model,
        gpu,
        replica,
        batch=values["concurrency"],
        context=values["isl"] + values["osl"] / 2,
        prompts_per_step=values["concurrency"] / values["osl"],
        prompt_length=values["isl"],
    )


def _assumed(row: dict[str, str], line: int, model: Model, gpu: Gpu) -> DecodeWork:
    """The row's work under draws of what it does not say, log-uniform over `ASSUMED`."""
    rng = np.random.default_rng(line)
    replica = _replica(row, line)
    works = []
    for _ in range(ASSUMED_DRAWS):
        values = {}
        for name, (low, high) in ASSUMED.items():
            drawn = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            values[name] = number(row, name, line, default=drawn)
        works.append(_work(model, gpu, replica, values))
    return side_by_side(works)


def _place(line: int, row: dict[str, str], model: Model, gpu: Gpu) -> Row | str:
    missing = tuple(name for name in (*ASSUMED, "tp", "tpot_ms") if not row[name])
    measured = number(row, "tpot_ms", line, default=math.nan) / 1e3
    if missing:
        drawn = _assumed(row, line, model, gpu) if row["tp"] else None
        return Row.of(line, model, gpu, measured=measured, payload=drawn, missing=missing)
    values = {name: number(row, name, line) for name in ASSUMED}
    if number(row, "ttft_ms", line, default=0.0, zero=True) > QUEUED_TTFT_MS:
        return f"first token after more than {QUEUED_TTFT_MS / 1e3:.0f} s"
    replica = _replica(row, line)
    sizes = "{isl:.0f}+{osl:.0f} x{concurrency:.0f}".format(**values)
    layout = f"{gpu.name} {replica.gpus}/{replica.attention_replicas} "
    layout += f"{replica.precision}/{replica.expert_precision}"
    return Row.of(
        line,
        model,
        gpu,
        label=f"{row['model']} {row['backend']} {layout} {sizes}",
        measured=measured,
        keys={"group": f"{model.name} | {gpu.name} | {row['backend']}"},
        configuration=f"{model.name} {layout} {sizes} {row['moe_tp']} {row['moe_ep']}",
        payload=_work(model, gpu, replica, values),
    )


def load(data: Path | str) -> Table:
    """The rows of a CSV file, or of its text; a first token above 5 s means that requests queued, and such rows are
    left out."""
    return sort_rows(read_rows(data, COLUMNS, OPTIONAL_COLUMNS), "system", _place)


def stacked(rows: list[Row]) -> DecodeWork:
    return side_by_side([row.payload for row in rows])


def predict(work: DecodeWork, constants: DecodeConstants) -> Array:
    """Seconds per output token of stacked rows."""
    return np.asarray(decode_step_s(work, constants))


def naive(work: DecodeWork) -> Array:
    return np.asarray(roofline_step_s(work))
