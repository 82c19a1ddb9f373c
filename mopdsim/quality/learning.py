"""Learning without a teacher: reinforcement learning, imitation of demonstrations, and merging of weights.

Leaves out: distillation (`mopdsim.quality.distillation`), judges (`mopdsim.quality.feedback`). PPO climbs GRPO's curve:
its value and scoring passes are cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.quality import caps
from mopdsim.quality.feedback import Dataset, Judge, not_below, pressure
from mopdsim.quality.interference import effective_share, mean_conflict, scaled_gain, transfer
from mopdsim.quality.step import Effort, State, Step, recovered, seeded_asymptote
from mopdsim.recipes.recipe import Merge, Rl, Sft


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


def learn_by_reward(stage: Rl, step: Step, effort: Effort, judges: Mapping[str, Judge]) -> Array:
    """RL on the stage's domains: q0 + rho (A - q0) H(w_d C; C_mid exp(-phi kbar), B), and of that what a reward
    model in the verifier's place wins. Returns nats a token, (N,).
    """
    world, places = step.world, step.trained
    weights_S = step.shares_S * np.array([stage.reward_weights.get(name, 1.0) for name in stage.domains])
    spread_SN = np.sqrt(np.maximum(step.score_DN[places] * (1 - step.score_DN[places]), 1e-6))
    shares_SN = effective_share(
        weights_S, world.length_DN[places], spread_SN,
        by_length=stage.normalizer == "token", by_dispersion=stage.advantage_scale == "none",
    )  # fmt: skip
    conflict_SN = mean_conflict(
        world.conflict_DDN[np.ix_(places, places)], shares_SN, world.constants["pair_exponent"]
    )
    steep_SN = world.steepness_DN[places]
    whole_SN = effort.compute_N / world.midpoint_DN[places]
    slowed_SN = mean_conflict(
        world.speed_conflict_DDN[np.ix_(places, places)], shares_SN, world.constants["pair_exponent"]
    )
    speed_SN = np.exp(world.constants["efficiency_shift"] * slowed_SN)
    pressed = pressure(
        tuple(stage.domains), stage.reward_models, stage.kl_coefficient, step, judges, whole_SN * shares_SN
    )
    speed_SN = speed_SN * pressed.pace_SN
    progress_SN = hill(whole_SN * shares_SN * speed_SN, steep_SN)
    kl_SN = world.constants["climb_kl"] * shares_SN * progress_SN
    step.forget(kl_SN, demonstrations=stage.demonstration_mix)
    before_SN, start_SN = step.score_DN[places], world.start_DN[places]
    asymptote_SN = seeded_asymptote(step)
    if (
        len(places) > 1 or not step.from_root
    ):  # what goes on from a trained model: a cascade, or a second round
        strategy = "mixed_rl" if step.from_root else "cascade_rl"
        asymptote_SN = recovered(step, strategy, start_SN, asymptote_SN)
    if step.booked is not None:
        step.move_some("gain", places, climb(before_SN, start_SN, asymptote_SN, whole_SN, steep_SN))
        shared_SN = climb(before_SN, start_SN, asymptote_SN, whole_SN * shares_SN, steep_SN)
        step.move_some("shortfall", places, shared_SN)
    if step.from_root:
        climbed_SN = before_SN + (asymptote_SN - before_SN) * progress_SN
    else:
        climbed_SN = climb(before_SN, start_SN, asymptote_SN, whole_SN * shares_SN * speed_SN, steep_SN)
    if len(places) > 1:
        climbed_SN = scaled_gain(before_SN, climbed_SN, np.exp(conflict_SN))
    step.move_some("interference", places, climbed_SN)
    if stage.reward_models:
        won_SN = before_SN + pressed.won_SN * (climbed_SN - before_SN)
        step.move_some("judge", places, not_below(step, won_SN, before_SN))
    step.clash(progress_SN)
    _spill(step, progress_SN)
    step.settle()
    return kl_SN.sum(axis=0)


def _spill(step: Step, progress_SN: Array) -> None:
    """What training does to the domains left out."""
    others = step.untrained
    if len(others) == 0:
        return
    spill_SON = step.world.spill_DDN[np.ix_(step.trained, others)]
    change_ON, lifted_ON = transfer(progress_SN, spill_SON, step.lifted_DN[others])
    step.lifted_DN = step.lifted_DN.copy()
    step.lifted_DN[others] = lifted_ON
    step.move_some("bias", others, logistic(logit(step.score_DN[others]) + change_ON))


def break_down(step: Step, hazard_N: Array | None) -> None:
    """Breaks domains: with probability 1 - exp(-hazard) only a share of a domain's score is left. It concerns
    every domain for which the world has drawn a chance of breaking, trained or not."""
    if hazard_N is None:
        return
    world, breaks_N = step.world, -np.expm1(-hazard_N)
    after_DN = step.score_DN.copy()
    for name, place in world.index.items():
        luck_N = world.luck.get(f"{step.name}/{name}")
        if luck_N is not None:
            left_N = after_DN[place] * world.constants["broken_share"]
            after_DN[place] = np.where(luck_N < breaks_N, left_N, after_DN[place])
    step.move("collapse", after_DN)


def imitate(stage: Sft, step: Step, effort: Effort, datasets: Mapping[str, Dataset]) -> Array:
    """Fine-tuning closes the gap to what its examples score, which may lie below the start. Returns nats a
    token.

    Chosen samples lead a share of the way from their sampler to what was kept, and lose to exposure where another
    model drew them.
    """
    world, places = step.world, step.trained
    shares_SN = step.shares(by_length=True, by_dispersion=False)
    closed_SN = -np.expm1(-shares_SN * effort.tokens_N / world.distill_tokens_DN[places])
    kl_SN = world.constants["climb_kl"] * shares_SN * closed_SN
    step.forget(kl_SN, world.constants["imitation_forgetting"])
    before_SN = step.score_DN[places]
    target_SN, exposed_SN = _examples(stage, step, datasets)
    step.move_some("gain", places, target_SN)
    if stage.data:
        step.move_some("cap", places, exposed_SN)
    step.move_some("shortfall", places, before_SN + closed_SN * (exposed_SN - before_SN))
    step.settle()
    return kl_SN.sum(axis=0)


def _examples(stage: Sft, step: Step, datasets: Mapping[str, Dataset]) -> tuple[Array, Array]:
    """What the examples lead to, by domain, before and after exposure bias. (S, N)"""
    world = step.world
    shown_SN = world.demonstrated_DN[step.trained]
    target_SN = np.broadcast_to(shown_SN, step.score_DN[step.trained].shape).copy()
    exposed_SN = target_SN.copy()
    for place, name in enumerate(stage.domains):
        index = world.index[name]
        found = [datasets[data] for data in stage.data if name in datasets[data].domains]
        if not found:
            continue
        led = [_led_to(data, stage, step, index) for data in found]
        for part_SN, reached in zip((target_SN, exposed_SN), zip(*led, strict=True), strict=True):
            part_SN[place] += stage.data_share * (np.mean(reached, axis=0) - part_SN[place])
    return target_SN, exposed_SN


def _led_to(data: Dataset, stage: Sft, step: Step, index: int) -> tuple[Array, Array]:
    """The score that training on a dataset's answers tends to in one domain, before and after the exposure
    bias of another model's samples, (N,)."""
    constants, sampled_N = step.world.constants, data.sampler_DN[index]
    reached_N = sampled_N + constants["imitated_choice"] * (data.kept_DN[index] - sampled_N)
    if data.sampler == stage.init:
        return reached_N, reached_N
    return reached_N, caps.off_policy(reached_N, step.world.length_DN[index], constants["exposure"])


def merge(stage: Merge, step: Step, states: Mapping[str, State]) -> Array:
    """q = q0 + sum of lambda_j T_jd - c sum over pairs of lambda_i lambda_j (|T_id| + |T_jd|); of what a specialist
    lost (T < 0) only a share arrives, since the others' weights outvote it; never above the best of its inputs.

    What is gained is scaled in logits by exp(share kbar_d), kbar_d = (n - 1)^-p sum over j of K_jd a_jd over the n
    domains that any input gained on; a_jd is how far j and d were gained by different inputs, from 0 to 1: inputs that
    learned both have settled their conflict."""
    weights = np.array(stage.weights or np.ones(len(stage.inputs)))
    factors = weights / weights.sum() if stage.method == "average" else weights * stage.scale
    density = stage.density if stage.method == "ties" else 1.0
    before_DN = step.score_DN
    moved = [states[name].score_DN - before_DN for name in stage.inputs]
    harm_N = step.world.constants["merge_harm"]
    arriving = [np.where(change > 0, change, harm_N * change) for change in moved]
    summed_DN = sum((factor * change for factor, change in zip(factors, arriving, strict=True)), np.zeros(1))
    overlap_DN = sum(
        (
            factor * (factors.sum() - factor) * np.abs(change)
            for factor, change in zip(factors, moved, strict=True)
        ),
        np.zeros(1),
    )
    step.move("gain", before_DN + summed_DN)
    loss_DN = step.world.constants["merge_overlap"] * density * overlap_DN
    step.move("interference", np.clip(step.score_DN - loss_DN, 0.0, 1.0))
    factor_DN = np.exp(step.world.constants["merge_conflict"] * _kept_apart(moved, step))
    scaled_DN = scaled_gain(before_DN, step.score_DN, factor_DN)
    step.move("interference", np.where(step.score_DN > before_DN, scaled_DN, step.score_DN))
    if step.world.recovery:
        strategy = "merge_average" if stage.method == "average" else "merge_sum"
        shares = step.world.recovery
        share_N = shares.get(strategy, shares["unknown"])
        step.move("cap", scaled_gain(before_DN, step.score_DN, share_N / np.mean(share_N)))
    best_DN = np.max([before_DN, *(states[name].score_DN for name in stage.inputs)], axis=0)
    step.move("cap", np.minimum(step.score_DN, best_DN))
    step.settle()
    return np.mean([states[name].kl_N for name in stage.inputs], axis=0)


def _kept_apart(moved: Sequence[Array], step: Step) -> Array:
    """kbar of a merge: conflicts of domains that different inputs gained on. moved: each input's change. (D, N)"""
    gained_IDN = np.maximum(np.stack(np.broadcast_arrays(*moved)), 0.0)
    whole_DN = gained_IDN.sum(axis=0)
    share_IDN = gained_IDN / np.maximum(whole_DN, 1e-12)
    apart_DDN = (1.0 - np.einsum("ij...,id...->jd...", share_IDN, share_IDN)) * (whole_DN > 0)[:, None]
    world = step.world
    count_N = np.maximum((whole_DN > 0).sum(axis=0) - 1.0, 1.0)
    pull_DN = np.einsum("jd...,jd...->d...", world.conflict_DDN * np.ones_like(apart_DDN), apart_DDN)
    return np.asarray(count_N ** -world.constants["pair_exponent"] * pull_DN)
