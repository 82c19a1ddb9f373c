"""Arrays of the simulator, and the logit and its inverse. Pure functions of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = TypeVar("Row", bound=Any)

_EDGE = 1e-12


def logit(probability: Array | float) -> Array:
    """ln(p / (1 - p)), finite at 0 and 1."""
    odds = np.clip(probability, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(odds / (1 - odds)))[()]


def logistic(value: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(value, -40.0, 40.0))))[()]


def middle(ordered_CN: Array) -> Array:
    """The median of rows whose middle is in its place, (C,)."""
    draws = ordered_CN.shape[1]
    return np.asarray((ordered_CN[:, (draws - 1) // 2] + ordered_CN[:, draws // 2]) / 2)


def stacked(rows: Sequence[Row]) -> Row:
    """Rows of a dataclass of single numbers as one of arrays."""
    cls = type(rows[0])
    return cls(
        **{each.name: np.array([float(getattr(row, each.name)) for row in rows]) for each in fields(cls)}
    )


def column(values_S: Array, like: Array) -> Array:
    """One value for each domain, shaped to broadcast against an array with domains first."""
    return values_S.reshape(-1, *(1,) * (like.ndim - 1))
