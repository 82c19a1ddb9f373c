"""Response lengths: lognormal, cut at the maximum and matched to the mean; their longest of many.

Leaves out: lengths of several modes (a mixed batch is given the spread of its mixture), and lengths that grow over
a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.cost.constants import Value

NODES = 16
GRID_POINTS = 256
_NEWTON = 50  # steps at most; five suffice where few answers are cut


@cache
def _nodes() -> tuple[Array, Array]:
    u, weight = np.polynomial.legendre.leggauss(NODES)
    return (u + 1) / 2, weight / 2


def _normal_cdf(x: ArrayLike) -> Array:
    """Abramowitz and Stegun 26.2.17, absolute error below 1e-7; scipy stays off the forecast's path."""
    x = np.asarray(x, dtype=float)
    t = 1.0 / (1.0 + 0.2316419 * np.abs(x))
    poly = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * poly
    return np.where(x > 0, 1.0 - tail, tail)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Response lengths: mean and maximum in tokens, spread of the log. The mean is of the cut
    distribution. Each may be an array, of as many distributions side by side, (B,)."""

    mean: Any
    maximum: Any
    sigma: Value = 0.6

    def __post_init__(self) -> None:
        mean, maximum = np.asarray(self.mean), np.asarray(self.maximum)
        sound = (mean > 0) & (mean <= maximum) & np.isfinite(maximum)
        if not np.all(sound) or not np.all(np.asarray(self.sigma) > 0):
            raise UsageError(
                f"lengths have mean {self.mean!r}, maximum {self.maximum!r}, sigma {self.sigma!r}; "
                "0 < mean <= maximum and sigma > 0 must hold."
            )

    def some(self, places: NDArray[np.intp]) -> Lengths:
        """Some of the distributions side by side, with what was worked out of them."""
        made = object.__new__(Lengths)  # sound as this is
        made.__dict__.update(
            mean=self.mean[places],
            maximum=self.maximum[places],
            sigma=np.asarray(self.sigma)[places],
            over_tokens=tuple(rows[places] for rows in self.over_tokens),
        )
        return made

    def survival(self, tokens: ArrayLike) -> Array:
        """Share of samples longer than `tokens`, shape (*sigma, *tokens); zero from the maximum on."""
        tokens = np.asarray(tokens, dtype=float)
        sigma = np.asarray(self.sigma, dtype=float)[..., None]
        mu = self._location[..., None]
        z = (np.log(np.maximum(tokens, 1e-9)) - mu) / sigma
        return np.where(tokens < np.asarray(self.maximum)[..., None], 1.0 - _normal_cdf(z), 0.0)

    @cached_property
    def over_tokens(self) -> tuple[Array, Array, Array]:
        """Gauss-Legendre nodes and weights of an integral over tokens, t = maximum u^2 (finer where samples end), and
        the survival at the nodes."""
        u, weight = _nodes()
        maximum = np.asarray(self.maximum, dtype=float)[..., None]
        tokens = maximum * u**2
        return tokens, weight * 2 * maximum * u, self.survival(tokens)

    def expected_longest(self, count: float) -> Array:
        """Mean of the longest of `count` samples, shape of sigma: integral of 1 - (1 - survival)^count."""
        edges = self.maximum * np.linspace(0.0, 1.0, GRID_POINTS + 1) ** 2
        survival = self.survival((edges[1:] + edges[:-1]) / 2)
        return ((1.0 - (1.0 - survival) ** count) * np.diff(edges)).sum(axis=-1)

    @cached_property
    def _location(self) -> Array:
        """Log median such that E[min(X, maximum)] is the mean: Newton on its ln, which is concave in mu: from the
        uncut location, below the root, it never passes it."""
        sigma = np.asarray(self.sigma, dtype=float)
        target = np.minimum(self.mean, 0.995 * np.asarray(self.maximum))
        mu = np.asarray(np.log(target) - sigma**2 / 2)
        for _ in range(_NEWTON):
            below, at_most = self._cut_mean(mu, sigma)
            step = np.log(target / (below + at_most)) * (below + at_most) / below
            mu = mu + step
            if np.all(np.abs(step) < 1e-9):
                break
        return mu

    def _cut_mean(self, mu: Array, sigma: Array) -> tuple[Array, Array]:
        """E[min(X, m)] = exp(mu + s^2/2) Phi(z - s) + m (1 - Phi(z)), z = (ln m - mu) / s: both terms, the first of
        which is also its slope in mu."""
        z = (np.log(self.maximum) - mu) / sigma
        return np.exp(mu + sigma**2 / 2) * _normal_cdf(z - sigma), self.maximum * _normal_cdf(-z)
