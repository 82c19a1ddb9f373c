"""Named streams of random numbers, and draws of an estimate from them.

A stream depends on its name and the seed alone; a longer draw begins with the shorter. Leaves out: which estimates
there are (`mopdsim.belief.calibration`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.facts.domains import Estimate

Distribution = Literal["normal", "lognormal", "logit", "student"]
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
_STUDENT_DEGREES = 4


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How the errors of parameters go together: streams in an order, and the correlation matrix of that order."""

    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]

    @cached_property
    def _mixture(self) -> dict[str, Array]:
        """By name, weights of the streams up to it: a row of the Cholesky factor. Rounding may have left the matrix a
        little below positive definite: the diagonal is then raised."""
        matrix_KK = np.array(self.matrix)
        least = float(np.linalg.eigvalsh(matrix_KK)[0])
        matrix_KK += max(0.0, 1e-9 - least) * np.eye(len(matrix_KK))
        factor_KK = np.linalg.cholesky(matrix_KK / matrix_KK[0, 0])
        return {name: factor_KK[place, : place + 1] for place, name in enumerate(self.names)}

    def of(self, one: str, other: str) -> float:
        """The correlation of two streams: 0 where one of them is unknown."""
        if one == other:
            return 1.0
        if one not in self._mixture or other not in self._mixture:
            return 0.0
        return self.matrix[self.names.index(one)][self.names.index(other)]

    def noise(self, name: str, seed: int, draws: int) -> Array:
        """Standard normal draws of a parameter, (N,), correlated with the others'; of its own stream if unknown."""
        if name not in self._mixture:
            return standard_normal(name, seed, draws)
        weights = self._mixture[name]
        streams = (standard_normal(each, seed, draws) for each in self.names)
        return sum(
            (weight * stream_N for weight, stream_N in zip(weights, streams, strict=False)), np.zeros(draws)
        )


def in_logits(score: Estimate) -> Estimate:
    """A score's sd carried from probability to logits."""
    slope = max(score.value * (1 - score.value), 0.01)
    return Estimate(value=score.value, sd=score.sd / slope, grade=score.grade, source=score.source)


def scaled(distribution: Distribution, value: float) -> float:
    """A value on the scale on which its sd is stated: plain, ln or logit."""
    if distribution == "lognormal":
        return math.log(value)
    return float(logit(value)) if distribution == "logit" else value


def unscaled(distribution: Distribution, x: Array) -> Array:
    """From that scale to the value's own."""
    if distribution == "lognormal":
        return np.exp(x)
    return logistic(x) if distribution == "logit" else x


@lru_cache(maxsize=8192)
def sample(estimate: Estimate, distribution: Distribution, key: str, *, seed: int, draws: int) -> Array:
    """Draws of an estimate, (N,), not to be written to."""
    drawn_N = transformed(estimate, distribution, standard_normal(key, seed, draws), key, seed)
    drawn_N.flags.writeable = False
    return drawn_N


def transformed(estimate: Estimate, distribution: Distribution, noise_N: Array, key: str, seed: int) -> Array:
    """An estimate's draws from standard normal ones, (N,)."""
    draws = len(noise_N)
    if estimate.sd == 0:
        return np.full(draws, estimate.value)
    if distribution == "normal":
        return estimate.value + estimate.sd * noise_N
    if distribution == "lognormal":
        return estimate.value * np.exp(estimate.sd * noise_N)
    if distribution == "logit":
        return logistic(logit(estimate.value) + estimate.sd * noise_N)
    chi_N = sum(standard_normal(f"{key}/{index}", seed, draws) ** 2 for index in range(_STUDENT_DEGREES))
    return estimate.value + estimate.sd * noise_N / np.sqrt(chi_N / _STUDENT_DEGREES)


@lru_cache(maxsize=8192)
def standard_normal(key: str, seed: int, draws: int) -> Array:
    """Standard normal draws, (N,), that depend on (key, seed) alone; a longer draw begins with the
    shorter.
    """
    noise_N = _stream(key, seed).standard_normal(draws)
    noise_N.flags.writeable = False
    return noise_N


@lru_cache(maxsize=256)
def uniform(key: str, seed: int, draws: int) -> Array:
    """Uniform draws in [0, 1), (N,), likewise."""
    luck_N = _stream(key, seed).random(draws)
    luck_N.flags.writeable = False
    return luck_N


def _stream(key: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
