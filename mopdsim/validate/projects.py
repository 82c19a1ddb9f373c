"""Whole published runs against the cost model: GPU-hours, or FLOPs, from presets with ranges for what nobody
states.

The amounts of the presets (`data/project_presets.toml`) were written before the comparison and carry a source each;
documented mechanisms (packing, sharding) were added after it. Every unknown is a lognormal through its P10 and P90;
the time model's own error, the stack's factor (fitted without the project that is judged) and a project's overhead are
drawn as well. Totals of the published systems are those of their forecasts (`mopdsim.validate.totals`). `widened` adds
one log spread for all runs, estimated without the run that is judged.
Leaves out: rows of the table without a measured total or without a preset (listed as incomplete); evaluation, which
is inside the overhead.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.documents import DATA, number
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import sample, standard_normal, uniform
from mopdsim.cost.constants import DecodeConstants, RlConstants, Stack, TrainConstants, shipped, stack
from mopdsim.cost.generation import Lengths, Replica, fastest_replica
from mopdsim.cost.rlstep import RlStep, rl_step_s
from mopdsim.cost.training import (
    TrainLayout,
    Update,
    fitting_training_layouts,
    train_step_s,
    training_constants,
)
from mopdsim.facts.domains import P90, Estimate
from mopdsim.facts.hardware import Gpu, gpu
from mopdsim.facts.layers import Model
from mopdsim.facts.model import model
from mopdsim.forecast.forecast import QUANTILES
from mopdsim.forecast.stage_draws import project_overhead
from mopdsim.recipes.published import system
from mopdsim.validate import totals
from mopdsim.validate.intervals import errors_of, judged, summary
from mopdsim.validate.tables import published, read_rows

COLUMNS = ("model", "stage", "gpu", "gpu_hours", "details")
DRAWS, SEED = 4000, 0
LENGTH_SIGMA = 0.6  # prior: as of the domains


def validate(path: Path | None = None) -> dict[str, Any]:
    """The report: P10 to P90 of every run with a preset, coverage, and the median width P90 / P10."""
    known = presets()
    systems = {
        (system(row["system"]).title, row["stages"][-1]): row for row in totals.validate()["predictions"]
    }
    predictions, incomplete = [], []
    for line, row in read_rows(path or published("project_totals"), COLUMNS):
        label = {"line": line, "model": row["model"], "stage": row["stage"]}
        measured = measured_total(row)
        key = row["model"], row["stage"]
        preset, of_system = known.get(key), systems.get(key)
        if measured is None:
            incomplete.append({**label, "reason": "no total is published"})
        elif of_system is not None:
            predictions.append({**label, **_as_project(of_system)})
        elif preset is None:
            incomplete.append({**label, "reason": "steps or lengths are not published: no preset"})
        else:
            predictions.append({**label, **_judge(preset, measured)})
    if not predictions:
        raise UsageError("no row has both a measured total and a preset")
    return {
        "kind": "project_totals",
        "rows": len(predictions),
        "incomplete": incomplete,
        "coverage_80": float(np.mean([found["inside_80"] for found in predictions])),
        "median_ratio": float(np.median([found["p50"] / found["measured"] for found in predictions])),
        "median_width": float(np.median([found["p90"] / found["p10"] for found in predictions])),
        "interval_score": summary(predictions)["interval_score"],
        **errors_of([found["error"] for found in predictions]),
        "widened": _widened(predictions),
        "predictions": predictions,
    }


def _as_project(row: Mapping[str, Any]) -> dict[str, Any]:
    """A published system's row as one of this report: what it assumes is named figure by figure."""
    figures = system(row["system"]).figures.values()
    kept = {key: row[key] for key in ("unit", *QUANTILES, "measured", "inside_80", "error", "source")}
    return {**kept, "assumed": [figure.path for figure in figures if figure.grade == "assumed"]}


def _judge(preset: Mapping[str, Any], measured: float) -> dict[str, Any]:
    if preset["kind"] == "flops":
        drawn_N = _flops(preset)
    else:
        drawn_N = gpu_hours(preset, stack(preset["stack"], without=preset["project"]))
    return {
        "unit": "flop" if preset["kind"] == "flops" else "gpu_hours",
        **judged(drawn_N, measured),
        "source": preset["source"],
        "assumed": preset["assumed"],
    }


def shared_log_sd(log_errors: Array, own_log_sds: Array) -> float:
    """The spread t that makes errors of N(0, own^2 + t^2) most likely, on a grid of hundredths up to 3."""
    grid_T = np.linspace(0.0, 3.0, 301)
    variance_TR = own_log_sds**2 + grid_T[:, None] ** 2
    likelihood_T = -(np.log(variance_TR) + log_errors**2 / variance_TR).sum(axis=1)
    return float(grid_T[np.argmax(likelihood_T)])


def _widened(predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coverage and width when every run's interval also carries the spread that the other runs show."""
    errors = np.array([math.log(found["measured"] / found["p50"]) for found in predictions])
    own = np.array([math.log(found["p90"] / found["p10"]) / (2 * P90) for found in predictions])
    others = ~np.eye(len(errors), dtype=bool)
    added = np.array([shared_log_sd(errors[rest], own[rest]) if rest.any() else 0.0 for rest in others])
    total = np.hypot(own, added)
    return {
        "log_sd": shared_log_sd(errors, own),
        "log_sd_without_each": [round(float(value), 2) for value in added],
        "coverage_80": float(np.mean(np.abs(errors) <= P90 * total)),
        "median_width": float(np.median(np.exp(2 * P90 * total))),
    }


def _flops(preset: Mapping[str, Any]) -> Array:
    """Forward passes over the sequences, `passes` each; where nobody says whether sequences are packed or padded to the
    `window`, half of the draws are padded. (N,)"""
    per_token = model(preset["shape"]).forward_flops([1000.0]) / 1000.0
    tokens_N = _draw(preset, "tokens")
    if "window" in preset:
        padded_N = uniform(f"{preset['model']}:{preset['stage']}:padded", SEED, DRAWS) < 0.5
        tokens_N = np.where(padded_N, preset["window"], tokens_N)
    return np.asarray(preset["sequences"] * tokens_N * preset["passes"] * per_token)


def gpu_hours(preset: Mapping[str, Any], software: Stack) -> Array:
    """The run at central values on a stack, and the draws of what is not known. (N,)"""
    seconds = _step_seconds(preset, software, 1.0)
    power = math.log2(_step_seconds(preset, software, 2.0) / seconds)
    shape, card = model(preset["shape"]), gpu(preset["gpu"])
    fitted = shipped()["train_throughput" if preset["kind"] == "sft" else "rl_steps"]
    width = fitted.half_width(moe=shape.is_moe, model=shape.name, gpu=card.name)
    log_sd = math.hypot(width / P90, software.log_sd)
    length_N = _draw(preset, "response_tokens") / _middle(preset["response_tokens"])
    noise_N = log_sd * standard_normal(f"{preset['model']}:time_model", SEED, DRAWS)
    hours_N = seconds * length_N**power * np.exp(software.log_bias + noise_N) * preset["gpus"] / 3600
    hours_N = hours_N * _draw(preset, "steps") * _draw(preset, "sequences") / _middle(preset["sequences"])
    return hours_N * project_overhead(SEED, DRAWS)


def _step_seconds(preset: Mapping[str, Any], software: Stack, relative_length: float) -> float:
    """Seconds of one step at central values, responses `relative_length` times as long."""
    shape, card, gpus = model(preset["shape"]), gpu(preset["gpu"]), preset["gpus"]
    prompt, response = _middle(preset["prompt_tokens"]), relative_length * _middle(preset["response_tokens"])
    longest = max(float(preset["max_response_tokens"]), 2 * response if relative_length > 1 else 0.0)
    lengths = Lengths(mean=response, maximum=longest, sigma=LENGTH_SIGMA)
    layout = _layout(preset, shape, card, prompt + longest)
    sequences = _middle(preset["sequences"])
    if preset["kind"] == "sft":
        whole = Lengths(mean=prompt + response, maximum=prompt + longest, sigma=LENGTH_SIGMA)
        packed_to = whole.maximum if preset.get("packed", True) else 0.0
        update = Update(sequences=sequences, lengths=whole, packed_to=packed_to)
        return float(train_step_s(update.work(shape, card, layout), training_constants(software)))
    step = RlStep(
        model=shape,
        gpu=card,
        replica=fastest_replica(shape, card, gpus, sequences, prompt, lengths, Replica())[0],
        generation_gpus=gpus,
        layout=layout,
        samples=sequences,
        lengths=lengths,
        prompt_length=prompt,
        scoring_passes=1.0 + bool(preset.get("reference")),
    )
    rl = replace(RlConstants.shipped(), length_sigma=LENGTH_SIGMA)
    return float(rl_step_s(step, DecodeConstants.shipped(), TrainConstants.shipped(), rl).step)


def _layout(preset: Mapping[str, Any], shape: Model, card: Gpu, longest: float) -> TrainLayout:
    """Fully sharded where the source says so, the smallest that trains otherwise."""
    if preset.get("fully_sharded"):
        return TrainLayout(gpus=preset["gpus"], fully_sharded=True, recompute=preset.get("recompute", False))
    return fitting_training_layouts(shape, card, preset["gpus"], length=longest).at(0)


def _middle(value: Any) -> float:
    """A published number, or the geometric middle of P10 and P90."""
    return math.sqrt(value[0] * value[1]) if isinstance(value, list) else float(value)


def _draw(preset: Mapping[str, Any], key: str) -> Array:
    value = preset[key]
    ends = value if isinstance(value, list) else (value, value)
    estimate = Estimate.times(*ends, grade="prior", source=preset["source"])
    return sample(estimate, "lognormal", f"{preset['model']}:{preset['stage']}:{key}", seed=SEED, draws=DRAWS)


def presets() -> dict[tuple[str, str], dict[str, Any]]:
    """Every run's preset by (model, stage)."""
    text = (DATA / "project_presets.toml").read_text(encoding="utf-8")
    return {(run["model"], run["stage"]): run for run in tomllib.loads(text)["run"]}


def measured_total(row: Mapping[str, str]) -> float | None:
    """GPU-hours, or FLOPs where the details give petaflop/s-days."""
    if row["gpu_hours"]:
        try:
            hours = float(row["gpu_hours"])
        except ValueError:
            raise UsageError(f"gpu_hours {row['gpu_hours']!r} of {row['model']}: must be a number") from None
        number(hours, f"gpu_hours of {row['model']}", least=1e-6, most=1e15)
        return hours
    found = re.search(r"(\d+(?:\.\d+)?) petaflop/s-days", row["details"])
    return float(found.group(1)) * totals.PETAFLOP_DAY if found else None
