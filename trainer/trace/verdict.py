"""Who is to blame for an answer: shares of the start, each teacher and nobody, with intervals, or no verdict.

Of an answer's tokens t, with log-probs under the student S, the start 0 and each teacher j:

  moved  D   = sum_t log S(t) - log 0(t)        how far the student went from its start
  pull   P_j = sum_t log T_j(t) - log 0(t)      how far teacher j would have it go

The start's share is exp(-D), at most 1: the part of the answer's probability that the start gave already. The rest is
divided among the teachers, each in proportion to its pull, and nobody, in proportion to what the strongest pull leaves
of D. Negative moves and pulls count as 0. Where a reward was mixed into the distillation and the verifier pays for the
answer, what would be nobody's is the reward's. Where a better answer is given, its own sums are taken off, so that both
are of the odds of the two. The rule is this project's own; how often it is right: `studies/results/trace`.

Axes: U units (tokens, or answers), C causes (start, teachers, nobody or the reward), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

START, NOBODY, REWARD, UNDECIDED = "start", "nobody", "reward", "undecided"
RESAMPLES = 1000
INTERVAL = (5, 95)  # percentiles
MARGIN = 0.1  # between the first and the second share, below which there is no verdict
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Share:
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """verdict: a cause, or "undecided" where the lead of the first is below MARGIN or not clear of 0."""

    verdict: str
    shares: dict[str, Share]


def split(sums: Array) -> Array:
    """Shares (..., C) of moved and pulls (..., 1 + teachers)."""
    moved, pull = np.maximum(sums[..., :1], 0), np.maximum(sums[..., 1:], 0)
    start = np.exp(-moved)
    left = np.maximum(moved - pull.max(-1, keepdims=True, initial=0), 0)
    mass = np.concatenate([pull, left], -1)
    whole = mass.sum(-1, keepdims=True)
    rest = np.divide(mass, whole, out=np.zeros_like(mass), where=whole > 0)
    return np.concatenate([start, (1 - start) * rest], -1)


def of_tokens(teachers: Sequence[str], token_UX: Array, *, rest: str = NOBODY) -> Verdict:
    """One answer's verdict. token_UX: what each token adds to moved and pulls; resampled by token. rest: whose it is
    that no teacher accounts for."""
    causes = [START, *teachers, rest]
    return _judged(causes, split(token_UX.sum(0)), split(_resampled(token_UX).sum(1)))


def of_answers(teachers: Sequence[str], answer_UX: Array, *, rest: str = NOBODY) -> Verdict:
    """The mean verdict over answers. answer_UX: each answer's moved and pulls; resampled by answer. rest: as above."""
    share_UC = split(answer_UX)
    return _judged([START, *teachers, rest], share_UC.mean(0), _resampled(share_UC).mean(1))


def mean_interval(value_U: Array) -> Share:
    """The mean of one number a unit, resampled by unit."""
    low, high = np.percentile(_resampled(value_U).mean(1), INTERVAL)
    return Share(share=float(value_U.mean()), low=float(low), high=float(high))


def _resampled(value_UX: Array) -> Array:
    """value_RUX: drawn with replacement, the same draws for equal sizes."""
    count = len(value_UX)
    return value_UX[np.random.default_rng(0).integers(count, size=(RESAMPLES, count))]


def _judged(causes: Sequence[str], share_C: Array, share_RC: Array) -> Verdict:
    low_C, high_C = np.percentile(share_RC, INTERVAL, axis=0)
    first, second = np.argsort(-share_C, kind="stable")[:2]
    lead_R = share_RC[:, first] - np.delete(share_RC, first, axis=1).max(1)
    clear = share_C[first] - share_C[second] >= MARGIN and np.percentile(lead_R, INTERVAL[0]) > 0
    return Verdict(
        verdict=causes[first] if clear else UNDECIDED,
        shares={
            cause: Share(share=float(share), low=float(min(low, share)), high=float(max(high, share)))
            for cause, share, low, high in zip(causes, share_C, low_C, high_C, strict=True)
        },
    )
