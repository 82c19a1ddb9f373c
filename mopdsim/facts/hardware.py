"""Accelerators: dense peaks, memory, links and prices, one row each in `data/gpus.csv`.

`gpu("H100")` is the only way to a GPU; names are case-insensitive and the aliases of public benchmark tables
(h100_sxm, DGX-GB200) resolve to the same row. Units stand in the field names. Leaves out: what of a peak is
reached in practice (`mopdsim.cost`).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mopdsim.base.documents import DATA
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean

WIDE = 512  # hidden width from which a CPU's bfloat16 products outweigh the conversions around them
PRECISIONS = ("bf16", "fp8", "fp4")
# of a number, by format: of weights and products, and of a key-value cache
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
CACHE_BYTES = {"bf16": 2.0, "fp8": 1.0}
_FLOP_PRECISION = {"fp32": "bf16", "fp16": "bf16", "mxfp8": "fp8", "nvfp4": "fp4"}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One accelerator. Peaks are dense; links are per GPU and per direction; `price_grade` is published or
    assumed."""

    name: str
    aliases: tuple[str, ...]
    bf16_flops_per_s: float
    fp8_flops_per_s: float | None
    fp4_flops_per_s: float | None
    memory_bytes: float
    memory_bytes_per_s: float
    scale_up_bytes_per_s: float
    scale_out_bytes_per_s: float
    gpus_per_node: int
    scale_up_gpus: int
    usd_per_gpu_hour: float
    price_grade: str
    price_source: str
    price_date: str
    source: str
    note: str

    @property
    def is_cpu(self) -> bool:
        """Whether the accelerator is none."""
        return self.name.startswith("CPU")

    def flops_per_s(self, precision: str = "bf16") -> float:
        """Dense peak for bf16, fp8 or fp4 operands; a format the hardware lacks runs at the next wider
        one."""
        precision = _FLOP_PRECISION.get(precision.lower(), precision.lower())
        if precision not in PRECISIONS:
            raise UsageError(
                f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}"
                f"{did_you_mean(precision, PRECISIONS)}."
            )
        if precision == "fp4" and self.fp4_flops_per_s is not None:
            return self.fp4_flops_per_s
        if precision in ("fp4", "fp8") and self.fp8_flops_per_s is not None:
            return self.fp8_flops_per_s
        return self.bf16_flops_per_s


def data_rows(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file in `mopdsim/data`, lines that start with # skipped."""
    text = (DATA / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return list(csv.DictReader(lines))


def _from_row(row: dict[str, str]) -> Gpu:
    def scaled(column: str, unit: float) -> float:
        return float(row[column]) * unit

    return Gpu(
        name=row["name"],
        aliases=tuple(row["aliases"].split("|")),
        bf16_flops_per_s=scaled("bf16_tflops", 1e12),
        fp8_flops_per_s=scaled("fp8_tflops", 1e12) if row["fp8_tflops"] else None,
        fp4_flops_per_s=scaled("fp4_tflops", 1e12) if row["fp4_tflops"] else None,
        memory_bytes=scaled("memory_gb", 1e9),
        memory_bytes_per_s=scaled("memory_tb_per_s", 1e12),
        scale_up_bytes_per_s=scaled("scale_up_gb_per_s", 1e9),
        scale_out_bytes_per_s=scaled("scale_out_gb_per_s", 1e9),
        gpus_per_node=int(row["gpus_per_node"]),
        scale_up_gpus=int(row["scale_up_gpus"]),
        usd_per_gpu_hour=float(row["usd_per_gpu_hour"]),
        price_grade=row["price_grade"],
        price_source=row["price_source"],
        price_date=row["price_date"],
        source=row["source"],
        note=row["note"],
    )


@cache
def gpus() -> dict[str, Gpu]:
    """Every GPU by its canonical name."""
    return {row["name"]: _from_row(row) for row in data_rows("gpus.csv")}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@cache
def _index() -> dict[str, Gpu]:
    return {_key(name): row for row in gpus().values() for name in (row.name, *row.aliases)}


def gpu(name: str) -> Gpu:
    """The GPU called `name` (or one of its aliases); NotFoundError with the nearest name otherwise."""
    found = _index().get(_key(name))
    if found is None:
        raise NotFoundError(
            f"GPU {name!r} is not in the table{did_you_mean(name, gpus())}; `mopd gpus` lists it."
        )
    return found


def group_link(gpu: Gpu, gpus: Any, ranks_apart: Any) -> Any:
    """Bytes/s per GPU of a ring over a group among `gpus` GPUs, its members `ranks_apart`; broadcasts. Rings across
    nodes enter each node through the network cards of all its members, and no ring is faster than the link within."""
    members_per_node = np.maximum(gpu.scale_up_gpus / np.asarray(ranks_apart), 1.0)
    across = np.minimum(gpu.scale_up_bytes_per_s, gpu.scale_out_bytes_per_s * members_per_node)
    return np.where(np.asarray(gpus) <= gpu.scale_up_gpus, gpu.scale_up_bytes_per_s, across)
