"""Judgements: what a reward model is worth, what choosing samples yields, and preference optimisation.

A reward model wins its fidelity, a share, of what the verifier would have won, until it is over-optimised. Gao et al.
(2210.10760) find the gold reward at d = sqrt(KL) to be d (alpha - beta ln d) under RL and d (alpha - beta d) for
best-of-n; relative to its peak at d* that is x (1 - ln x) and x (2 - x) of x = d / d*. Before the peak the verifier's
own curve holds here, scaled by the fidelity; beyond it these forms say how much of the gain is left, and below zero
what is lost besides. Both join at the peak without a kink.
Leaves out: over-optimisation by DPO (its pairs are drawn once), the width of a reward model, DPO's beta and
likelihood weight (they act through the share that one round closes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.quality.caps import COLLAPSE_KEPT
from mopdsim.quality.interference import column, mean_conflict, scaled_gain
from mopdsim.quality.step import Effort, Step, seeded_asymptote
from mopdsim.recipes.recipe import Preference, RejectionSampling, RewardModel


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A reward model. fidelity_DN: share of the verifier's gain that it wins, 0 on domains it was not trained on."""

    fidelity_DN: Array


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Chosen samples: the stage that drew them, its scores, and those of what was kept, by domain.

    A prompt without a kept answer counts as left where it was.
    """

    sampler: str
    domains: tuple[str, ...]
    sampler_DN: Array
    kept_DN: Array


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """RL against reward models, by trained domain (S, N): the share of the climb's compute that the KL penalty leaves,
    and the share of the verifier's gain that is won (below zero: lost)."""

    pace_SN: Array
    won_SN: Array


def train_judge(stage: RewardModel, step: Step, effort: Effort, rollouts: int) -> Judge:
    """fidelity = m / (m + m_half), m = comparisons (1 - 2 noise)^2: the information that reversed labels leave.

    k samples of a prompt are k - 1 independent comparisons.
    """
    lengths_SN = step.world.length_DN[step.trained]
    shares_SN = column(step.shares_S / step.shares_S.sum(), lengths_SN)
    sequences_SN = shares_SN * effort.tokens_N / (shares_SN * lengths_SN).sum(axis=0)
    told_SN = sequences_SN * (rollouts - 1) / rollouts * (1 - 2 * stage.noise) ** 2
    fidelity_DN = np.zeros_like(step.score_DN)
    fidelity_DN[step.trained] = told_SN / (told_SN + step.world.constants["fidelity_pairs"])
    return Judge(fidelity_DN=fidelity_DN)


def left_by_rl(relative_distance: Array) -> Array:
    """Share of the gain that is left at x = d / d* under RL: x (1 - ln x) beyond the peak."""
    beyond = np.maximum(relative_distance, 1.0)
    return beyond * (1 - np.log(beyond))


def left_by_best_of(relative_distance: Array) -> Array:
    """Share of the gain that is left at x = d / d* for best-of-n: x (2 - x) beyond the peak."""
    beyond = np.maximum(relative_distance, 1.0)
    return beyond * (2 - beyond)


def best_of_kl(samples: int) -> float:
    """KL of best-of-n from its sampler in nats a sample: ln n - (n - 1) / n."""
    return float(np.log(samples) - (samples - 1) / samples)


def best_of(score: Array, samples: int, spread: Array) -> Array:
    """Share of prompts that one of n samples solves, when prompts differ: E[1 - (1 - p)^n], p ~ Beta with this mean.

    spread: the Beta's variance over that of always-or-never, 1 / (a + b + 1): 0 makes all prompts alike, at 1 more
    samples help none.
    """
    spread = np.clip(spread, 1e-6, 1 - 1e-6)
    total = 1 / spread - 1
    wrong = np.maximum((1 - score) * total, 1e-9)
    missed = _log_gamma(wrong + samples) - _log_gamma(wrong) + _log_gamma(total) - _log_gamma(total + samples)
    return np.clip(1 - np.exp(missed), score, 1.0)


def choose(stage: RejectionSampling, step: Step, rollouts: int, judges: Mapping[str, Judge]) -> Dataset:
    """The scores of kept answers: best-of-n by the verifier, or the share of that gain which a reward model wins.

    "passed" keeps correct answers alone, on the prompts that have one: the same share of prompts as "best".
    """
    constants = step.world.constants
    sampled_SN = step.score_DN[step.trained]
    gained_SN = best_of(sampled_SN, rollouts, constants["prompt_spread"]) - sampled_SN
    fidelity_SN, judged_S = fidelities(tuple(stage.domains), stage.reward_models, step, judges)
    distance_SN = np.sqrt(
        best_of_kl(rollouts) / (constants["best_of_peak_kl"] * np.maximum(fidelity_SN, 1e-6))
    )
    won_SN = np.where(
        column(judged_S, sampled_SN), fidelity_SN * left_by_best_of(distance_SN), np.ones_like(sampled_SN)
    )
    kept_DN = step.score_DN.copy()
    kept_DN[step.trained] = not_below(step, sampled_SN + won_SN * gained_SN, sampled_SN)
    return Dataset(
        sampler=stage.init, domains=tuple(stage.domains), sampler_DN=step.score_DN, kept_DN=kept_DN
    )


def pressure(
    domains: Sequence[str],
    reward_models: Mapping[str, str],
    kl_coefficient: float,
    step: Step,
    judges: Mapping[str, Judge],
    relative_compute_SN: Array,
) -> Pressure:
    """How far RL runs from its start against these judges, and what of the verifier's gain that leaves.

    Unlike the climb, the distance does not saturate: KL = climb_kl C / C_mid, d its root. A penalty bounds d at
    d* lambda_0 / lambda (1/d adds up); as in 2210.10760 it acts like an earlier stop. d*^2 is in proportion to the
    fidelity: a worse reward model is exhausted sooner.
    """
    constants = step.world.constants
    fidelity_SN, judged_S = fidelities(domains, reward_models, step, judges)
    peak_SN = constants["overoptimisation_kl"] * np.maximum(fidelity_SN, 1e-6)
    free_SN = np.sqrt(constants["climb_kl"] * relative_compute_SN / peak_SN)
    held_SN = free_SN / (1 + free_SN * kl_coefficient / constants["kl_coefficient_at_peak"])
    is_judged = column(judged_S, fidelity_SN)
    pace_SN = np.where(is_judged, (held_SN / np.maximum(free_SN, 1e-12)) ** 2, 1.0)
    won_SN = np.where(is_judged, fidelity_SN * left_by_rl(held_SN), 1.0)
    return Pressure(pace_SN=pace_SN, won_SN=won_SN)


def fidelities(
    domains: Sequence[str], reward_models: Mapping[str, str], step: Step, judges: Mapping[str, Judge]
) -> tuple[Array, Array]:
    """The fidelity of each trained domain's judge, (S, N), 1 for the verifier, and which have a reward model, (S,)."""
    fidelity_SN = np.ones_like(step.score_DN[step.trained])
    judged_S = np.array([name in reward_models for name in domains])
    for place, name in enumerate(domains):
        if name in reward_models:
            fidelity_SN[place] = judges[reward_models[name]].fidelity_DN[step.world.index[name]]
    return fidelity_SN, judged_S


def not_below(step: Step, after_SN: Array, before_SN: Array) -> Array:
    """Scores that over-optimisation lowers no further than a collapse does."""
    return np.clip(after_SN, COLLAPSE_KEPT * before_SN, 1.0)


def prefer(stage: Preference, step: Step, effort: Effort, judges: Mapping[str, Judge]) -> Array:
    """A round of DPO closes a share of the gap to what RL tends to; reversed and misjudged pairs take from it.

    Returns nats a token, (N,).
    """
    world, places = step.world, step.trained
    shares_SN = step.shares(by_length=False)
    conflict_SN = mean_conflict(world.conflict_DDN[np.ix_(places, places)], shares_SN)
    done_SN = step.closed(shares_SN, effort)
    kl_N = step.drift(shares_SN, done_SN)
    before_SN = step.score_DN[places]
    gap_SN = np.maximum(seeded_asymptote(step) - before_SN, 0.0)
    reach_SN = world.constants["preference_share"] * gap_SN
    step.move_some("gain", places, before_SN + reach_SN)
    fidelity_SN, _ = fidelities(tuple(stage.domains), stage.reward_models, step, judges)
    reach_SN = reach_SN * fidelity_SN * (1 - 2 * stage.noise)
    step.move_some("judge", places, before_SN + reach_SN)
    after_SN = before_SN + done_SN * reach_SN
    step.move_some("shortfall", places, after_SN)
    if len(places) > 1:
        after_SN = scaled_gain(before_SN, after_SN, np.exp(conflict_SN))
    step.move_some("interference", places, after_SN)
    step.settle()
    return kl_N


def _log_gamma(x: Array) -> Array:
    """ln Gamma of positive numbers by Stirling's series after eight steps up, absolute error below 1e-9."""
    shifted = x + 8.0
    series = 1 / (12 * shifted) - 1 / (360 * shifted**3) + 1 / (1260 * shifted**5)
    stirling = (shifted - 0.5) * np.log(shifted) - shifted + 0.5 * np.log(2 * np.pi) + series
    return stirling - sum(np.log(x + up) for up in range(8))
