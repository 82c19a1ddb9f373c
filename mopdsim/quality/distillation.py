"""Distillation: what the teachers know, the cap, the routing, the budget, and the side effects on other
domains.

Leaves out: how a cap is made (`mopdsim.quality.caps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.quality import caps
from mopdsim.quality.feedback import best_of
from mopdsim.quality.interference import column, mean_conflict, scaled_gain, thinned
from mopdsim.quality.learning import hill
from mopdsim.quality.step import Effort, State, Step, recovered
from mopdsim.recipes.recipe import BASE, Distill

SAMPLED = 8  # samples of a prompt among which a verified one counts as found
_TOLD_APART = (0.02, 0.98)  # beyond, a score's logit says more of the test's size than of the model


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
        target_SN = caps.extrapolated(
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
        target_SN = caps.same_base(target_SN, np.asarray(world.further_gap))
    step.move_some("cap", places, target_SN)
    if stage.misrouting:
        target_SN = caps.misrouted(target_SN, lesson.others_SN, stage.misrouting)
        step.move_some("routing", places, target_SN)
    return target_SN


def _collapse(step: Step, before_DN: Array, distance_N: Array) -> None:
    """A student too far from a teacher keeps only part of what it gained."""
    hazard_N = caps.collapse_hazard(distance_N, step.world.constants["collapse_middle"])
    happens_N = step.world.luck.get(step.name, 0.5) < hazard_N
    if not happens_N.any():
        return
    left_DN = before_DN + caps.COLLAPSE_KEPT * (step.score_DN - before_DN)
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
    return caps.across_sizes(score_N, teacher_b=sizes_b[teacher.root], student_b=sizes_b[step.before.root])


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
