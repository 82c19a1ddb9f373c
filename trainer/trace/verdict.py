"""Who is to blame for an answer: shares of the start, each teacher, the reward and nobody; one of them named, or none.

Of an answer, with its probabilities p (all tokens together) under the student S, the start 0 and each teacher j:

  gain  G_j = p_j - p_0                     how many more answers would be this one, were j asked in the start's place
  own       = p_S - max(p_0, p_1, ... p_k)  what the student gives beyond all of them

The start's p_0, the gains and own, negative ones counted as 0, are divided by their sum: the shares, own being nobody's
(the student's). An answer that the student gives no more often than its start is all the start's. A reward that was
mixed into the distillation and pays for the answer is one more teacher, which always gives it (p = 1). One teacher is
named where it alone gains ACCUSED. Where none does, the start or nobody is named if its share is the largest, and
otherwise there is no verdict. Over several answers shares are their means, and the verdict is that of more than half.

Probabilities of a long answer are all near 0: no teacher is named for it then, whatever the shares. The rule is this
project's own; how often it is right: `studies/results/trace_fresh`. Leaves out: what a better answer would have been.

Axes: U answers, X models (student, start, teachers), K teachers, C causes (start, teachers, nobody), R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

START, NOBODY, REWARD, UNDECIDED = "start", "nobody", "reward", "undecided"
RESAMPLES = 1000
INTERVAL = (5, 95)  # percentiles
# The lowest gain, in twentieths, at which at most 5% of clean twins' answers of every world of `studies/results/trace`
# and `trace_again` name a teacher (.6% of all 480).
ACCUSED = 0.55
# Of the planted teacher's shares there, 90% lie this near to 1 - exp(-E), E its measured effect on the log-odds.
ERROR = 0.45
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Share:
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """verdict: a cause, or "undecided"."""

    verdict: str
    shares: dict[str, Share]


def masses(logprob_UX: Array) -> Array:
    """mass_UC of log-probs of whole answers: what the start gives, gains, and the student's own."""
    prob_UX = np.exp(logprob_UX)
    gain_UK = np.maximum(prob_UX[:, 2:] - prob_UX[:, 1:2], 0)
    own_U1 = np.maximum(prob_UX[:, :1] - prob_UX[:, 1:].max(1, keepdims=True), 0)
    moved_U1 = logprob_UX[:, :1] > logprob_UX[:, 1:2]
    start_U1 = np.where(moved_U1, prob_UX[:, 1:2], 1.0)
    return np.concatenate([start_U1, gain_UK * moved_U1, own_U1 * moved_U1], 1)


def split(logprob_UX: Array) -> Array:
    """share_UC of the same. Shares are ratios: the largest probability is made 1, so that long answers have shares."""
    mass_UC = masses(logprob_UX - logprob_UX.max(1, keepdims=True))
    return np.asarray(mass_UC / mass_UC.sum(1, keepdims=True))


def judge(teachers: Sequence[str], logprob_UX: Array, *, paid_U: Sequence[bool] | None = None) -> Verdict:
    """The verdict on one answer or several. logprob_UX: of whole answers, in nats. paid_U: whether the reward that was
    mixed in pays for each; None: none was. The interval of one answer's share is ERROR wide to either side, that of
    several comes from drawing the answers again."""
    causes = [START, *teachers, *([REWARD] * (paid_U is not None)), NOBODY]
    if paid_U is not None:
        always_U = np.where(paid_U, 0.0, -np.inf)
        logprob_UX = np.concatenate([logprob_UX, always_U[:, None]], 1)
    share_UC, gain_UK = split(logprob_UX), masses(logprob_UX)[:, 1:-1]
    share_C = share_UC.mean(0)
    named = Counter(_named(causes, *row) for row in zip(share_UC, gain_UK, strict=True))
    (most, count), *_ = named.most_common(1)
    if len(share_UC) == 1:
        low_C, high_C = np.maximum(share_C - ERROR, 0), np.minimum(share_C + ERROR, 1)
    else:
        low_C, high_C = np.percentile(_resampled(share_UC).mean(1), INTERVAL, axis=0)
    return Verdict(
        verdict=most if 2 * count > len(share_UC) else UNDECIDED,
        shares={
            cause: Share(share=float(share), low=float(min(low, share)), high=float(max(high, share)))
            for cause, share, low, high in zip(causes, share_C, low_C, high_C, strict=True)
        },
    )


def _named(causes: Sequence[str], share_C: Array, gain_K: Array) -> str:
    """The verdict on one answer."""
    accused = [cause for cause, gain in zip(causes[1:-1], gain_K, strict=True) if gain >= ACCUSED]
    first = causes[int(share_C.argmax())]
    if accused:
        return accused[0] if len(accused) == 1 else UNDECIDED
    return first if first in (START, NOBODY) else UNDECIDED


def mean_interval(value_U: Array) -> Share:
    """The mean of one number an answer, resampled by answer."""
    low, high = np.percentile(_resampled(value_U).mean(1), INTERVAL)
    return Share(share=float(value_U.mean()), low=float(low), high=float(high))


def _resampled(value_UX: Array) -> Array:
    """value_RUX: drawn with replacement, the same draws for equal sizes."""
    count = len(value_UX)
    return value_UX[np.random.default_rng(0).integers(count, size=(RESAMPLES, count))]
