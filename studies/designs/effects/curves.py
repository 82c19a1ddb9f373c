"""Learning curves q(C) of one domain under RL: three rival forms, fitted alike and judged on the tail.

    hill         q0 + (A - q0) / (1 + (C_mid / C)^B)            ScaleRL, 2510.13786
    exponential  q0 + (A - q0) (1 - exp(-ln 2 C / C_mid))
    power        A - (A - q0) (1 + C / s)^-B                    C_mid = s (2^(1/B) - 1)
In all three C_mid is the compute of half the gain. Residuals are divided by each point's standard error; soft-L1 loss,
several starts, the best kept. Leaves out: priors, joint fits of several domains (`mopdsim.fit.quality`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mopdsim.base.errors import UsageError

Array = NDArray[np.float64]
LEAST_SE = 0.01  # of a score, so that a lucky 0 or 1 does not rule the fit
HIGHEST_STEEPNESS = 6.0


def hill(compute: Array, q0: float, asymptote: float, midpoint: float, steepness: float) -> Array:
    power = (np.maximum(compute, 0.0) / midpoint) ** steepness
    return q0 + (asymptote - q0) * power / (1 + power)


def exponential(compute: Array, q0: float, asymptote: float, midpoint: float) -> Array:
    return q0 + (asymptote - q0) * -np.expm1(-np.log(2) * compute / midpoint)


def power_law(compute: Array, q0: float, asymptote: float, midpoint: float, steepness: float) -> Array:
    scale = midpoint / (2 ** (1 / steepness) - 1)
    return asymptote - (asymptote - q0) * (1 + compute / scale) ** -steepness


FORMS: dict[str, Callable[..., Array]] = {"hill": hill, "exponential": exponential, "power": power_law}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A form and its parameters: q0, asymptote, midpoint (in the compute's units) and, where it has one, steepness."""

    form: str
    parameters: tuple[float, ...]
    loss: float

    def __call__(self, compute: ArrayLike) -> Array:
        """The curve at these amounts of compute."""
        return FORMS[self.form](np.asarray(compute, dtype=float), *self.parameters)

    @property
    def asymptote(self) -> float:
        return self.parameters[1]

    @property
    def midpoint(self) -> float:
        return self.parameters[2]


def fit(form: str, compute: ArrayLike, score: ArrayLike, se: ArrayLike) -> Fit:
    """The best of several starts. UsageError for an unknown form or fewer points than parameters."""
    from scipy.optimize import least_squares

    if form not in FORMS:
        raise UsageError(f"form {form!r}: must be one of {', '.join(FORMS)}")
    x, y = np.asarray(compute, dtype=float), np.asarray(score, dtype=float)
    sigma = np.maximum(np.asarray(se, dtype=float), LEAST_SE)
    steep = form != "exponential"
    if len(x) < 3 + steep:
        raise UsageError(f"{len(x)} points for {3 + steep} parameters of {form!r}: evaluate more often")
    unit = float(x.max())
    low = [0.0, 0.0, np.log(1e-3), *([np.log(0.2)] if steep else [])]
    high = [1.0, 1.0, np.log(1e2), *([np.log(HIGHEST_STEEPNESS)] if steep else [])]

    def values(p: Array) -> tuple[float, ...]:
        return (float(p[0]), float(p[1]), float(np.exp(p[2])) * unit, *(float(np.exp(v)) for v in p[3:]))

    def residuals(p: Array) -> Array:
        return (FORMS[form](x, *values(p)) - y) / sigma

    found = []
    for midpoint in (0.1, 0.3, 1.0):
        for top in (float(y.max()), min(1.0, float(y.max()) + 0.2)):
            start = np.array([y[x.argmin()], top, np.log(midpoint), *([np.log(1.5)] if steep else [])])
            start = np.clip(start, np.array(low) + 1e-6, np.array(high) - 1e-6)
            found.append(least_squares(residuals, start, bounds=(low, high), loss="soft_l1"))
    best = min(found, key=lambda result: result.cost)
    return Fit(form=form, parameters=values(best.x), loss=float(best.cost))
