"""Specialists made one again, by distillation or by merging their weights.

Distillation: what the teachers know, how far a student follows (the cap, wrong routing, extrapolation, collapse), the
budget, and the side effects on other domains. Without a verifiable reward or extrapolation the cap never lies above the
teacher (tested). Leaves out: how specialists come about (`mopdsim.quality.learning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import Array, column, logistic, logit
from mopdsim.quality.learning import best_of, hill
from mopdsim.quality.step import (
    COLLAPSE_KEPT,
    Effort,
    State,
    Step,
    mean_conflict,
    recovered,
    scaled_gain,
    thinned,
)
from mopdsim.recipes.stage import BASE, Distill, Merge

COLLAPSE_WIDTH = 0.25  # of the hazard, in ln KL: so that .04 nats a token is safe and .19 is not
SIZES_B = (0.5, 30.0)  # student and teacher sizes, billions, between which `across_sizes` was fitted
SAMPLED = 8  # samples of a prompt among which a verified one counts as found
_TOLD_APART = (0.02, 0.98)  # beyond, a score's logit says more of the test's size than of the model
_TOLD = (0.005, 0.995)  # scores beyond which a logit says more of the test's size than of the model
MERGE_OVERLAP = 0.07  # what merged specialists lose, as a share of what each pair moved


def across_sizes(teacher: Array, *, teacher_b: float, student_b: float) -> Array:
    """Cap of a student of another size: sizes in billions of parameters.

    1 - Q* = .97 N_S^-.30 min(N_T, N_S)^.27 (1 - Q_T)^.95 (2609.32722, fitted from .5 to 30 billion), clipped
    at the teacher: as printed, a large student would beat its teacher by nine points, which pure distillation
    never does.
    """
    miss = 0.97 * student_b**-0.30 * min(teacher_b, student_b) ** 0.27 * (1 - teacher) ** 0.95
    return np.clip(np.minimum(1 - miss, teacher), 0.0, 1.0)


def extrapolated(start: Array, teacher: Array, asymptote: Array, factor: float, benefit: Array) -> Array:
    """Target of ExOPD (2602.12125), which scales the teacher's change of the reference by `factor`.

    Below 1 the gain in logits is scaled. Above 1 a share `benefit` of (factor - 1) of the teacher's remaining
    headroom is won, so that an under-trained teacher profits most; never beyond the asymptote.
    """
    if factor <= 1:
        return scaled_gain(start, teacher, np.asarray(factor))
    headroom = np.maximum(asymptote - teacher, 0.0)
    return teacher + headroom * np.clip((factor - 1) * benefit, 0.0, 1.0)


def collapse_hazard(kl: Array, middle: Array) -> Array:
    """Probability that distillation collapses, by the teacher's distance from the student in nats a token.

    Logistic in ln KL: .04 is normal, .19 (a foreign teacher) collapsed in 2606.30406.
    """
    return logistic(np.log(np.maximum(kl, 1e-12) / middle) / COLLAPSE_WIDTH)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What teachers know of the student's domains: on each its own teachers' score, the others' mean (for prompts led
    astray), what the other domains' teachers do to it (logits), what a student of this size can take over; the
    farthest teacher's distance, nats a token, (N,); and, [source, target], which domains have other teachers."""

    own_SN: Array
    others_SN: Array
    companions_SN: Array
    within_SN: Array | float
    distance_N: Array
    apart_SSN: Array


def distill(stage: Distill, step: Step, effort: Effort, states: Mapping[str, State]) -> Array:
    """`follow` of the stage's teachers, with what comes along unasked. Returns no distance."""
    own_SN, others_SN, distance_N = _teachers(stage, step, states)
    lesson = Lesson(
        own_SN=own_SN,
        others_SN=others_SN,
        companions_SN=_companions(stage, step, states),
        within_SN=_within_size(stage, step, states),
        distance_N=distance_N,
        apart_SSN=np.expand_dims(_apart(stage), tuple(range(2, step.world.conflict_DDN.ndim))),
    )
    closed_SN, shares_SN = follow(stage, step, effort, lesson)
    _inherit(stage, step, states, closed_SN, shares_SN)
    return np.zeros_like(distance_N)


def follow(stage: Distill, step: Step, effort: Effort, lesson: Lesson) -> tuple[Array, Array]:
    """Closes the gap to the teachers' cap: q0 + rho_opd (1 - exp(-w_d D / D_d)) (Q* - q0). The cap is the own
    teacher's score, moved in logits by what the other teachers gained or lost there. Domains conflict where their
    teachers are others: one teacher of both has settled it. Returns the share of the gap that is closed and the
    effective shares, (S, N) each.
    """
    world, places, constants = step.world, step.trained, step.world.constants
    shares_SN = _distill_shares(stage, step, lesson.own_SN)
    closed_SN = step.closed(shares_SN, effort)
    if not stage.on_policy:
        step.drift(shares_SN, closed_SN)
    before_DN = step.score_DN
    before_SN = before_DN[places]
    target_SN = _cap(stage, step, lesson)
    reached_SN = before_SN + closed_SN * (target_SN - before_SN)
    step.move_some("shortfall", places, reached_SN)
    conflict_SN = mean_conflict(world.conflict_DDN[np.ix_(places, places)], shares_SN, lesson.apart_SSN)
    if len(places) > 1:
        conflict_SN = conflict_SN * constants["conflict_share"]
        scaled_SN = scaled_gain(before_SN, reached_SN, np.exp(conflict_SN))
        low_SN, high_SN = np.minimum(before_SN, target_SN), np.maximum(before_SN, target_SN)
        step.move_some("interference", places, np.minimum(np.maximum(scaled_SN, low_SN), high_SN))
    if stage.reward_mix:
        _reward(stage, step, effort, shares_SN, conflict_SN)
    if stage.on_policy:
        _collapse(step, before_DN, lesson.distance_N)
    step.settle()
    return closed_SN, shares_SN


def _cap(stage: Distill, step: Step, lesson: Lesson) -> Array:
    """What the student tends to, each step on the way booked: where published studies say how much of its teachers'
    gain a student keeps, that; else the gap of our own runs. (S, N)"""
    world, places, constants = step.world, step.trained, step.world.constants
    target_SN = lesson.own_SN
    if stage.extrapolation != 1:
        target_SN = extrapolated(
            step.score_DN[places],
            target_SN,
            world.asymptote_DN[places],
            stage.extrapolation,
            constants["extrapolation_benefit"],
        )
    target_SN = logistic(logit(target_SN) + lesson.companions_SN)
    if stage.correct_only and not world.recovery:  # verified samples teach more than their sampler does
        solved_SN = best_of(target_SN, SAMPLED, constants["prompt_spread"])
        target_SN = target_SN + constants["imitated_choice"] * (solved_SN - target_SN)
    step.move_some("gain", places, target_SN)
    target_SN = np.minimum(target_SN, lesson.within_SN)
    if world.recovery:
        balanced = stage.balance == "token_share"
        strategy = ("mopd_balanced" if balanced else "mopd") if stage.on_policy else "off_policy"
        target_SN = recovered(step, strategy, step.before.score_DN[places], target_SN)
    if world.further_gap:
        target_SN = np.clip(target_SN - world.further_gap, 0.0, 1.0)
    step.move_some("cap", places, target_SN)
    if stage.misrouting:
        target_SN = (1 - stage.misrouting) * target_SN + stage.misrouting * lesson.others_SN
        step.move_some("routing", places, target_SN)
    return target_SN


def _collapse(step: Step, before_DN: Array, distance_N: Array) -> None:
    """A student too far from a teacher keeps only part of what it gained."""
    hazard_N = collapse_hazard(distance_N, step.world.constants["collapse_middle"])
    happens_N = step.world.luck.get(step.name, 0.5) < hazard_N
    if not happens_N.any():
        return
    left_DN = before_DN + COLLAPSE_KEPT * (step.score_DN - before_DN)
    step.move("collapse", np.where(happens_N, np.minimum(left_DN, step.score_DN), step.score_DN))


def _teachers(stage: Distill, step: Step, states: Mapping[str, State]) -> tuple[Array, Array, Array]:
    """Scores of each domain's own teachers and of all others, (S, N), and the farthest teacher's distance,
    (N,).
    """
    own, others = [], []
    for name, place in zip(stage.domains, step.trained, strict=True):
        serving = stage.teachers_of(name)
        score_N = sum(
            (share * states[teacher].score_DN[place] for teacher, share in serving.items()), np.zeros(1)
        )
        rest = [states[t.stage].score_DN[place] for t in stage.teachers if name not in t.domains]
        own.append(score_N)
        others.append(np.mean(rest, axis=0) if rest else score_N)
    distance_N = np.max([distance(name, stage.init, states) for name in stage.teacher_names], axis=0)
    return np.stack(own), np.stack(others), distance_N


def _apart(stage: Distill) -> Array:
    """Whether two domains have no teacher in common, 1 or 0. (S, S)"""
    serving = [stage.teachers_of(name).keys() for name in stage.domains]
    return np.array([[float(not one & other) for other in serving] for one in serving])


def _companions(stage: Distill, step: Step, states: Mapping[str, State]) -> Array:
    """`companions` of each domain: the teachers of others. (S, N)"""
    world = step.world
    pulls_SN, count_S = np.zeros_like(step.score_DN[step.trained]), np.zeros(len(step.trained))
    for teacher in stage.teachers:
        others = [row for row, name in enumerate(stage.domains) if name not in teacher.domains]
        places = step.trained[others]
        after_ON = states[teacher.stage].score_DN[places]
        pulls_SN[others] += pull(step.score_DN[places], after_ON, world.constants)
        count_S[others] += 1
    return companions(pulls_SN, column(count_S, pulls_SN))


def companions(pulls_SN: Array, count: Array | float) -> Array:
    """What other teachers do to a domain's target, in logits: the sum of their n pulls, thinned. (S, N)"""
    return np.asarray(pulls_SN * thinned(count))


def pull(before_N: Array, after_N: Array, constants: Mapping[str, Array]) -> Array:
    """One teacher's pull on domains that it does not teach, in logits, (..., N): a share of what it gained there lifts
    the student. What it lost drags nobody down: a student sees a teacher on that teacher's prompts alone."""
    return np.asarray(constants["companion_lift"] * np.maximum(_moved(before_N, after_N), 0.0))


def _moved(before: Array, after: Array) -> Array:
    """By how many logits a score moved, as far as tests tell."""
    after, before = np.clip(after, *_TOLD_APART), np.clip(before, *_TOLD_APART)
    return np.asarray(np.log(after * (1 - before) / (before * (1 - after))))  # one logarithm, not two


def _within_size(stage: Distill, step: Step, states: Mapping[str, State]) -> Array:
    """What a student of this size can take over from its teachers, 1 where they grew from the same model. (S, N)"""
    within_SN = np.ones_like(step.score_DN[step.trained])
    for row, (name, place) in enumerate(zip(stage.domains, step.trained, strict=True)):
        serving = stage.teachers_of(name)
        if any(states[teacher].root != step.before.root for teacher in serving):
            within_SN[row] = sum(
                share * _followed(states[teacher], place, step) for teacher, share in serving.items()
            )
    return within_SN


def _followed(teacher: State, place: int, step: Step) -> Array:
    """How far the student can follow one teacher on the domain at `place`. (N,)"""
    score_N = teacher.score_DN[place]
    if teacher.root == step.before.root:
        return score_N
    sizes_b = step.world.sizes_b
    return across_sizes(score_N, teacher_b=sizes_b[teacher.root], student_b=sizes_b[step.before.root])


def distance(teacher: str, student: str, states: Mapping[str, State]) -> Array:
    """Nats a token between two policies, (N,), along the lineages from their last common stage; a distillation counts
    as none, since it moves towards teachers."""
    ends = states[teacher].lineage, states[student].lineage
    apart = set(ends[0]) ^ set(ends[1])
    return sum((states[name].kl_N for name in apart), np.zeros_like(states[BASE].kl_N))


def _distill_shares(stage: Distill, step: Step, taught_SN: Array) -> Array:
    """Effective shares under the stage's balance, (S, N). Signals count as alike: how they differ between domains did
    not pay as an unknown, so that a balance by their dispersion changes nothing here."""
    shares_SN = step.shares(by_length=stage.normalizer == "token" and stage.balance != "token_share")
    if stage.balance == "remaining_gap":
        gaps_SN = np.maximum(taught_SN - step.score_DN[step.trained], 1e-3)
        shares_SN = shares_SN * gaps_SN / (shares_SN * gaps_SN).sum(axis=0)
    return shares_SN


def _inherit(
    stage: Distill, step: Step, states: Mapping[str, State], closed_SN: Array, shares_SN: Array
) -> None:
    """Domains without a teacher inherit part of the teachers' change on them: iota times the sum of w_j T_jo,
    in logits."""
    others = step.untrained
    if len(others) == 0:
        return
    before_ON = step.score_DN[others]
    change_ON = np.zeros_like(before_ON)
    for place, name in enumerate(stage.domains):
        for teacher, share in stage.teachers_of(name).items():
            moved_ON = _moved(before_ON, states[teacher].score_DN[others])
            change_ON = change_ON + share * shares_SN[place] * closed_SN[place] * moved_ON
    change_ON = step.world.constants["inherited_bias"] * change_ON
    step.move_some("bias", others, logistic(logit(before_ON) + change_ON))


def _reward(stage: Distill, step: Step, effort: Effort, shares_SN: Array, conflict_SN: Array) -> None:
    """A verifiable reward mixed in goes on after the cap, towards what RL on the same prompts tends to."""
    world, places = step.world, step.trained
    score_SN = step.score_DN[places]
    tends_SN = scaled_gain(world.start_DN[places], world.asymptote_DN[places], np.exp(conflict_SN))
    climbed_SN = hill(shares_SN * effort.compute_N / world.midpoint_DN[places], world.steepness_DN[places])
    # the variance of a verdict over its largest: none where all fail
    signal_SN = 4 * score_SN * (1 - score_SN)
    share_SN = min(stage.reward_mix, 1.0) * world.constants["reward_gain"] * signal_SN
    step.move_some("reward", places, score_SN + share_SN * np.maximum(tends_SN - score_SN, 0.0) * climbed_SN)


def merge(stage: Merge, step: Step, states: Mapping[str, State]) -> Array:
    """With T_jd what input j moved on domain d in logits, by its weight w_j: q0 + lambda^p (T_d + lambda sum of the
    other T_jd) - c lambda^2 sum over pairs i, j of w_i w_j (|T_id| + |T_jd|), with T_d the largest move of any input;
    never above the best of its inputs. Returns the inputs' mean distance, nats a token, (N,).

    Weights halfway to a specialist's keep more than half of what it gained (p below 1), and what the others moved on
    its domain counts for less; lambda above 1 counts as 1 here. The loss to overlap c is that of three specialists'
    whole sum (2606.30406), which no run of ours tells.
    What is gained is scaled in logits by exp(share kbar_d), kbar_d = (n - 1)^-1/2 sum over j of K_jd a_jd over the n
    domains that any input gained on; a_jd is how far j and d were gained by different inputs, from 0 to 1: inputs that
    learned both have settled their conflict."""
    weights = np.array(stage.weights or np.ones(len(stage.inputs)))
    factor = 1 / float(weights.sum()) if stage.method == "average" else stage.scale
    density = stage.density if stage.method == "ties" else 1.0
    before_DN, constants = step.score_DN, step.world.constants
    inputs_IDN = np.stack([states[name].score_DN for name in stage.inputs])
    moved_IDN = logit(np.clip(inputs_IDN, *_TOLD)) - logit(np.clip(before_DN, *_TOLD))
    weighted_IDN = column(weights, moved_IDN) * moved_IDN
    share = min(factor, 1.0)
    own_DN = (1 - share) * weighted_IDN.max(axis=0) + share * weighted_IDN.sum(axis=0)
    gained_DN = factor ** constants["merge_exponent"] * own_DN
    step.move("gain", logistic(logit(before_DN) + gained_DN))
    overlap_DN = np.tensordot(weights * (weights.sum() - weights), np.abs(moved_IDN), 1)
    loss_DN = MERGE_OVERLAP * density * factor**2 * overlap_DN
    step.move("interference", logistic(logit(before_DN) + gained_DN - loss_DN))
    conflict_DN = _kept_apart(np.maximum(inputs_IDN - before_DN, 0.0), step)
    factor_DN = np.exp(constants["conflict_share"] * conflict_DN)
    scaled_DN = scaled_gain(before_DN, step.score_DN, factor_DN)
    step.move("interference", np.where(step.score_DN > before_DN, scaled_DN, step.score_DN))
    if step.world.recovery:
        strategy = "merge_average" if stage.method == "average" else "merge_sum"
        shares = step.world.recovery
        share_N = shares.get(strategy, shares["unknown"])
        step.move("cap", scaled_gain(before_DN, step.score_DN, share_N / np.mean(share_N)))
    step.move("cap", np.minimum(step.score_DN, np.maximum(before_DN, inputs_IDN.max(axis=0))))
    step.settle()
    return np.mean([states[name].kl_N for name in stage.inputs], axis=0)


def _kept_apart(gained_IDN: Array, step: Step) -> Array:
    """kbar of a merge: conflicts of domains that different inputs gained on, sum over j of K_jd a_jd with a_jd = 1 -
    sum over inputs i of s_ij s_id and s the inputs' shares in a domain's gain. (D, N)"""
    whole_DN, conflict_DDN = gained_IDN.sum(axis=0), step.world.conflict_DDN
    share_IDN = gained_IDN / np.maximum(whole_DN, 1e-12)
    all_DN = np.einsum("jd...,j...->d...", conflict_DDN, (whole_DN > 0).astype(float))
    felt_IDN = np.einsum("jd...,ij...->id...", conflict_DDN, share_IDN)
    settled_DN = np.einsum("id...,id...->d...", share_IDN, felt_IDN)
    return np.asarray(thinned((whole_DN > 0).sum(axis=0) - 1.0) * (all_DN - settled_DN))
