"""Arrays of the simulator, and the logit and its inverse. Pure functions of numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EDGE = 1e-12


def logit(probability: Array | float) -> Array:
    """ln(p / (1 - p)), finite at 0 and 1."""
    inside = np.minimum(np.maximum(probability, _EDGE), 1 - _EDGE)  # a third of np.clip's time
    return np.log(inside / (1 - inside))


def logistic(value: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(value, -40.0), 40.0)))
