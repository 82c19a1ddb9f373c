"""A stack measured on its own steps: what a few rows say of the factor on all seconds, and whether it holds.

    f ~ N(b, s^2)                   b, s: the stack that is named, or any (`mopdsim.cost.constants`)
    ln(measured_i / forecast_i) = f + e_i,    e_i ~ N(0, v_i^2)

v_i: the time model's own error, and the spread of what the row does not say. One row already narrows f to about v; rows
that scatter more than v widen it. Columns are those of `rl_steps.csv` or `train_throughput.csv`.
Leaves out: factors by phase, and the constants of the time model (`mopdsim.fit.cost`), which need many rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import (
    MEASURED_SCHEMA,
    NORMAL_80,
    UNKNOWN,
    Fitted,
    RlConstants,
    Stack,
    shipped,
    stack,
)
from mopdsim.validate import rl_rows, train_rows
from mopdsim.validate.intervals import held, lognormal, summary
from mopdsim.validate.tables import Row, called

KINDS: Mapping[str, ModuleType] = {"rl_steps": rl_rows, "train_throughput": train_rows}
FAR = 100.0  # times off: more likely another unit than another speed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what was measured, what the time model says without any factor, and the log spread v of that."""

    label: str
    seconds: float
    forecast: float
    log_sd: float

    @property
    def residual(self) -> float:
        return math.log(self.seconds / self.forecast)


def rows_of(kind: str, data: Path | str) -> list[Measured]:
    """Every row of a CSV file, or of its text, that can be forecast, incomplete ones too. UsageError where there is
    none, or where one is so far off that its unit must be another."""
    return _sorted(kind, data)[0]


def _sorted(kind: str, data: Path | str) -> tuple[list[Measured], list[str]]:
    """The rows that can be forecast, and why others cannot."""
    loader, fitted = KINDS[kind], shipped()[kind]
    found_table = loader.load(data)
    rows = [*found_table.rows, *(row for _, row in found_table.incomplete)]
    found = [
        _beside(kind, row, fitted) for row in rows if row.payload is not None and np.isfinite(row.measured)
    ]
    reasons = [
        f"line {entry['line']}: {entry['reason'].removeprefix('line {}: '.format(entry['line']))}"
        for entry in (*found_table.unknown, *found_table.refused)
    ]
    if not found:
        why = f": {reasons[0]}" if reasons else ""
        raise UsageError(f"{called(data)} has no row that can be forecast{why}")
    for row in found:
        if not 1 / FAR < row.seconds / row.forecast < FAR:
            raise UsageError(
                f"{called(data)}: {row.label}: measured {row.seconds:.3g} s where {row.forecast:.3g} s are "
                "forecast; that is another unit: give seconds, not milliseconds or hours"
            )
    return found, reasons


def _without_factor(kind: str, payload: Any) -> Any:
    """Seconds of the time model alone, no release's and no stack's factor."""
    if kind == "train_throughput":
        return train_rows.predict(payload, train_rows.TrainConstants.shipped())
    steps = payload if isinstance(payload, list) else [payload]
    steps = [replace(step, framework="any") for step in steps]
    return rl_rows.predict(steps, RlConstants.shipped(), factor=False)


def _half_width(fitted: Fitted, moe: bool, model: str, gpu: str) -> float:
    """Of the time model's log error on a stack that it was not fitted to: as on a model that it has not seen."""
    known = fitted.half_width(moe=moe, model=model, gpu=gpu)
    return max(known, fitted.log_error_80["moe" if moe else "dense"]["new model"])


def _beside(kind: str, row: Row, fitted: Fitted) -> Measured:
    """A row and the time model's word on it, over the draws of what an incomplete one does not say."""
    width = _half_width(fitted, row.moe, row.keys["model"], row.keys["gpu"])
    logs = np.log(_without_factor(kind, row.payload))
    return Measured(
        label=row.label or f"line {row.line} (without {', '.join(row.missing)})",
        seconds=float(row.measured),
        forecast=float(np.exp(np.median(logs))),
        log_sd=math.hypot(width / NORMAL_80, float(logs.std())),
    )


def factor(rows: Sequence[Measured], prior: Stack) -> tuple[float, float]:
    """Mean and spread of the log factor after these rows; the prior's where there are none."""
    if not rows:
        return prior.log_bias, prior.log_sd
    residuals = np.array([row.residual for row in rows])
    variances = np.array([row.log_sd**2 for row in rows])
    middle = np.average(residuals, weights=1 / variances)
    scatter = float(((residuals - middle) ** 2 / variances).sum() / max(len(rows) - 1, 1))
    variances = variances * max(scatter, 1.0)
    precision = 1 / prior.log_sd**2 + float((1 / variances).sum())
    mean = (prior.log_bias / prior.log_sd**2 + float((residuals / variances).sum())) / precision
    return mean, math.sqrt(1 / precision)


def document(kind: str, path: Path, *, name: str = UNKNOWN) -> dict[str, Any]:
    """The file of a measured stack: its factor, what it was made of, the rows that say nothing and why, and the same
    rows before and after."""
    rows, left_out = _sorted(kind, path)
    about = {"left_out": left_out, "data": path.name}
    return {**stack_document(rows, name), **about, **before_and_after(rows, stack(name))}


def stack_document(rows: Sequence[Measured], name: str) -> dict[str, Any]:
    """What `--measured` reads: the factor of a stack that these rows show, and the rows."""
    log_bias, log_sd = factor(rows, stack(name))
    return {
        "schema_version": MEASURED_SCHEMA,
        "stack": name,
        "log_bias": round(log_bias, 4),
        "log_sd": round(log_sd, 4),
        "made_of": [
            {"row": row.label, "measured": row.seconds, "without_factor": row.forecast} for row in rows
        ],
    }


def before_and_after(rows: Sequence[Measured], prior: Stack) -> dict[str, Any]:
    """Coverage, ratio, width and interval score of the rows under the stack's own factor, and under the one measured on
    the other rows (of one row alone: on itself)."""
    before = [_told(row, prior.log_bias, prior.log_sd) for row in rows]
    others = [[other for other in rows if other is not row] or list(rows) for row in rows]
    after = [_told(row, *factor(rest, prior)) for row, rest in zip(rows, others, strict=True)]
    return {"before": summary(before), "after": summary(after)}


def before_and_after_of(kind: str, path: Path) -> dict[str, Any]:
    """The same for a table's rows on any stack; empty where none can be forecast."""
    try:
        return before_and_after(rows_of(kind, path), stack(UNKNOWN))
    except UsageError:
        return {}


def _told(row: Measured, log_bias: float, log_sd: float) -> dict[str, Any]:
    told = lognormal(row.forecast * math.exp(log_bias), NORMAL_80 * math.hypot(log_sd, row.log_sd))
    return {**told, "measured": row.seconds, "inside_80": held(told, row.seconds)}


def text(found: Mapping[str, Any]) -> str:
    """For people: the factor and what it rests on."""
    middle, width = math.exp(found["log_bias"]), math.exp(NORMAL_80 * found["log_sd"])
    count = len(found["made_of"])
    lines = [
        f"{count} measured row{'s' * (count != 1)} of {found['data']}: your stack takes {middle:.2f} times the time "
        f"model's seconds ({middle / width:.2f} to {middle * width:.2f})"
    ]
    lines += [
        f"  {row['row']}: {row['measured']:.4g} s measured, {row['without_factor']:.4g} s without a factor"
        for row in found["made_of"]
    ]
    lines += [f"  left out: {reason}" for reason in found["left_out"]]
    for when in ("before", "after"):
        row = found[when]
        lines.append(
            f"  {when}: P50 {row['median_ratio']:.2f} of the measurement, P90 over P10 {row['median_width']:.2f}, "
            f"{row['coverage_80']:.0%} inside"
        )
    return "\n".join(lines)
