"""Seconds to generate a batch of rollouts: the length distribution and the batch that shrinks as samples end.

Every replica steps until its longest sample is done: T = integral over tokens t of step(b(t), prompt + t),
with b(t) the sequences still running. Lengths are lognormal, cut at the maximum and matched to the mean.
Leaves out: prompt computation (charged as scoring in `rlstep`), preemption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from mopdsim.cost.constants import DecodeConstants, Value
from mopdsim.cost.decode import CACHE_BYTES, Replica, decode_step_s, decode_work
from mopdsim.cost.memory import USABLE_MEMORY, generation_bytes
from mopdsim.errors import InfeasibleError, UsageError
from mopdsim.hardware import Gpu
from mopdsim.layers import Array
from mopdsim.model import Model

NODES = 16
SIGMA_POINTS = 24


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
    distribution."""

    mean: float
    maximum: float
    sigma: Value = 0.6

    def __post_init__(self) -> None:
        if not (0 < self.mean <= self.maximum and math.isfinite(self.maximum)) or not np.all(
            np.asarray(self.sigma) > 0
        ):
            raise UsageError(
                f"lengths have mean {self.mean!r}, maximum {self.maximum!r}, sigma {self.sigma!r}; "
                "0 < mean <= maximum and sigma > 0 must hold."
            )

    def survival(self, tokens: ArrayLike) -> Array:
        """Share of samples longer than `tokens`, shape (*sigma, *tokens); zero from the maximum on."""
        tokens = np.asarray(tokens, dtype=float)
        sigma = np.asarray(self.sigma, dtype=float)[..., None]
        mu = self._location()[..., None]
        z = (np.log(np.maximum(tokens, 1e-9)) - mu) / sigma
        return np.where(tokens < self.maximum, 1.0 - _normal_cdf(z), 0.0)

    def _location(self) -> Array:
        """Log median such that E[min(X, maximum)] is the mean; many sigmas are read off a table of 24."""
        sigma = np.asarray(self.sigma, dtype=float)
        if sigma.size <= SIGMA_POINTS:
            return self._solve(sigma)
        table = np.linspace(sigma.min(), sigma.max(), SIGMA_POINTS)
        return np.interp(sigma, table, self._solve(table))

    def _solve(self, sigma: Array) -> Array:
        """Bisection, vectorised over sigma."""
        target = min(self.mean, 0.995 * self.maximum)
        low = np.full(sigma.shape, math.log(target) - 12.0)
        high = np.full(sigma.shape, math.log(self.maximum) + 12.0)
        for _ in range(40):
            middle = (low + high) / 2
            over = self._cut_mean(middle, sigma) > target
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return (low + high) / 2

    def _cut_mean(self, mu: Array, sigma: Array) -> Array:
        """E[min(X, m)] = exp(mu + s^2/2) Phi(z - s) + m (1 - Phi(z)), z = (ln m - mu) / s."""
        z = (math.log(self.maximum) - mu) / sigma
        return np.exp(mu + sigma**2 / 2) * _normal_cdf(z - sigma) + self.maximum * _normal_cdf(-z)


@cache
def _nodes() -> tuple[Array, Array]:
    u, weight = np.polynomial.legendre.leggauss(NODES)
    return (u + 1) / 2, weight / 2


def _token_grid(maximum: float) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights of an integral over tokens, t = maximum u^2 (finer where samples
    end)."""
    u, weight = _nodes()
    return maximum * u**2, weight * 2 * maximum * u


def cache_slots(model: Model, gpu: Gpu, replica: Replica, *, context: float) -> int:
    """Sequences of `context` tokens whose cache fits beside the weights; InfeasibleError when none does."""
    weights = replica.gpus * generation_bytes(model, replica, sequences=0, context=0)
    free = replica.gpus * gpu.memory_bytes * USABLE_MEMORY - weights
    per_sequence = float(model.cache_elements(context)) * CACHE_BYTES
    if free < per_sequence:
        raise InfeasibleError(
            f"{model.name} does not fit on {replica.gpus} x {gpu.name} for generation: it lacks "
            f"{(per_sequence - free) / 1e9:,.0f} GB; use more GPUs per replica or a narrower precision."
        )
    return int(free // per_sequence)


def generation_s(
    model: Model,
    gpu: Gpu,
    replica: Replica,
    c: DecodeConstants,
    *,
    samples_per_replica: float,
    lengths: Lengths,
    prompt_length: float,
    tokens_per_step: float = 1.0,
    slowest_of: float = 1.0,
    drain: bool = True,
) -> Array:
    """Seconds until the slowest of `slowest_of` equal replicas has ended its last sample.

    Constants may carry draws (shape (n,)); the answer has that shape. tokens_per_step is the mean number of
    tokens accepted (speculative decoding). When the cache of all samples does not fit, the batch is held at
    what fits and the steady part lasts longer in proportion (continuous batching). drain=False: new samples
    take the place of those that end, so the full batch runs at its mean length.
    """
    if samples_per_replica <= 0 or tokens_per_step < 1:
        raise UsageError(
            f"generation has samples_per_replica={samples_per_replica!r} and "
            f"tokens_per_step={tokens_per_step!r}; "
            "the first must be positive and the second at least 1."
        )
    tokens, weight = _token_grid(lengths.maximum)
    survival = lengths.survival(tokens)
    running = samples_per_replica * survival
    everything = samples_per_replica * slowest_of
    alive = 1.0 - (1.0 - np.clip(survival, 0.0, 1.0)) ** max(everything, 1.0)
    if not drain:
        running, alive = np.full_like(survival, samples_per_replica), survival
    slots = cache_slots(model, gpu, replica, context=prompt_length + lengths.mean)
    waves = np.maximum(running / slots, 1.0)
    batch = np.maximum(running / waves, 1.0)
    work = decode_work(model, gpu, replica, batch=batch, context=prompt_length + tokens)
    step = decode_step_s(work, c.column())
    return (step * waves * alive * weight).sum(axis=-1) / tokens_per_step
