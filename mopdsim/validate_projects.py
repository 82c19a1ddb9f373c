"""Whole published runs against the cost model: GPU-hours, or FLOPs, from presets with ranges for what nobody
states.

The presets (`data/project_presets.toml`) were written before the comparison and carry a source each. Every
unknown is a lognormal through its P10 and P90; the time model's own error and one overhead for all runs are
drawn as well.
Leaves out: rows of the table without a measured total or without a preset (listed as incomplete).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.amounts import Amounts
from mopdsim.calibration import sample, standard_normal
from mopdsim.cost.counting import forward_flops
from mopdsim.domains import P90, Estimate, domain
from mopdsim.errors import UsageError
from mopdsim.hardware import gpu
from mopdsim.interference import Array
from mopdsim.model import model
from mopdsim.recipe import Rl, Sft
from mopdsim.stage_cost import Machine, bill
from mopdsim.validate import published
from mopdsim.validate.tables import read_rows

COLUMNS = ("model", "stage", "gpu", "gpu_hours", "details")
_PETAFLOP_DAY = 1e15 * 86_400
DRAWS, SEED = 4000, 0


def validate(path: Path | None = None) -> dict[str, Any]:
    """The report: P10 to P90 of every run with a preset, coverage, and the median width P90 / P10."""
    presets, overhead = _presets()
    predictions, incomplete = [], []
    for line, row in read_rows(path or published("project_totals"), COLUMNS):
        label = {"line": line, "model": row["model"], "stage": row["stage"]}
        measured = _measured(row)
        preset = presets.get((row["model"], row["stage"]))
        if measured is None:
            incomplete.append({**label, "reason": "no total is published"})
        elif preset is None:
            incomplete.append({**label, "reason": "steps or lengths are not published: no preset"})
        else:
            predictions.append({**label, **_judge(preset, overhead, measured)})
    if not predictions:
        raise UsageError("no row has both a measured total and a preset")
    errors = [found["error"] for found in predictions]
    return {
        "kind": "project_totals",
        "rows": len(predictions),
        "incomplete": incomplete,
        "coverage_80": float(np.mean([found["inside_80"] for found in predictions])),
        "median_width": float(np.median([found["p90"] / found["p10"] for found in predictions])),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "predictions": predictions,
    }


def _judge(preset: Mapping[str, Any], overhead: Any, measured: float) -> dict[str, Any]:
    drawn_N = _flops(preset) if preset["kind"] == "flops" else _gpu_hours(preset, overhead)
    low, middle, high = (float(value) for value in np.quantile(drawn_N, [0.1, 0.5, 0.9]))
    return {
        "unit": "flop" if preset["kind"] == "flops" else "gpu_hours",
        "p10": low,
        "p50": middle,
        "p90": high,
        "measured": measured,
        "inside_80": low <= measured <= high,
        "error": max(middle / measured, measured / middle) - 1,
        "source": preset["source"],
        "assumed": preset["assumed"],
    }


def _flops(preset: Mapping[str, Any]) -> Array:
    """Forward passes over the sequences, `passes` each, and training on the examples mixed in. (N,)"""
    shape = model(preset["shape"])
    tokens_N = _draw(preset, "tokens")
    per_token = forward_flops(shape, [1000.0]) / 1000.0
    total_N = preset["sequences"] * tokens_N * preset["passes"] * per_token
    if "mixed_sequences" in preset:
        total_N = total_N + preset["mixed_sequences"] * _draw(preset, "mixed_tokens") * 3.0 * per_token
    return total_N


def _gpu_hours(preset: Mapping[str, Any], overhead: Any) -> Array:
    """The stage's bill at central values, and the draws of what is not known. (N,)"""
    own = domain("math").with_facts(
        {key: _middle(preset[key]) for key in ("prompt_tokens", "response_tokens")}
        | {"max_response_tokens": int(preset["max_response_tokens"])},
        source="preset",
    )
    amounts = Amounts(
        steps=round(_middle(preset["steps"])),
        prompts_per_step=round(_middle(preset["sequences"])),
        learning_rate=1e-6,
    )
    machine = Machine(model=model(preset["shape"]), gpu=gpu(preset["gpu"]))
    found = bill(_stage(preset), amounts, {"run": replace(own, name="run")}, machine, gpus=preset["gpus"])
    length_N = _draw(preset, "response_tokens") / _middle(preset["response_tokens"])
    error_N = standard_normal(f"{preset['model']}:time_model", SEED, DRAWS)
    hours_N = found.seconds_at(length_N, error_N) * found.gpus / 3600
    for key in ("steps", "sequences"):
        hours_N = hours_N * _draw(preset, key) / _middle(preset[key])
    return hours_N * _draw({**preset, "overhead": overhead}, "overhead")


def _stage(preset: Mapping[str, Any]) -> Rl | Sft:
    if preset["kind"] == "sft":
        return Sft(name="run", domains={"run": 1.0})
    return Rl(
        name="run",
        domains={"run": 1.0},
        kl_coefficient=0.001 if preset.get("reference") else 0.0,
        updates_per_batch=2,
        zero_signal="keep",
    )


def _middle(value: Any) -> float:
    """A published number, or the geometric middle of P10 and P90."""
    return math.sqrt(value[0] * value[1]) if isinstance(value, list) else float(value)


def _draw(preset: Mapping[str, Any], key: str) -> Array:
    value = preset[key]
    spread = math.log(value[1] / value[0]) / (2 * P90) if isinstance(value, list) else 0.0
    estimate = Estimate(value=_middle(value), sd=spread, grade="prior", source=preset["source"])
    return sample(estimate, "lognormal", f"{preset['model']}:{preset['stage']}:{key}", seed=SEED, draws=DRAWS)


def _presets() -> tuple[dict[tuple[str, str], dict[str, Any]], Any]:
    text = files("mopdsim").joinpath("data", "project_presets.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return {(run["model"], run["stage"]): run for run in table["run"]}, table["overhead"]


def _measured(row: Mapping[str, str]) -> float | None:
    """GPU-hours, or FLOPs where the details give petaflop/s-days."""
    if row["gpu_hours"]:
        try:
            hours = float(row["gpu_hours"])
        except ValueError:
            raise UsageError(f"gpu_hours {row['gpu_hours']!r} of {row['model']}: must be a number") from None
        if not (math.isfinite(hours) and hours > 0):
            raise UsageError(f"gpu_hours {hours:g} of {row['model']}: must be above 0")
        return hours
    found = re.search(r"([\d.]+) petaflop/s-days", row["details"])
    return float(found.group(1)) * _PETAFLOP_DAY if found else None
