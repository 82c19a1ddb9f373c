"""Learning without a teacher: reinforcement learning, imitation of demonstrations, and from judgements: what a reward
model is worth, what choosing samples yields, and preference optimisation.

Progress goes with FLOPs times rate^a times batch^-b. Adam's steps have the length of the rate whatever the gradient, so
that at equal FLOPs a higher rate and a smaller batch go farther: a = b = 1 where the length of steps is what limits
training, a = b = 0 where samples are. Both exponents are fitted. PPO climbs GRPO's curve: its value and scoring passes
are cost.

A reward model wins its fidelity, a share, of what the verifier would have won, until it is over-optimised. Gao et al.
(2210.10760) find the gold reward at d = sqrt(KL) to be d (alpha - beta ln d) under RL and d (alpha - beta d) for
best-of-n; relative to its peak at d* that is x (1 - ln x) and x (2 - x) of x = d / d*. Before the peak the verifier's
own curve holds here, scaled by the fidelity; beyond it these forms say how much of the gain is left, and below zero
what is lost besides. Both join at the peak without a kink.

Leaves out: teachers and merging (`mopdsim.quality.distillation`); schedules (weighting FLOPs by a decaying rate fitted
our runs no better); rates and batches of other amounts than `tiny`, which are taken as usual: no run of ours tells what
others do; over-optimisation by DPO (its pairs are drawn once), the width of a reward model, DPO's beta and likelihood
weight (they act through the share that one round closes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.base.arrays import Array, column, logistic, logit
from mopdsim.quality.step import (
    COLLAPSE_KEPT,
    Effort,
    Step,
    effective_share,
    mean_conflict,
    recovered,
    scaled_gain,
    seeded_asymptote,
    transfer,
    with_rows,
)
from mopdsim.quality.world import World
from mopdsim.recipes.stage import (
    Amounts,
    AmountsName,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    SpendingKind,
    default_amounts,
)

# a judge is as good as its comparisons are many, whatever the rate
LEARNING: frozenset[SpendingKind] = frozenset({"rl", "sft", "distill", "preference"})
RATE_EXPONENT = (
    0.5  # how much farther a higher rate gets: between progress by samples (0) and by Adam's steps (1)
)
_CERTAIN = (0.01, 0.99)  # shares of a curve beyond which a measured score says nothing of its midpoint
BREAKING_COMPUTE = 1e5  # FLOPs per active parameter: about the C_mid of a tiny domain


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
) -> tuple[Array, Array]:
    """How far RL runs from its start against these judges, and what of the verifier's gain that leaves: by trained
    domain the share of the climb's compute that the KL penalty leaves, and the share of that gain which is won (below
    zero: lost), (S, N) each.

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
    return pace_SN, won_SN


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


def paced(
    effort: Effort, amounts: Amounts, usual: AmountsName, kind: SpendingKind, constants: Mapping[str, Array]
) -> Effort:
    """The effort as the set's usual learning rate and batch would have spent it."""
    if usual != "tiny" or kind not in LEARNING:
        return effort
    base = default_amounts(usual, kind)
    rate = amounts.learning_rate / base.learning_rate
    batch = _rows(amounts) / _rows(base)
    factor_N = rate**RATE_EXPONENT * batch ** -constants["batch_exponent"]
    return Effort(compute_N=effort.compute_N * factor_N, tokens_N=effort.tokens_N * factor_N)


def _rows(amounts: Amounts) -> int:
    return amounts.prompts_per_step * amounts.rollouts_per_prompt


def broken(
    effort: Effort, amounts: Amounts, usual: AmountsName, constants: Mapping[str, Array]
) -> Array | None:
    """What RL above the usual rate takes from every domain, in logits, (N,): ((rate / r0)^m - (usual / r0)^m)
    sqrt(C / C0), with C the paced compute. The square root is the distance of a random walk. None up to the usual
    rate, at which the climb was measured, and for amounts that were never measured."""
    if usual != "tiny" or amounts.learning_rate <= (base := default_amounts(usual, "rl").learning_rate):
        return None
    taken_N, included_N = (
        (rate / constants["breaking_rate"]) ** constants["breaking_power"]
        for rate in (amounts.learning_rate, base)
    )
    return np.asarray((taken_N - included_N) * np.sqrt(effort.compute_N / BREAKING_COMPUTE))


def climb(score: Array, start: Array, asymptote: Array, relative_compute: Array, steepness: Array) -> Array:
    """The score after more RL: the curve from `start` to `asymptote`, entered where `score` lies on it.

    relative_compute: C / C_mid. A score below the start climbs a curve of its own; one above the asymptote
    stays.
    """
    origin = np.minimum(start, score)
    room = np.maximum(asymptote - origin, 1e-12)
    done = np.clip((score - origin) / room, 0.0, 1 - 1e-12)
    spent = (done / (1 - done)) ** (1 / steepness)
    return np.maximum(score, origin + room * hill(spent + relative_compute, steepness))


def hill(relative_compute: Array, steepness: Array) -> Array:
    """H = 1 / (1 + (C_mid / C)^B) = x^B / (1 + x^B) of x = C / C_mid."""
    power = np.minimum(relative_compute, 1e9) ** steepness
    return power / (1 + power)


@dataclass(frozen=True, kw_only=True)
class Specialist:
    """A measured run of RL on one domain alone, from the start of what is forecast. flops: of sampling and gradient;
    amounts: its rate and batch, those of the set where absent."""

    score: float
    flops: float
    amounts: Amounts | None = None


def learnt(
    world: World, specialists: Mapping[str, Specialist], *, active_parameters: float, usual: AmountsName
) -> World:
    """The world in which RL on a domain alone ends where its specialist was measured: C_mid is solved from the curve,
    and the asymptote's odds are at least twice the measured score's. A specialist at or below the start says that the
    domain is hardly learnt. How fast a student follows it does not say."""
    midpoint_DN, asymptote_DN = world.midpoint_DN.copy(), world.asymptote_DN.copy()
    for name, found in specialists.items():
        place = world.index[name]
        start_N = world.start_DN[place]
        asymptote_N = np.maximum(asymptote_DN[place], 2 * found.score / (1 + found.score))
        done_N = np.clip((found.score - start_N) / np.maximum(asymptote_N - start_N, 1e-12), *_CERTAIN)
        flops_N = np.array([found.flops / active_parameters])
        effort = Effort(compute_N=flops_N, tokens_N=flops_N)
        if found.amounts is not None:
            effort = paced(effort, found.amounts, usual, "rl", world.constants)
        relative_N = (done_N / (1 - done_N)) ** (1 / world.steepness_DN[place])
        middle_N = effort.compute_N / relative_N
        midpoint_DN[place], asymptote_DN[place] = middle_N, asymptote_N
    return replace(world, midpoint_DN=midpoint_DN, asymptote_DN=asymptote_DN)


def own_batch(step: Step, usual: AmountsName) -> Array:
    """The factor on each trained domain's compute for the rows that it has in a step: its share of the prompts^-b, (S,
    N). `paced` counts the rows of all domains; one that shares them has fewer, in more steps for its FLOPs."""
    if usual != "tiny":
        return np.ones(1)
    share_SN = column(step.shares_S / step.shares_S.sum(), step.world.midpoint_DN)
    return np.asarray(share_SN ** -step.world.constants["batch_exponent"])


def learn_by_reward(
    stage: Rl, step: Step, effort: Effort, judges: Mapping[str, Judge], usual: AmountsName
) -> Array:
    """RL on the stage's domains: q0 + rho (A - q0) H(n_d^-b w_d C / C_mid, B), n_d the domain's share of the prompts,
    and of that what a reward model in the verifier's place wins. usual: the set of amounts. Returns nats a token, (N,).
    """
    world, places = step.world, step.trained
    weights_S = step.shares_S * np.array([stage.reward_weights.get(name, 1.0) for name in stage.domains])
    spread_SN = None
    if stage.advantage_scale == "none":
        spread_SN = np.sqrt(np.maximum(step.score_DN[places] * (1 - step.score_DN[places]), 1e-6))
    by_length = stage.normalizer == "token"
    shares_SN = effective_share(weights_S, world.length_DN[places], spread_SN, by_length=by_length)
    conflict_SN = mean_conflict(world.conflict_DDN[np.ix_(places, places)], shares_SN)
    steep_SN = world.steepness_DN[places]
    whole_SN = effort.compute_N / world.midpoint_DN[places]
    spent_SN = whole_SN * shares_SN * own_batch(step, usual)
    paced_SN, won_SN = spent_SN, None
    if stage.reward_models:
        pace_SN, won_SN = pressure(
            tuple(stage.domains), stage.reward_models, stage.kl_coefficient, step, judges, spent_SN
        )
        paced_SN = spent_SN * pace_SN
    progress_SN = hill(paced_SN, steep_SN)
    kl_N = step.drift(shares_SN, progress_SN, demonstrations=stage.demonstration_mix)
    before_SN, start_SN = step.score_DN[places], world.start_DN[places]
    asymptote_SN = seeded_asymptote(step)
    # what goes on from a trained model: a cascade, or a second round
    if len(places) > 1 or not step.from_root:
        strategy = "mixed_rl" if step.from_root else "cascade_rl"
        asymptote_SN = recovered(step, strategy, start_SN, asymptote_SN)
    if step.booked is not None:
        step.move_some("gain", places, climb(before_SN, start_SN, asymptote_SN, whole_SN, steep_SN))
        shared_SN = climb(before_SN, start_SN, asymptote_SN, spent_SN, steep_SN)
        step.move_some("shortfall", places, shared_SN)
    if step.from_root:
        climbed_SN = before_SN + (asymptote_SN - before_SN) * progress_SN
    else:
        climbed_SN = climb(before_SN, start_SN, asymptote_SN, paced_SN, steep_SN)
    if len(places) > 1:
        climbed_SN = scaled_gain(before_SN, climbed_SN, np.exp(conflict_SN))
    step.move_some("interference", places, climbed_SN)
    if won_SN is not None:
        judged_SN = before_SN + won_SN * (climbed_SN - before_SN)
        step.move_some("judge", places, not_below(step, judged_SN, before_SN))
    step.clash(progress_SN)
    _spill(step, progress_SN)
    step.settle()
    return kl_N


def _spill(step: Step, progress_SN: Array) -> None:
    """What training does to the domains left out."""
    others = step.untrained
    if len(others) == 0:
        return
    spill_SON = step.world.spill_DDN[np.ix_(step.trained, others)]
    change_ON, lifted_ON = transfer(progress_SN, spill_SON, step.lifted_DN[others])
    step.lifted_DN = with_rows(step.lifted_DN, others, lifted_ON)
    step.move_some("bias", others, logistic(logit(step.score_DN[others]) + change_ON))


def break_down(step: Step, lost_N: Array | None) -> None:
    """Takes so many logits from every domain, trained or not."""
    if lost_N is not None:
        step.move("collapse", logistic(logit(step.score_DN) - lost_N))


def imitate(stage: Sft, step: Step, effort: Effort, datasets: Mapping[str, Dataset]) -> Array:
    """Fine-tuning closes the gap to what its examples score, which may lie below the start. Returns nats a
    token.

    Chosen samples lead a share of the way from their sampler to what was kept.
    """
    places, shares_SN = step.trained, step.shares(by_length=True)
    closed_SN = step.closed(shares_SN, effort)
    kl_N = step.drift(shares_SN, closed_SN)
    before_SN = step.score_DN[places]
    target_SN = _examples(stage, step, datasets)
    step.move_some("gain", places, target_SN)
    step.move_some("shortfall", places, before_SN + closed_SN * (target_SN - before_SN))
    step.settle()
    return kl_N


def _examples(stage: Sft, step: Step, datasets: Mapping[str, Dataset]) -> Array:
    """What the examples lead to, by domain. (S, N)"""
    world = step.world
    shown_SN = world.demonstrated_DN[step.trained]
    target_SN = np.broadcast_to(shown_SN, step.score_DN[step.trained].shape).copy()
    for place, name in enumerate(stage.domains):
        found = [datasets[data] for data in stage.data if name in datasets[data].domains]
        if found:
            led = [_led_to(data, world.index[name], world.constants) for data in found]
            target_SN[place] += stage.data_share * (np.mean(led, axis=0) - target_SN[place])
    return target_SN


def _led_to(data: Dataset, index: int, constants: Mapping[str, Array]) -> Array:
    """The score that training on a dataset's answers tends to in one domain, (N,)."""
    sampled_N = data.sampler_DN[index]
    return np.asarray(sampled_N + constants["imitated_choice"] * (data.kept_DN[index] - sampled_N))
