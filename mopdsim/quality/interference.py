"""How domains trained together, or one after the other, act on each other: shares, conflict, transfer,
forgetting.

Pure functions on arrays whose first axis is a domain of the trained set (S), or any domain (D), and whose
last is the draw (N). Conflict K is a matrix [source j, target d], asymmetric and signed: K > 0 helps the
target. Zero conflict, or one domain, is the identity (tested).
Leaves out: which domains a stage trains (`mopdsim.quality.walk`) and what K is (`mopdsim.belief.calibration`).
"""

from __future__ import annotations

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit

REPLAY_HALF = 0.05  # share of old prompts that halves forgetting: a short refresh restores most (2606.02398)


def effective_share(
    prompts_S: Array, lengths_SN: Array, dispersions_SN: Array | None = None, *, by_length: bool
) -> Array:
    """Share of the gradient that each domain gets: w_d = n_d L_d^a s_d / sum over j.

    n: prompts (with every weight on them), L: mean response length, s: dispersion of the signal where it is raw (None:
    normalised). a is 1 for a loss that is a mean over tokens and 0 over sequences.
    """
    weights_SN = np.ones_like(lengths_SN) * column(prompts_S, lengths_SN)
    if by_length:
        weights_SN = weights_SN * lengths_SN
    if dispersions_SN is not None:
        weights_SN = weights_SN * dispersions_SN
    return weights_SN / weights_SN.sum(axis=0)


def column(values_S: Array, like: Array) -> Array:
    """One value for each domain, shaped to broadcast against an array with domains first."""
    return values_S.reshape(-1, *(1,) * (like.ndim - 1))


def mean_conflict(conflict_SSN: Array, shares_SN: Array, apart_SSN: Array | None = None) -> Array:
    """kbar_d = (k - 1)^-1/2 sum over j != d of (k w_j) K_jd, (S, N): log of the factor on d's gain.

    A companion with few tokens counts for little. The exponent lies between a sum (0) and a mean over companions (1);
    as an unknown it did not pay. apart: 1 for pairs that do conflict, 0
    for the others and on the diagonal (none: all pairs do).
    """
    count = len(shares_SN)
    if count == 1:
        return np.zeros_like(shares_SN)
    if apart_SSN is None:
        pull_SN = np.einsum("jd...,j...->d...", conflict_SSN, shares_SN)
        pull_SN = pull_SN - np.einsum("dd...,d...->d...", conflict_SSN, shares_SN)
    else:
        pull_SN = np.einsum("jd...,jd...->d...", apart_SSN, conflict_SSN * shares_SN[:, None])
    return np.asarray(pull_SN * (count * thinned(count - 1.0)))


def thinned(count: Array | float) -> Array:
    """What a sum over so many companions is divided by, inverted: n^-1/2, 1 where there are none."""
    return np.maximum(count, 1.0) ** -0.5


def scaled_gain(before: Array, after: Array, factor: Array) -> Array:
    """The score whose gain over `before` is `factor` times that of `after`, measured in logits: stays in [0,
    1].
    """
    return logistic(logit(before) * (1 - factor) + logit(after) * factor)


def transfer(progress_SN: Array, spill_SDN: Array, lifted_DN: Array) -> tuple[Array, Array]:
    """Change in logits of untrained domains, all negative effects and the best positive one of a trained domain; and
    the best one so far, (D, N) each.

    progress: how far each trained domain's curve was climbed; spill: the effect of a whole climb; lifted: the best
    effect of earlier stages, above which this one's must lie to add to it. So domains trained one after the other lift
    an untrained one no farther than the same domains trained in one stage.
    """
    effects_SDN = progress_SN[:, None, :] * spill_SDN
    best_DN = np.maximum(effects_SDN.max(axis=0), lifted_DN)
    return best_DN - lifted_DN + np.minimum(effects_SDN, 0.0).sum(axis=0), best_DN


def retained(kl_N: Array, replay: Array, forgetting_N: Array) -> Array:
    """Share of an earlier gain that survives training on other domains: exp(-psi KL / (1 + replay / `REPLAY_HALF`))."""
    return np.exp(-forgetting_N * kl_N / (1.0 + replay / REPLAY_HALF))
