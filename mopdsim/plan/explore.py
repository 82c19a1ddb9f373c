"""The search: seed plans of every family, all groupings screened, the best refined by small moves.

Learning curves with B > 1 are not concave, so nothing here follows a slope: allocations come from a grid of halvings of
what the limits allow, and refinement tries every single move around a few good plans (steps by a factor, GPUs, each
choice of its family) until none is better. Groupings of up to six domains are enumerated; of more, the signed graph's
are taken and domains moved one by one. Leaves out: evaluation (`mopdsim.plan.evaluation`), groupings
(`mopdsim.plan.grouping`), what is said of the result (`mopdsim.plan.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from math import prod
from typing import Any

from mopdsim.base.errors import InfeasibleError
from mopdsim.facts.model import title
from mopdsim.plan.candidate import DISTILLED, TAUGHT, Plan, first_of_each
from mopdsim.plan.evaluation import Evaluator, Outcome
from mopdsim.plan.grouping import ENUMERATED, Grouping, friendliness, neighbours, partitions, suggested
from mopdsim.plan.question import Family, Question
from mopdsim.recipes.stage import Balance

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


RL_HALVINGS, DISTILL_HALVINGS = 8, 7


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Total RL steps and distillation steps to try, most first."""

    rl: list[int]
    distill: list[int]


def grid(evaluator: Evaluator) -> Grid:
    """Halvings of the steps that would use up all that the limits allow. InfeasibleError where not one step fits.

    The evaluator is one of its own, for what is tried here may be of a family that the question leaves out.
    """
    question = evaluator.question
    domains, pool = question.domains, question.pool
    step = 64
    mixed = Plan(family="mixed_rl", groups=(domains,), rl_steps=(step,), gpus=pool, student_gpus=pool)
    one = mixed.but(family="mopd", distill_steps=step)
    alone, taught = (outcome.median["gpu_hours"] for outcome in evaluator.evaluate([mixed, one]))
    if not math.isfinite(taught):
        raise InfeasibleError(
            f"{title(question.base.model)} does not fit on {pool} x {question.base.gpu} for these domains: give more "
            "GPUs, a GPU with more memory or a smaller model"
        )
    hours = question.most_gpu_hours
    return Grid(
        rl=_halvings(hours / alone * step, RL_HALVINGS),
        distill=_halvings(hours / max(taught - alone, alone / 100) * step / 2, DISTILL_HALVINGS),
    )


def _halvings(most: float, count: int) -> list[int]:
    return list(dict.fromkeys(max(LEAST_STEPS, round(min(most, 1e6) / 2**place)) for place in range(count)))


_SCREENED = 1  # allocations that every grouping is tried with
_KEPT = 6  # groupings a family keeps after the screening
_BEAM = 3  # plans of a family whose moves are tried
_ROUNDS, _ROUGH_ROUNDS = 20, 2  # of moves around the best plans
_LEAPS = (2, 3, 5, 8)  # moves made at once
_ORDERS = 16  # of a cascade, tried at first
_GAIN = 1e-6


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to: every outcome, best first, and how many of them there are."""

    evaluator: Evaluator
    outcomes: list[Outcome]

    @cached_property
    def feasible(self) -> list[Outcome]:
        """Those that keep every limit and minimum, best first."""
        return [outcome for outcome in self.outcomes if outcome.feasible]


def explore(question: Question, *, rough: bool = False) -> Found:
    """Searches every family that the question allows. The same question gives the same result. rough: of groupings the
    signed graph's alone, and few moves."""
    evaluator = Evaluator(question)
    search = _Search(evaluator, grid(Evaluator(question, evaluator.stock)), rough)
    for family in question.families:
        search.family(family)
    return Found(evaluator=evaluator, outcomes=evaluator.best(evaluator.found.values()))


class _Search:
    """One search under way."""

    def __init__(self, evaluator: Evaluator, steps: Grid, rough: bool) -> None:
        self.rough = rough
        self.evaluator = evaluator
        self.question = evaluator.question
        self.grid = steps

    def family(self, family: Family) -> None:
        """Seeds, screening, refinement of one family."""
        match family:
            case "mixed_rl" | "single":
                self.refine(self.seed(self.undistilled(family)))
            case "cascade_rl":
                if len(self.question.domains) > 1:
                    self.refine(self.seed(self.cascades()))
            case "mopd" | "off_policy" | "merge":
                kept = self.screen(family)
                seeds = [near for plan in kept for near in self.allocations(family, plan.groups, finely=True)]
                self.refine([*kept, *(outcome.plan for outcome in self.top(seeds))])
                if family == "mopd":
                    for rounds in range(2, self.question.max_rounds + 1):
                        self.more_rounds(rounds)

    def ranked(self, plans: Iterable[Plan]) -> list[Outcome]:
        """The plans' outcomes, best first; a merge of one specialist is that specialist, and is not tried."""
        plans = [plan for plan in plans if plan.family != "merge" or len(plan.groups) > 1]
        return self.evaluator.best(self.evaluator.evaluate(plans))

    def top(self, plans: Iterable[Plan]) -> list[Outcome]:
        return self.ranked(plans)[:_BEAM]

    def seed(self, plans: Iterable[Plan]) -> list[Plan]:
        return [outcome.plan for outcome in self.top(plans)]

    def undistilled(self, family: Family) -> list[Plan]:
        """One RL run over all domains, or over each alone."""
        domains = self.question.domains
        groups = [domains] if family == "mixed_rl" else [(name,) for name in domains]
        return [
            Plan(
                family=family, groups=(group,), rl_steps=(steps,), gpus=gpus, student_gpus=self.question.pool
            )
            for group, steps, gpus in product(groups, self.grid.rl, self.evaluator.options)
        ]

    def cascades(self) -> Iterator[Plan]:
        """Orders of the domains: all of up to three, of more rotations of the given order and its reverse."""
        domains = self.question.domains
        turned = [domains[place:] + domains[:place] for place in range(len(domains))]
        orders = [*turned, *(order[::-1] for order in turned)]
        if len(domains) <= 3:
            orders = list(permutations(domains))
        for order in orders[:_ORDERS]:
            for total in self.grid.rl[:5]:
                steps = (max(LEAST_STEPS, total // len(domains)),) * len(domains)
                groups, gpus = tuple((name,) for name in order), self.question.pool
                yield Plan(family="cascade_rl", groups=groups, rl_steps=steps, gpus=gpus, student_gpus=gpus)

    def allocations(self, family: Family, groups: Grouping, *, finely: bool = False) -> list[Plan]:
        """The grid of total RL steps, distillation steps and GPUs a teacher, for one grouping. finely: half as far
        apart, on the three most useful numbers of GPUs."""
        many = len(self.question.domains)
        rl = self.grid.rl if not finely else [*self.grid.rl, *(round(s * 0.7) for s in self.grid.rl[:4])]
        distill = self.grid.distill if family in DISTILLED else [0]
        scales = [0.0, 0.3, 0.5, 1.0] if family == "merge" else [0.5]
        options = self.evaluator.options
        useful = {options[0], fitting(options, self.question, len(groups))}
        return [
            Plan(
                family=family,
                groups=groups,
                rl_steps=tuple(max(LEAST_STEPS, round(total * len(group) / many)) for group in groups),
                distill_steps=steps,
                gpus=gpus,
                student_gpus=options[0],
                scale=scale,
            )
            for total, steps, gpus, scale in product(rl, distill, sorted(useful), scales)
        ]

    def screen(self, family: Family) -> list[Plan]:
        """The best plans of different groupings: all groupings, or the graph's and those around them."""
        question = self.question
        first = self.graph_groupings()
        tried = self.ranked(plan for groups in first for plan in self.allocations(family, groups))
        models = first_of_each(tried, lambda outcome: len(outcome.plan.groups))[:_SCREENED]
        if self.rough:
            return [outcome.plan for outcome in _distinct(tried, _KEPT)]
        if len(question.domains) <= ENUMERATED:
            groupings: Sequence[Grouping] = list(partitions(question.domains, question.max_teachers))
            plans = [regrouped(model.plan, groups) for model in models for groups in groupings]
            tried += self.ranked(plans)
        else:
            tried += self.walk_groupings(models)
        return [outcome.plan for outcome in _distinct(self.evaluator.best(tried), _KEPT)]

    def suggested(self) -> list[Grouping]:
        """The signed graph's groupings."""
        weight_DD = friendliness(self.evaluator.stock.world.conflict_DDN)
        return suggested(self.question.domains, weight_DD, self.question.max_teachers)

    def graph_groupings(self) -> list[Grouping]:
        """At most five of the signed graph's groupings, from many teachers to one."""
        found = sorted(self.suggested(), key=len, reverse=True)
        return [found[round(place * (len(found) - 1) / 4)] for place in range(min(5, len(found)))]

    def walk_groupings(self, models: Sequence[Outcome]) -> list[Outcome]:
        """Local search from the graph's groupings: the best neighbour of each, until none is better."""
        question = self.question
        plans = [regrouped(model.plan, groups) for model in models for groups in self.suggested()]
        tried = self.ranked(plans)
        for start in _distinct(self.evaluator.best(tried), _BEAM):
            here = start
            for _ in range(_ROUNDS):
                near = neighbours(here.plan.groups, question.domains, question.max_teachers)
                found = self.ranked(regrouped(here.plan, groups) for groups in near)
                tried += found
                if not found or not _better(found[0], here):
                    break
                here = found[0]
        return tried

    def more_rounds(self, rounds: int) -> None:
        """The groupings that did best in one round less, with their steps spread over this many."""
        fewer = [
            o
            for o in self.evaluator.found.values()
            if o.plan.family == "mopd" and o.plan.rounds == rounds - 1
        ]
        starts = [outcome.plan for outcome in _distinct(self.evaluator.best(fewer), _BEAM)]
        plans = []
        for plan in starts:
            for rl, distill in product((0.25, 0.5, 1.0), (0.25, 0.5, 1.0)):
                steps = tuple(max(LEAST_STEPS, round(count * rl)) for count in plan.rl_steps)
                student = max(LEAST_STEPS, round(plan.distill_steps * distill))
                plans.append(plan.but(rounds=rounds, rl_steps=steps, distill_steps=student))
        self.refine(self.seed(plans))

    def refine(self, plans: Sequence[Plan]) -> None:
        """Every single move around the best few, and the best moves of each made together, until none is better."""
        if not plans:
            return
        chained = plans[0].family == "cascade_rl" or plans[0].rounds > 1  # dear to evaluate
        width = 1 if chained else _BEAM
        beam = self.top(plans)[:width]
        for _ in range(_ROUGH_ROUNDS if self.rough else _ROUNDS):
            near = [(one, moves(one.plan, self.evaluator.options, self.question)) for one in beam]
            tried = self.ranked(plan for _, plans in near for plan in plans)
            leaps = [leap for one, plans in near for leap in self.leaps(one, plans)]
            found = self.evaluator.best([*beam, *tried, *self.ranked(leaps)])[:width]
            if not _better(found[0], beam[0]):
                return
            beam = found

    def leaps(self, here: Outcome, near: Sequence[Plan]) -> list[Plan]:
        """The best moves from here, some of them at once: so a search comes in one step to where it would in many."""
        better = [o.plan for o in self.ranked(near) if _better(o, here) and o.plan.groups == here.plan.groups]
        return [together(here.plan, better[:count]) for count in _LEAPS if count <= len(better)]


def fitting(options: Sequence[int], question: Question, teachers: int) -> int:
    """GPUs a teacher so that as many run side by side as teams and teachers allow."""
    together = min(teachers, question.base.teams or teachers)
    return max((gpus for gpus in options if gpus * together <= question.pool), default=options[-1])


def _better(one: Outcome, other: Outcome) -> bool:
    if one.feasible and other.feasible:
        return one.value > other.value + _GAIN
    return one.excess < other.excess - _GAIN and not other.feasible


def _distinct(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """The best outcomes of different groupings."""
    return first_of_each(outcomes, lambda outcome: outcome.plan.groups)[:count]
