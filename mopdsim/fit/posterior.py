"""The most probable unknowns, their covariance, and the scales of errors: a Gauss-Newton fit of a posterior.

Observed logits differ from the walk's by the noise of a finite test and by an error of the model form, one for each
stage and domain, with Student's tails: a series that the model cannot follow loses its pull. The errors have one scale
at ordinary learning rates and one at bold ones, both fitted by the evidence (MacKay 1992). The covariance is Laplace's
at the optimum, with slopes over the width of each unknown's own uncertainty.
Axes: M observation, L unknown (errors left out), E error (stage and domain). Leaves out: where an optimum is one of
several, beyond the starts that are tried; prompts that several runs share, which count as independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from mopdsim.base.arrays import Array
from mopdsim.base.forked import both
from mopdsim.belief.calibration import DEGREES
from mopdsim.fit.latents import SPREADS, Group, Latents
from mopdsim.fit.predict import Observed, linearised, observed, predict

WIDER = 1.2  # than Laplace's, found on simulated experiments (`recovery`), where the data speak
INFORMATION = (DEGREES + 1) / (DEGREES + 3)  # Fisher's of a place, over what the weights at the optimum claim
TURNS, INNER = 40, 3
SHORTER = (0.6, 0.3, 0.1, 0.03, 0.01)  # steps that are tried where the whole one is too long
SETTLED = 0.05  # change of an unknown in posterior standard deviations, and of a spread's ln


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """x_L: the unknowns on their own scales; covariance_LL. spreads: the scale of each kind of errors and the sd of its
    ln. settled: the steps ended; cost: minus twice the ln of the marginal likelihood (Laplace's), up to a constant. Of
    all starts, agreeing: how many came to this optimum; behind: what each costs more than it, the best first."""

    latents: Latents
    seen: Observed
    x_L: Array
    covariance_LL: Array
    spreads: Mapping[Group, tuple[float, float]]
    settled: bool
    cost: float
    starts: int = 1
    agreeing: int = 1
    behind: tuple[float, ...] = (0.0,)

    @property
    def sd_L(self) -> Array:
        return np.sqrt(np.diag(self.covariance_LL))

    @property
    def learned_L(self) -> Array:
        """How much of the prior's variance the observations took away, from 0 to 1."""
        return np.clip(1 - (self.sd_L / self.latents.sd_L) ** 2, 0.0, 1.0)


@dataclass(kw_only=True)
class _Guess:
    """Where a fit stands. variance_*: of the posterior."""

    x_L: Array
    variance_L: Array
    error_E: Array
    variance_E: Array
    bold_E: NDArray[np.bool_]
    spreads: dict[Group, float]
    log_det: float = 0.0  # of the posterior's precision, errors included

    @property
    def error_precision_E(self) -> Array:
        """Of the errors' prior: less for outliers, as Student's tails have it."""
        relative_E = (self.error_E**2 + self.variance_E) / self.variance_of_error_E
        return (DEGREES + 1) / (DEGREES + relative_E) / self.variance_of_error_E

    @property
    def variance_of_error_E(self) -> Array:
        return np.where(self.bold_E, self.spreads["bold_error"], self.spreads["error"]) ** 2


def fit(latents: Latents, seen: Observed | None = None, *, starts: int = 1) -> Posterior:
    """The best of several starts: the prior's mean, then draws at half the prior's width. Two side by side."""
    seen = observed(latents.trees) if seen is None else seen
    rng = np.random.default_rng(0)
    shifts = [rng.standard_normal(len(latents.entries)) * (0.5 if turn else 0.0) for turn in range(starts)]
    points = [latents.mean_L + shift_L * np.minimum(latents.sd_L, 1.0) for shift_L in shifts]
    climb = partial(_climbed_from, latents, seen)
    tries = climb(points) if starts == 1 else [*chain(*both(climb, points[::2], points[1::2]))]
    tries.sort(key=lambda found: found.cost)
    best = tries[0]
    near = [np.abs(one.x_L - best.x_L) <= 0.5 * best.sd_L + SETTLED * latents.sd_L for one in tries]
    behind = tuple(one.cost - best.cost for one in tries)
    return replace(best, starts=starts, agreeing=sum(bool(each.all()) for each in near), behind=behind)


def _climbed_from(latents: Latents, seen: Observed, points: Sequence[Array]) -> list[Posterior]:
    return [_climbed(latents, seen, x_L) for x_L in points]


def _climbed(latents: Latents, seen: Observed, x_L: Array) -> Posterior:
    count = len(seen.series)
    guess = _Guess(
        x_L=x_L,
        variance_L=np.zeros_like(x_L),
        error_E=np.zeros(count),
        variance_E=np.zeros(count),
        bold_E=seen.bold_E,
        spreads={group: middle for group, (middle, _) in SPREADS.items()},
    )
    settled = False
    value_M, slope_ML = linearised(latents, guess.x_L)
    for _ in range(TURNS):
        before_L, before = guess.x_L, dict(guess.spreads)
        aim = replace(guess)
        for _ in range(INNER):
            covariance_LL = _solve(latents, seen, guess, aim, value_M, slope_ML)
            aim.spreads = {group: _spread(aim, group)[0] for group in SPREADS}
        value_M, slope_ML = _step(latents, seen, guess, aim, value_M)
        moved = np.max(np.abs(guess.x_L - before_L) / np.sqrt(guess.variance_L))
        grown = max(abs(np.log(guess.spreads[group] / before[group])) for group in before)
        if settled := bool(moved < SETTLED and grown < SETTLED):
            break
    cost = _cost(latents, seen, guess, guess.x_L[:, None], guess.error_E[:, None], value_M[:, None])
    prior_sd_L = latents.sd_L
    cost += guess.log_det + 2 * np.log(prior_sd_L).sum() - np.log(guess.error_precision_E).sum()
    cost += sum((np.log(guess.spreads[g] / middle) / sd) ** 2 for g, (middle, sd) in SPREADS.items())
    value_M, slope_ML = linearised(latents, guess.x_L, np.sqrt(guess.variance_L))
    covariance_LL = _solve(latents, seen, guess, replace(guess), value_M, slope_ML, informed=INFORMATION)
    return Posterior(
        latents=latents,
        seen=seen,
        x_L=guess.x_L,
        covariance_LL=_widened(covariance_LL, prior_sd_L),
        spreads={group: _spread(guess, group) for group in SPREADS},
        settled=settled,
        cost=float(cost[0]),
    )


def _widened(covariance_LL: Array, prior_sd_L: Array) -> Array:
    """The covariance with standard deviations up to WIDER times as large, less where they are the prior's."""
    learned_L = np.clip(1 - np.diag(covariance_LL) / prior_sd_L**2, 0.0, 1.0)
    factor_L = np.sqrt(1 + (WIDER**2 - 1) * learned_L)
    return np.asarray(covariance_LL * np.outer(factor_L, factor_L), dtype=np.float64)


def _aimed_at(seen: Observed, fitted_M: Array) -> tuple[Array, Array]:
    """For each observation the target of the linearised fit, and one over its variance. A censored one (at
    the ceiling) is linearised from the Tobit likelihood."""
    distance_M = (fitted_M - seen.y_M) / np.sqrt(seen.variance_M)
    mills_M = np.exp(_log_density(distance_M) - log_ndtr(distance_M))
    bent_M = np.maximum(mills_M + distance_M, 1e-6)
    pulled_M = fitted_M + np.sqrt(seen.variance_M) / bent_M
    weight_M = np.where(seen.censored_M, mills_M * bent_M, 1.0) / seen.variance_M
    return np.where(seen.censored_M, pulled_M, seen.y_M), weight_M


def _log_density(z: Array) -> Array:
    return -0.5 * (z**2 + np.log(2 * np.pi))


def _spread_out(seen: Observed, error_E: Array) -> Array:
    """The error of each observation's series, (M, ...)."""
    padded = np.concatenate([error_E, np.zeros_like(error_E[:1])])  # series -1 has none
    return padded[seen.series_M]


def _solve(
    latents: Latents,
    seen: Observed,
    at: _Guess,
    aim: _Guess,
    value_M: Array,
    slope_ML: Array,
    *,
    informed: float = 1.0,
) -> Array:
    """Moves the aim to the optimum of the posterior linearised at a guess; returns the unknowns' covariance, (L, L).

    The errors enter one series each, so that they are eliminated first. informed: factor on their precision.
    """
    aimed_M, weight_M = _aimed_at(seen, value_M + _spread_out(seen, at.error_E))
    target_M = aimed_M - value_M + slope_ML @ at.x_L
    weighted_ML = slope_ML * weight_M[:, None]
    has = seen.series_M >= 0
    count = len(seen.series)
    both_EL = np.zeros((count, slope_ML.shape[1]))
    np.add.at(both_EL, seen.series_M[has], weighted_ML[has])
    own_E = np.bincount(seen.series_M[has], weight_M[has], count) + informed * aim.error_precision_E
    right_E = np.bincount(seen.series_M[has], (weight_M * target_M)[has], count)
    prior_L = latents.sd_L**-2
    left_LL = slope_ML.T @ weighted_ML + np.diag(prior_L) - both_EL.T @ (both_EL / own_E[:, None])
    right_L = weighted_ML.T @ target_M + prior_L * latents.mean_L - both_EL.T @ (right_E / own_E)
    covariance_LL = np.linalg.inv(left_LL)
    aim.log_det = float(np.linalg.slogdet(left_LL)[1] + np.log(own_E).sum())
    aim.x_L = covariance_LL @ right_L
    aim.variance_L = np.diag(covariance_LL)
    aim.error_E = (right_E - both_EL @ aim.x_L) / own_E
    pulled_EL = both_EL / own_E[:, None]
    aim.variance_E = 1 / own_E + np.einsum("el,el->e", pulled_EL @ covariance_LL, pulled_EL)
    return np.asarray(covariance_LL, dtype=np.float64)


def _step(
    latents: Latents, seen: Observed, guess: _Guess, aim: _Guess, value_M: Array
) -> tuple[Array, Array]:
    """Moves the guess to the aim where that is better, else as far towards it as is best of some lengths, tried in one
    walk. value_M: what the guess predicts. Returns the prediction and its slopes there."""
    guess.spreads, guess.variance_L, guess.variance_E = aim.spreads, aim.variance_L, aim.variance_E
    guess.log_det = aim.log_det
    reached = linearised(latents, aim.x_L)
    both_M2 = np.stack([value_M, reached[0]], axis=1)
    both = np.stack([guess.x_L, aim.x_L], axis=1), np.stack([guess.error_E, aim.error_E], axis=1)
    stay, go = _cost(latents, seen, guess, *both, both_M2)
    if go <= stay:
        guess.x_L, guess.error_E = aim.x_L, aim.error_E
        return reached
    lengths_N = np.array(SHORTER)
    x_LN = guess.x_L[:, None] + lengths_N * (aim.x_L - guess.x_L)[:, None]
    error_EN = guess.error_E[:, None] + lengths_N * (aim.error_E - guess.error_E)[:, None]
    best = int(np.argmin(_cost(latents, seen, guess, x_LN, error_EN, predict(latents, x_LN))))
    guess.x_L, guess.error_E = x_LN[:, best], error_EN[:, best]
    return linearised(latents, guess.x_L)


def _cost(
    latents: Latents, seen: Observed, at: _Guess, x_LN: Array, error_EN: Array, value_MN: Array
) -> Array:
    """Minus twice the ln of the posterior up to a constant, (N,). value_MN: what x predicts."""
    residual_MN = seen.y_M[:, None] - value_MN - _spread_out(seen, error_EN)
    scaled_MN = residual_MN / np.sqrt(seen.variance_M[:, None])
    lost_MN = np.where(seen.censored_M[:, None], -2 * log_ndtr(-scaled_MN), scaled_MN**2)
    prior_sd_L = latents.sd_L
    return (
        lost_MN.sum(axis=0)
        + (((x_LN - latents.mean_L[:, None]) / prior_sd_L[:, None]) ** 2).sum(axis=0)
        + (error_EN**2 * at.error_precision_E[:, None]).sum(axis=0)
    )


def _spread(at: _Guess, group: Group) -> tuple[float, float]:
    """The scale of a kind of errors and the sd of its ln, by the evidence: of these errors as many count as the data
    determine."""
    middle, sd = SPREADS[group]
    own_E = at.bold_E == (group == "bold_error")
    weight_K = at.error_precision_E[own_E] * at.spreads[group] ** 2
    x_K, variance_K = at.error_E[own_E] * np.sqrt(weight_K), at.variance_E[own_E] * weight_K
    known = float(np.clip(1 - variance_K / at.spreads[group] ** 2, 0.0, 1.0).sum())
    squares = float((x_K**2).sum())
    log = np.log(at.spreads[group])
    for _ in range(20):  # Newton, on the ln of the spread
        slope = known - squares * np.exp(-2 * log) + (log - np.log(middle)) / sd**2
        bend = 2 * squares * np.exp(-2 * log) + sd**-2
        log -= np.clip(slope / bend, -1.0, 1.0)
    return float(np.exp(log)), float((2 * known + sd**-2) ** -0.5)
