"""Fits the constants of the time models to tables of measurements, and measures how well they carry over.

Maximum a posteriori: a robust (soft-L1) loss on the log error plus a lognormal prior on each constant around
its textbook value, so that a constant no row speaks about stays there instead of drifting. Every fit is
repeated with each model, GPU, family, framework and half of the groups left out; those constants are kept, so that
validation never judges a row by constants that saw its model. Needs scipy; the forecast never imports this
file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from mopdsim.base.arrays import Array
from mopdsim.base.documents import DATA
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import KINDS, ConstantSet
from mopdsim.validate.cost import LOADERS
from mopdsim.validate.tables import Row

# Prior standard deviation of the log of each constant, around the default of its class.
PRIOR_SD: dict[str, dict[str, float]] = {
    "decode": {
        "bandwidth_efficiency": 0.3, "flops_efficiency": 0.7, "prefill_efficiency": 0.5, "layer_s": 0.7,
        "moe_layer_s": 0.7, "reduce_latency_s": 0.7, "reduce_bytes": 0.7, "sequence_s": 0.7,
        "wide_layer_s": 0.7, "cross_node_s": 0.7,
    },
    "train_throughput": {
        "flops_efficiency": 0.3, "precision_power": 0.3, "attention_efficiency": 0.5, "expert_overhead": 0.5,
        "elementwise_passes": 0.7, "tensor_traffic": 0.5, "data_traffic": 0.7,
        "microbatch_layer_s": 0.5,
    },
    "rl_steps": {
        "decode_overhead": 0.4, "train_overhead": 0.3, "expert_train_overhead": 0.3, "length_sigma": 0.3,
        "fixed_s": 0.3, "refit_s": 0.15, "cross_node_s": 0.5, "faster_gpu_power": 0.5, "microbatch_overhead": 0.5,
        "version_nemo_rl_v0_4": 0.15, "version_nemo_rl_v0_5": 0.15, "version_nemo_rl_v0_6": 0.15,
    },
}  # fmt: skip
NOISE = {"decode": 0.15, "train_throughput": 0.12, "rl_steps": 0.10}
HALVINGS = 4
COVERAGE = 0.8
FEWEST_ROWS = 30
PINNED_SD = 1e-6
SCHEMA = 1  # of a constants file


@dataclass(frozen=True)
class Fit:
    """Constants and the covariance of their logarithms (Laplace approximation at the optimum)."""

    constants: ConstantSet
    log_covariance: Array


def _soft(residual: Array) -> Array:
    """Signed square root of twice the soft-L1 loss, so that least squares minimises it."""
    return np.sign(residual) * np.sqrt(2 * (np.sqrt(1 + residual**2) - 1))


def fit(kind: str, rows: list[Row], loader: ModuleType, *, pinned: Mapping[str, float] | None = None) -> Fit:
    """Constants of `kind` for these rows; the prior alone where there are none. `pinned`: those that keep a value."""
    cls = KINDS[kind]
    prior, sd = cls().log(), np.array([PRIOR_SD[kind][name] for name in cls.names()])
    for name, value in (pinned or {}).items():
        place = cls.names().index(name)
        prior[place], sd[place] = math.log(value), PINNED_SD
    if not rows:
        return Fit(cls(), np.diag(sd**2))
    work, measured = loader.stacked(rows), np.log([row.measured for row in rows])

    def residual(log_constants: Array) -> Array:
        predicted = loader.predict(work, cls.from_log(log_constants))
        return np.concatenate(
            [_soft((np.log(predicted) - measured) / NOISE[kind]), (log_constants - prior) / sd]
        )

    found = least_squares(residual, prior, x_scale=sd)
    jacobian = np.asarray(found.jac)
    return Fit(cls.from_log(found.x), np.linalg.inv(jacobian.T @ jacobian))


@dataclass(frozen=True)
class Part:
    """What one refit leaves out: rows whose `key` is one of `values`."""

    scheme: str
    name: str
    key: str
    values: tuple[str, ...]

    def holds(self, row: Row) -> bool:
        return row.keys.get(self.key) in self.values


def parts(rows: list[Row]) -> Iterator[Part]:
    """Every part to leave out in turn: each model, GPU, family, framework release, and halves of the groups."""
    schemes = {
        "model": "leave one model out",
        "gpu": "leave one GPU out",
        "family": "leave one family out",
        "framework": "leave one framework out",
    }
    for key, scheme in schemes.items():
        names = sorted({row.keys[key] for row in rows if key in row.keys})
        for name in names if len(names) > 1 else ():
            yield Part(scheme, name, key, (name,))
    groups = sorted({row.keys["group"] for row in rows if "group" in row.keys})
    for seed in range(HALVINGS if len(groups) > 3 else 0):
        order = np.random.default_rng(seed).permutation(groups).tolist()
        middle = len(order) // 2
        yield Part(f"half of the groups, {seed}", "first", "group", tuple(sorted(order[:middle])))
        yield Part(f"half of the groups, {seed}", "second", "group", tuple(sorted(order[middle:])))


def half_width(log_errors: Array) -> float:
    """Half-width that covers 80% of these errors, with the finite-sample correction of conformal
    prediction."""
    errors = np.sort(np.abs(log_errors))
    rank = min(int(np.ceil((len(errors) + 1) * COVERAGE)), len(errors)) - 1
    return float(f"{errors[rank]:.4g}")


def _half_widths(rows: list[Row], errors: dict[int, float]) -> dict[str, float]:
    """By dense and moe where each has enough rows, pooled otherwise."""
    widths = {}
    for sort, moe in (("dense", False), ("moe", True)):
        chosen = [errors[row.line] for row in rows if row.moe == moe and row.line in errors]
        widths[sort] = half_width(np.array(chosen if len(chosen) >= FEWEST_ROWS else list(errors.values())))
    return widths


def _interval_table(
    rows: list[Row], seen: dict[int, float], left_out: Mapping[str, dict[int, float]]
) -> dict[str, dict[str, float]]:
    """80% half-widths for seen models and GPUs, a new model, a new GPU; never narrower than what was seen.
    Where the table has no second model or GPU to leave out, twice the variance of the next best case is
    taken. seen, left_out: log errors by line, in sample and of each scheme.
    """
    table = {sort: {"seen": width} for sort, width in _half_widths(rows, seen).items()}
    for name, scheme in (("new model", "leave one model out"), ("new gpu", "leave one GPU out")):
        widths = _half_widths(rows, left_out[scheme]) if scheme in left_out else {}
        for sort, known in table.items():
            wider = round(math.sqrt(2) * max(known.values()), 4)
            known[name] = max(widths.get(sort, wider), known["seen"])
    return table


def calibrate(kind: str, path: Path) -> dict[str, Any]:
    """The kind's entry of a constants file, fitted to the table at `path`, with every left-out fit beside
    it."""
    loader = LOADERS[kind]
    rows: list[Row] = loader.load(path).rows
    if len(rows) < len(KINDS[kind].names()):
        raise UsageError(
            f"{str(path)!r} has {len(rows)} complete rows; {kind} needs at least {len(KINDS[kind].names())}, "
            "one per constant."
        )

    def log_errors(constants: ConstantSet, chosen: list[Row]) -> dict[int, float]:
        predicted = loader.predict(loader.stacked(chosen), constants)
        return {row.line: float(np.log(p / row.measured)) for row, p in zip(chosen, predicted, strict=True)}

    whole = fit(kind, rows, loader)
    left_out: dict[str, dict[int, float]] = {}
    fits: list[tuple[Part, ConstantSet]] = []
    for part in parts(rows):
        kept = fit(kind, [row for row in rows if not part.holds(row)], loader).constants
        fits.append((part, kept))
        own = log_errors(kept, [row for row in rows if part.holds(row)])
        left_out.setdefault(part.scheme, {}).update(own)
    held_out: dict[str, dict[str, Any]] = {}
    lines = {row.line: row for row in rows}
    for part, kept in fits:
        errors = left_out[part.scheme].items()
        held_out.setdefault(part.scheme, {})[part.name] = {
            "key": part.key,
            "values": list(part.values),
            "constants": _plain(kept),
            "log_error_80": _half_widths(
                rows, {line: error for line, error in errors if not part.holds(lines[line])}
            ),
        }
    return {
        "grade": "fitted",
        "provenance": f"{len(rows)} rows of {path.name}",
        "constants": _plain(whole.constants),
        "log_covariance": [[float(f"{value:.4g}") for value in row] for row in whole.log_covariance],
        "log_error_80": _interval_table(rows, log_errors(whole.constants, rows), left_out),
        "models": sorted({row.keys["model"] for row in rows}),
        "gpus": sorted({row.keys["gpu"] for row in rows}),
        "groups": sorted({row.keys["group"] for row in rows if "group" in row.keys}),
        "held_out": held_out,
    }


def _plain(constants: ConstantSet) -> dict[str, float]:
    return {name: float(f"{getattr(constants, name):.6g}") for name in constants.names()}


def constants_document(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A constants file with this kind's entry and the other kinds of the shipped one."""
    kinds = json.loads((DATA / "cost_constants.json").read_text(encoding="utf-8"))["kinds"]
    return {"schema": SCHEMA, "kinds": kinds | {kind: entry}}
