"""Single moves around a plan: steps by a factor, GPUs, and each choice of its family.

Leaves out: which plans to move (`mopdsim.plan.search.explore`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

from mopdsim.plan.question import Question
from mopdsim.plan.search.candidate import DISTILLED, TAUGHT, Plan
from mopdsim.plan.search.grouping import Grouping, neighbours
from mopdsim.recipes.recipe import Balance

FACTORS = (0.5, 0.7, 0.85, 1.18, 1.4, 2.0)
BALANCES: tuple[Balance, ...] = ("none", "token_share", "remaining_gap")
REWARD_MIXES = (0.0, 0.5, 1.0)
SCALES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
REPLAYS = (0.0, 0.05, 0.1, 0.2)
LEAST_STEPS = 2
_CHOICES = ("gpus", "student_gpus", "balance", "reward_mix", "normalizer", "scale", "replay")


def moves(plan: Plan, options: Sequence[int], question: Question) -> list[Plan]:
    """Every plan one move away, each once."""
    found = dict.fromkeys(_moves(plan, options, question))
    found.pop(plan, None)
    return list(found)


def together(plan: Plan, moved: Sequence[Plan]) -> Plan:
    """The changes of several plans that are each a move away, with the same groups, made at once: steps by the product
    of their factors, any other choice as the first has it that changes it."""

    def scaled(steps: int, others: Iterable[int]) -> int:
        return _times(steps, prod(other / steps for other in others))

    changes: dict[str, Any] = {
        name: next((made for one in moved if (made := getattr(one, name)) != now), now)
        for name in _CHOICES
        for now in [getattr(plan, name)]
    }
    if plan.distill_steps:
        changes["distill_steps"] = scaled(plan.distill_steps, (one.distill_steps for one in moved))
    columns = zip(plan.rl_steps, *(one.rl_steps for one in moved), strict=True)
    return plan.but(rl_steps=tuple(scaled(steps, others) for steps, *others in columns), **changes)


def _moves(plan: Plan, options: Sequence[int], question: Question) -> Iterator[Plan]:
    yield from _step_moves(plan)
    for gpus in options:
        yield plan.but(gpus=gpus)
        if plan.family in DISTILLED:
            yield plan.but(student_gpus=gpus)
    if any(len(group) > 1 for group in plan.groups) or plan.replay:
        yield plan.but(normalizer="sequence" if plan.normalizer == "token" else "token")
    match plan.family:
        case "mopd":
            yield from (plan.but(balance=balance) for balance in BALANCES)
            yield from (plan.but(reward_mix=mix) for mix in REWARD_MIXES)
        case "off_policy":
            yield from (plan.but(balance=balance) for balance in BALANCES[:2])
        case "merge":
            yield from (plan.but(scale=scale) for scale in SCALES)
        case "cascade_rl":
            yield from (plan.but(replay=replay) for replay in REPLAYS)
            yield from _swapped(plan)
        case "mixed_rl" | "single":
            pass
    if plan.family in TAUGHT and plan.rounds == 1:
        near = neighbours(plan.groups, question.domains, question.max_teachers)
        yield from (regrouped(plan, groups) for groups in near)


def _step_moves(plan: Plan) -> Iterator[Plan]:
    """All runs by a factor, one run by a factor, the student by a factor, one against the other."""
    for factor in FACTORS:
        more = tuple(_times(steps, factor) for steps in plan.rl_steps)
        yield plan.but(rl_steps=more)
        if plan.distill_steps:
            yield plan.but(distill_steps=_times(plan.distill_steps, factor))
            yield plan.but(rl_steps=more, distill_steps=_times(plan.distill_steps, 1 / factor))
        for place in range(len(plan.rl_steps)):
            yield plan.but(rl_steps=_with(plan.rl_steps, place, factor))
    for place in range(len(plan.rl_steps)):
        others = tuple(_times(steps, 0.85) for steps in plan.rl_steps)
        yield plan.but(rl_steps=_with(others, place, 1.4 / 0.85))


def _with(steps: tuple[int, ...], place: int, factor: float) -> tuple[int, ...]:
    return (*steps[:place], _times(steps[place], factor), *steps[place + 1 :])


def _times(steps: int, factor: float) -> int:
    return max(LEAST_STEPS, round(steps * factor))


def _swapped(plan: Plan) -> Iterator[Plan]:
    """Two steps of a cascade that follow one another, exchanged."""
    for place in range(len(plan.groups) - 1):
        groups, steps = list(plan.groups), list(plan.rl_steps)
        groups[place : place + 2] = groups[place : place + 2][::-1]
        steps[place : place + 2] = steps[place : place + 2][::-1]
        yield plan.but(groups=tuple(groups), rl_steps=tuple(steps))


def regrouped(plan: Plan, groups: Grouping) -> Plan:
    """The plan with other groups: every domain keeps its share of the steps."""
    share = {
        name: steps / len(group)
        for group, steps in zip(plan.groups, plan.rl_steps, strict=True)
        for name in group
    }
    steps = tuple(max(LEAST_STEPS, round(sum(share[name] for name in group))) for group in groups)
    return plan.but(groups=groups, rl_steps=steps)
