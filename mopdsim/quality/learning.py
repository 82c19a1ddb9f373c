"""Learning without a teacher: reinforcement learning, imitation of demonstrations, and merging of weights.

Progress goes with FLOPs times rate^a times batch^-b. Adam's steps have the length of the rate whatever the gradient, so
that at equal FLOPs a higher rate and a smaller batch go farther: a = b = 1 where the length of steps is what limits
training, a = b = 0 where samples are. Both exponents are fitted. PPO climbs GRPO's curve: its value and scoring passes
are cost. Leaves out: distillation (`mopdsim.quality.distillation`), judges (`mopdsim.quality.feedback`), schedules
(weighting FLOPs by a decaying rate fitted our runs no better), rates and batches of other amounts than `tiny`, which
are taken as usual: no run of ours tells what others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.quality.feedback import Dataset, Judge, not_below, pressure
from mopdsim.quality.interference import (
    column,
    effective_share,
    mean_conflict,
    scaled_gain,
    thinned,
    transfer,
)
from mopdsim.quality.step import Effort, State, Step, recovered, seeded_asymptote, with_rows
from mopdsim.quality.world import World
from mopdsim.recipes.amounts import Amounts, AmountsName, SpendingKind, default_amounts
from mopdsim.recipes.recipe import Merge, Rl, Sft

LEARNING: frozenset[SpendingKind] = frozenset({"rl", "sft", "distill", "preference"})
_TOLD = (0.005, 0.995)  # scores beyond which a logit says more of the test's size than of the model
RATE_EXPONENT = (
    0.5  # how much farther a higher rate gets: between progress by samples (0) and by Adam's steps (1)
)
MERGE_OVERLAP = 0.07  # what merged specialists lose, as a share of what each pair moved
_CERTAIN = (0.01, 0.99)  # shares of a curve beyond which a measured score says nothing of its midpoint
# a judge is as good as its comparisons are many, whatever the rate
BREAKING_COMPUTE = 1e5  # FLOPs per active parameter: about the C_mid of a tiny domain


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
        pressed = pressure(
            tuple(stage.domains), stage.reward_models, stage.kl_coefficient, step, judges, spent_SN
        )
        paced_SN, won_SN = spent_SN * pressed.pace_SN, pressed.won_SN
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


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What the inputs of a merge bring together, before it is scaled, (D, N) each, in logits. moved_DN: sum of what
    they moved, by weight w_i; strongest_DN: the largest of these; overlap_DN: sum over pairs of w_i w_j (|T_i| +
    |T_j|); conflict_DN: kbar; highest_DN: score of the best input; weight: the sum of weights."""

    moved_DN: Array
    strongest_DN: Array
    overlap_DN: Array
    conflict_DN: Array
    highest_DN: Array
    weight: float

    @classmethod
    def of(cls, stage: Merge, step: Step, inputs_IDN: Array) -> Brought:
        """From the inputs' scores."""
        weights = np.array(stage.weights or np.ones(len(stage.inputs)))
        before_DN = step.score_DN
        moved_IDN = logit(np.clip(inputs_IDN, *_TOLD)) - logit(np.clip(before_DN, *_TOLD))
        weighted_IDN = column(weights, moved_IDN) * moved_IDN
        return cls(
            moved_DN=weighted_IDN.sum(axis=0),
            strongest_DN=weighted_IDN.max(axis=0),
            overlap_DN=np.tensordot(weights * (weights.sum() - weights), np.abs(moved_IDN), 1),
            conflict_DN=_kept_apart(np.maximum(inputs_IDN - before_DN, 0.0), step),
            highest_DN=inputs_IDN.max(axis=0),
            weight=float(weights.sum()),
        )

    def some(self, places: Sequence[int]) -> Brought:
        """Of some candidates, the axis before the draws."""
        arrays = {name: value[:, places] for name, value in vars(self).items() if name.endswith("_DN")}
        return replace(self, **arrays)


def merge(stage: Merge, step: Step, states: Mapping[str, State]) -> Array:
    """`blend` of the stage's inputs. Returns their mean distance, nats a token, (N,)."""
    blend(stage, step, Brought.of(stage, step, np.stack([states[name].score_DN for name in stage.inputs])))
    return np.mean([states[name].kl_N for name in stage.inputs], axis=0)


def blend(stage: Merge, step: Step, brought: Brought) -> None:
    """In logits q0 + lambda^p (T_d + lambda sum of the other T_jd) - c lambda^2 sum over pairs of (|T_id| + |T_jd|),
    with T_d the largest move of any input; never above the best of its inputs.

    Weights halfway to a specialist's keep more than half of what it gained (p below 1), and what the others moved on
    its domain counts for less; lambda above 1 counts as 1 here. The loss to overlap c is that of three specialists'
    whole sum (2606.30406), which no run of ours tells.
    What is gained is scaled in logits by exp(share kbar_d), kbar_d = (n - 1)^-1/2 sum over j of K_jd a_jd over the n
    domains that any input gained on; a_jd is how far j and d were gained by different inputs, from 0 to 1: inputs that
    learned both have settled their conflict."""
    factor = 1 / brought.weight if stage.method == "average" else stage.scale
    density = stage.density if stage.method == "ties" else 1.0
    before_DN, constants = step.score_DN, step.world.constants
    share = min(factor, 1.0)
    own_DN = (1 - share) * brought.strongest_DN + share * brought.moved_DN
    gained_DN = factor ** constants["merge_exponent"] * own_DN
    step.move("gain", logistic(logit(before_DN) + gained_DN))
    loss_DN = MERGE_OVERLAP * density * factor**2 * brought.overlap_DN
    step.move("interference", logistic(logit(before_DN) + gained_DN - loss_DN))
    factor_DN = np.exp(constants["conflict_share"] * brought.conflict_DN)
    scaled_DN = scaled_gain(before_DN, step.score_DN, factor_DN)
    step.move("interference", np.where(step.score_DN > before_DN, scaled_DN, step.score_DN))
    if step.world.recovery:
        strategy = "merge_average" if stage.method == "average" else "merge_sum"
        shares = step.world.recovery
        share_N = shares.get(strategy, shares["unknown"])
        step.move("cap", scaled_gain(before_DN, step.score_DN, share_N / np.mean(share_N)))
    step.move("cap", np.minimum(step.score_DN, np.maximum(before_DN, brought.highest_DN)))
    step.settle()


def _kept_apart(gained_IDN: Array, step: Step) -> Array:
    """kbar of a merge: conflicts of domains that different inputs gained on, sum over j of K_jd a_jd with a_jd = 1 -
    sum over inputs i of s_ij s_id and s the inputs' shares in a domain's gain. (D, N)"""
    whole_DN, conflict_DDN = gained_IDN.sum(axis=0), step.world.conflict_DDN
    share_IDN = gained_IDN / np.maximum(whole_DN, 1e-12)
    all_DN = np.einsum("jd...,j...->d...", conflict_DDN, (whole_DN > 0).astype(float))
    felt_IDN = np.einsum("jd...,ij...->id...", conflict_DDN, share_IDN)
    settled_DN = np.einsum("id...,id...->d...", share_IDN, felt_IDN)
    return np.asarray(thinned((whole_DN > 0).sum(axis=0) - 1.0) * (all_DN - settled_DN))
