"""Weights of domains in distillation, from what each domain showed so far.

Pure functions of one statistic per domain (axis D), returning weights_D with mean 1, each within
[1 / LIMIT, LIMIT]. They multiply the domain's rows (`row_weights_B` of `trainer.losses.losses.token_weights`). As
the mean is over domains, not over tokens, the size of the whole gradient changes too: compare strategies
each at its best learning rate. Leaves out: when to measure (the loop), smoothing over steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weights = NDArray[np.float64]
LIMIT = 10.0  # of a weight, and of its inverse
TINY = 1e-9  # of the largest statistic: below it a domain counts as at zero


def none(domains: int) -> Weights:
    """Every domain alike."""
    return np.ones(domains)


def token_share(gradient_tokens_D: ArrayLike) -> Weights:
    """Equal gradient tokens per domain (Open-MOPD, 2608.19098): weights proportional to 1 / tokens.

    `gradient_tokens_D`: trained tokens of each domain in an update (or an average over updates).
    """
    return _bounded(_inverse(gradient_tokens_D))


def remaining_gap(gap_D: ArrayLike) -> Weights:
    """Weights proportional to what is left to learn: mean reverse KL to the teacher, or its lead in score.

    A domain whose student has passed its teacher (a negative gap) counts as finished.
    """
    return _bounded(np.maximum(gap_D, 0))


def dispersion(dispersion_D: ArrayLike) -> Weights:
    """Weights proportional to 1 / dispersion of each domain's signal (DN-MOPD, 2609.35347).

    From the sums a loss logs over n positions: sqrt(log_ratio_square_sum / n - (kl_sum / n)^2).
    """
    return _bounded(_inverse(dispersion_D))


def effective_share(weight_D: ArrayLike, dispersion_D: ArrayLike) -> Weights:
    """Share of the gradient that each domain gets: the weight of its tokens times the dispersion of its signal."""
    share_D = np.multiply(weight_D, dispersion_D, dtype=np.float64)
    return share_D / share_D.sum()


def _inverse(statistic_D: ArrayLike) -> Weights:
    """1 / values up to a factor; a domain at zero counts as far below the rest, so it gets the most."""
    values_D = np.asarray(statistic_D, dtype=np.float64)
    top = values_D.max()
    return np.ones_like(values_D) if top == 0 else 1 / np.maximum(values_D / top, TINY)


def _bounded(raw_D: Weights) -> Weights:
    """clip(c raw, 1 / LIMIT, LIMIT), its factor c such that the mean is 1 (by bisection: it grows with c)."""
    if raw_D.max() == 0:
        return np.ones_like(raw_D)
    raw_D = np.maximum(raw_D / raw_D.max(), TINY)
    low, high = np.log(1 / LIMIT), np.log(LIMIT / TINY)
    for _ in range(100):
        middle = (low + high) / 2
        if np.clip(np.exp(middle) * raw_D, 1 / LIMIT, LIMIT).mean() < 1:
            low = middle
        else:
            high = middle
    return np.clip(np.exp(high) * raw_D, 1 / LIMIT, LIMIT)
