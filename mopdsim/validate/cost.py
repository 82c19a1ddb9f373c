"""Predicted against measured: `validate(kind, path)` for decode, train_throughput and rl_steps tables.

Headline numbers are out of sample: a row of a model the constants were fitted on is predicted by constants
fitted without it (training, RL steps) or without half of the model x GPU x backend groups, its own included
(decode). All leave-out schemes and the in-sample figure stand under `schemes`. Seconds per output token
(decode), seconds per token and GPU (training), seconds per step (RL).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.cost.constants import NORMAL_80, ConstantSet, Fitted, HeldOut, shipped
from mopdsim.forecast.forecast import quantiles
from mopdsim.validate import decode_rows, rl_rows, train_rows
from mopdsim.validate.effects import largest_errors
from mopdsim.validate.intervals import errors_of, lognormal, summary
from mopdsim.validate.tables import Row, Table, published

LOADERS: dict[str, ModuleType] = {"decode": decode_rows, "train_throughput": train_rows, "rl_steps": rl_rows}
# The scheme whose out-of-sample predictions are the headline of each kind.
HEADLINE = {
    "decode": "half of the groups, 0",
    "train_throughput": "leave one model out",
    "rl_steps": "leave one model out",
}
CLEAR_DIFFERENCE = 0.10
# Quantiles of a standard normal at the middles of 20 equal slices.
NORMAL_GRID = np.array([0.0627, 0.1891, 0.3186, 0.4538, 0.5978, 0.7554, 0.9346, 1.1503, 1.4395, 1.9600])
NORMAL_GRID = np.concatenate([-NORMAL_GRID[::-1], NORMAL_GRID])


def symmetric_error(predicted: Array, measured: Array) -> Array:
    """max(p/m, m/p) - 1: twice too slow and twice too fast are equally wrong."""
    return np.maximum(predicted / measured, measured / predicted) - 1.0


def _summary(errors: Array) -> dict[str, Any]:
    if not len(errors):
        return {"rows": 0, "median_error": None, "p90_error": None}
    return {"rows": len(errors), **{name: round(value, 4) for name, value in errors_of(errors).items()}}


def _by(key: str, rows: list[Row], errors: Array) -> dict[str, dict[str, Any]]:
    """Summary per value of a key, or by sort (dense, moe); rows without the key are skipped."""
    names = [("moe" if row.moe else "dense") if key == "sort" else row.keys.get(key) for row in rows]
    found = sorted({name for name in names if name is not None})
    return {label: _summary(errors[[name == label for name in names]]) for label in found}


def _part_of(row: Row, parts: Mapping[str, HeldOut]) -> HeldOut | None:
    return next((part for part in parts.values() if row.keys.get(part.key) in part.values), None)


def _predict(rows: list[Row], sets: list[ConstantSet], loader: ModuleType) -> Array:
    """Each row by its own constants; rows of one set are predicted together."""
    predicted = np.empty(len(rows))
    for constants in {id(c): c for c in sets}.values():
        chosen = [i for i, c in enumerate(sets) if c is constants]
        predicted[chosen] = loader.predict(loader.stacked([rows[i] for i in chosen]), constants)
    return predicted


def _schemes(rows: list[Row], measured: Array, fitted: Fitted, loader: ModuleType) -> dict[str, Any]:
    """Errors in sample and under every leave-out scheme, over the rows whose part was really left out."""
    found: dict[str, Any] = {}
    known = [i for i, row in enumerate(rows) if row.keys["model"] in fitted.models]
    whole = _predict(rows, [fitted.constants] * len(rows), loader) if rows else np.array([])
    errors = symmetric_error(whole, measured)
    found["shipped constants, models they were fitted on (in sample)"] = _summary(errors[known])
    unknown = [i for i in range(len(rows)) if i not in set(known)]
    found["shipped constants, models they never saw"] = _summary(errors[unknown])
    for scheme, parts in fitted.held_out.items():
        matched = [(i, part) for i, row in enumerate(rows) if (part := _part_of(row, parts)) is not None]
        if not matched:
            continue
        chosen = [rows[i] for i, _ in matched]
        predicted = _predict(chosen, [part.constants for _, part in matched], loader)
        told = measured[[i for i, _ in matched]]
        wrong = symmetric_error(predicted, told)
        widths = np.array([part.log_error_80["moe" if rows[i].moe else "dense"] for i, part in matched])
        found[scheme] = {
            **_summary(wrong),
            "coverage_80": round(float(np.mean(np.abs(np.log(predicted / told)) <= widths)), 4),
            "by_sort": _by("sort", chosen, wrong),
            "by_suite": _by("suite", chosen, wrong),
            "by_left_out": _by(matched[0][1].key, chosen, wrong),
        }
    return found


def _headline(
    rows: list[Row], kind: str, fitted: Fitted, loader: ModuleType
) -> tuple[Array, Array, list[str]]:
    """Out-of-sample prediction, log half-width of the 80% interval, and which constants made it, per row."""
    parts = fitted.held_out.get(HEADLINE[kind], {})
    sets, widths, basis = [], [], []
    for row in rows:
        part = _part_of(row, parts)
        sets.append(part.constants if part else fitted.constants)
        width = fitted.half_width(moe=row.moe, model=row.keys["model"], gpu=row.keys["gpu"])
        if part:
            width = part.log_error_80["moe" if row.moe else "dense"]
        widths.append(NORMAL_80 * float(np.hypot(width / NORMAL_80, row.extra_log_sd)))
        basis.append(HEADLINE[kind] if part else "shipped constants")
    return _predict(rows, sets, loader) if rows else np.array([]), np.array(widths), basis


def noise_floor(rows: list[Row]) -> dict[str, Any]:
    """How far measurements of one configuration differ among themselves: pairs of rows, symmetric error."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row.measured)
    pairs = [max(a / b, b / a) - 1.0 for values in groups.values() for a, b in combinations(values, 2)]
    return {"pairs": len(pairs), **{k: v for k, v in _summary(np.array(pairs)).items() if k != "rows"}}


def directions(rows: list[Row], predicted: Array) -> dict[str, Any]:
    """Pairs of one framework release whose measured steps differ by more than 10%: is the faster one told
    right?"""
    pairs, misses = 0, []
    for (a, p), (b, q) in combinations(list(zip(rows, predicted, strict=True)), 2):
        if a.keys.get("framework") != b.keys.get("framework"):
            continue
        if max(a.measured / b.measured, b.measured / a.measured) - 1.0 <= CLEAR_DIFFERENCE:
            continue
        pairs += 1
        if (a.measured < b.measured) != (p < q):
            misses.append(
                f"{a.label} ({a.measured:.0f} s, predicted {p:.0f}) and {b.label} "
                f"({b.measured:.0f} s, predicted {q:.0f})"
            )
    return {"pairs": pairs, "right": pairs - len(misses), "misses": misses}


def _incomplete(table: Table, fitted: Fitted, loader: ModuleType) -> list[dict[str, Any]]:
    """Rows that lack an input: P10, P50 and P90 over the stated spread of it, the equations' own error
    included."""
    found = []
    for known, row in table.incomplete:
        framework = {"framework": row.keys["framework"]} if "framework" in row.keys else {}
        measured = float(row.measured) if np.isfinite(row.measured) else None
        shown = {**known, **framework, "missing": list(row.missing), "measured": measured}
        if row.payload is not None:
            width = fitted.half_width(moe=row.moe, model=row.keys["model"], gpu=row.keys["gpu"])
            sd = np.hypot(width / NORMAL_80, row.extra_log_sd)
            predicted = loader.predict(row.payload, fitted.constants)
            cloud = np.outer(predicted, np.exp(sd * NORMAL_GRID))
            shown |= quantiles(cloud)
        found.append(shown)
    return found


def _covered(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Of the incomplete rows with a measurement, how many lie between P10 and P90."""
    judged = [entry for entry in entries if entry.get("measured") and "p10" in entry]
    return {"judged": len(judged), "inside": sum(e["p10"] <= e["measured"] <= e["p90"] for e in judged)}


def _report(kind: str, table: Table, fitted: Fitted, loader: ModuleType) -> dict[str, Any]:
    """The report of one table against the fitted constants; `predictions` holds a row per complete measurement."""
    rows = table.rows
    measured = np.array([row.measured for row in rows])
    predicted, widths, basis = _headline(rows, kind, fitted, loader)
    errors = symmetric_error(predicted, measured)
    inside = np.abs(np.log(predicted / measured)) <= widths
    naive = symmetric_error(loader.naive(loader.stacked(rows)), measured) if rows else np.array([])
    head = _summary(errors)
    incomplete = _incomplete(table, fitted, loader)
    intervals = summary(
        [
            {**lognormal(p, w), "measured": m, "inside_80": held}
            for p, w, m, held in zip(predicted, widths, measured, inside, strict=True)
        ]
    )
    document = {
        "kind": kind,
        "rows": len(rows),
        "median_error": head["median_error"],
        "p90_error": head["p90_error"],
        **intervals,
        "naive_median_error": _summary(naive)["median_error"],
        "basis": {name: basis.count(name) for name in sorted(set(basis))},
        "by_sort": _by("sort", rows, errors),
        "naive_by_sort": _by("sort", rows, naive),
        "by_suite": _by("suite", rows, errors),
        "by_model": _by("model", rows, errors),
        "by_gpu": _by("gpu", rows, errors),
        "noise_floor": noise_floor(rows),
        "schemes": _schemes(rows, measured, fitted, loader),
        "largest_errors": largest_errors(rows, predicted, fitted.constants, loader),
        "constants": {"grade": fitted.grade, "provenance": fitted.provenance},
        "incomplete": incomplete,
        "incomplete_coverage_80": _covered(incomplete),
        "unknown": table.unknown,
        "refused": table.refused,
        "left_out": len(table.left_out),
        "predictions": [
            {
                "line": row.line,
                "row": row.label,
                "model": row.keys["model"],
                "gpu": row.keys["gpu"],
                "measured": float(row.measured),
                "predicted": float(p),
                "low": float(p * np.exp(-w)),
                "high": float(p * np.exp(w)),
                "error": round(float(e), 4),
                "basis": b,
            }
            for row, p, w, e, b in zip(rows, predicted, widths, errors, basis, strict=True)
        ],
    }
    if kind == "rl_steps":
        document["directions"] = directions(rows, predicted)
    return document


def validate(kind: str, data: Path | None = None, *, fitted: Fitted | None = None) -> dict[str, Any]:
    """Report of a table (the shipped one without `data`) against the fitted constants (the shipped ones)."""
    loader = LOADERS[kind]
    table = loader.load(published(kind) if data is None else data)
    return _report(kind, table, fitted or shipped()[kind], loader)
