"""A candidate plan, and the scenario that it stands for.

A plan is small and hashable: recipe family, groups of domains, steps, GPUs and a few choices. Its recipe is the
catalogue's of that family with stages named by the domains they learn, so that the same teacher in two plans is the
same stage and meets the same draws. Leaves out: what a plan comes to (`mopdsim.plan.evaluation`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, TypeVar

from mopdsim.forecast.scenario import Scenario
from mopdsim.plan.question import Family, Question
from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import REWARD_GROUP, Groups, assemble, specialist
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Balance, Distill, Merge, Normalizer, Rl, renamed

Row = TypeVar("Row")
Group = tuple[str, ...]
TAUGHT: tuple[Family, ...] = ("mopd", "off_policy", "merge")  # families of teachers
DISTILLED: tuple[Family, ...] = ("mopd", "off_policy")
_LONGEST_NAME = 56  # a stage's name has 64 characters, the round's prefix some of them

_FEW = 4  # teachers whose numbers of domains a short name lists one by one
_ROUNDS = ("", "two-round ", "three-round ")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One candidate. groups: the domains of each teacher (mixed_rl: one group; cascade_rl: one domain a step, in
    order; single: one domain). rl_steps: of each group's run; distill_steps: of the student (0 without one); every
    round of several repeats both. gpus: of each RL stage; student_gpus: of the distillation. scale: of a merge's
    sum of changes (0: average). replay: share of a cascade's prompts from the domains before.
    """

    family: Family
    groups: tuple[Group, ...]
    rl_steps: tuple[int, ...]
    distill_steps: int = 0
    gpus: int
    student_gpus: int
    rounds: int = 1
    balance: Balance = "none"
    reward_mix: float = 0.0
    normalizer: Normalizer = "token"
    scale: float = 0.5
    replay: float = 0.0

    def __hash__(self) -> int:
        """Worked out once: a search looks every plan up many times."""
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash(
                (self.groups, self.rl_steps, self.distill_steps, self.gpus, self.student_gpus, self.family)
            )
            self.__dict__["_hash"] = known
        return known

    def but(self, **changes: Any) -> Plan:
        """The plan with some fields changed: `dataclasses.replace`, six times as fast."""
        made = object.__new__(Plan)
        made.__dict__.update(self.__dict__, **changes)
        made.__dict__.pop("_hash", None)
        made.__dict__.pop("structure", None)
        return made

    @cached_property
    def structure(self) -> tuple[Family, tuple[Group, ...], int]:
        """What makes two plans different in kind: family, groups (not their order), rounds."""
        return self.family, tuple(sorted(self.groups)), self.rounds

    @property
    def label(self) -> str:
        """In words: "2 teachers (math+code | swe) distilled into one student"."""
        joined = " | ".join("+".join(group) for group in self.groups)
        many = len(self.groups)
        match self.family:
            case "mixed_rl":
                return "one RL run on all domains"
            case "single":
                return f"one RL run on {joined} alone"
            case "cascade_rl":
                return f"RL on one domain after the other ({joined.replace(' | ', ' > ')})"
            case "merge":
                return f"{many} specialist{'s' * (many > 1)} ({joined}) merged"
            case "mopd" | "off_policy":
                made = "distilled into" if self.family == "mopd" else "imitated by"
                rounds = f", {self.rounds} rounds" if self.rounds > 1 else ""
                return f"{many} teacher{'s' * (many > 1)} ({joined}) {made} one student{rounds}"

    @property
    def short(self) -> str:
        """In at most four words, partitions left out: "MOPD 4x2" has four teachers of two domains each, "merge 3+2+1"
        one of three, one of two and one of one, "MOPD 1x2+6x1" many."""
        sizes = sorted((len(group) for group in self.groups), reverse=True)
        few = len(sizes) <= _FEW and len(set(sizes)) > 1
        dealt = "+".join(map(str, sizes) if few else (f"{n}x{size}" for size, n in Counter(sizes).items()))
        match self.family:
            case "mixed_rl":
                return "mixed RL"
            case "single":
                return f"RL on {self.groups[0][0]} alone"
            case "cascade_rl":
                return "cascade"
            case "merge":
                return f"merge {dealt}"
            case "off_policy":
                return f"off-policy {dealt}"
            case "mopd":
                return f"{_ROUNDS[self.rounds - 1]}MOPD {dealt}"

    def to_document(self) -> dict[str, Any]:
        """As plain data, what its family does not read left out."""
        document: dict[str, Any] = {
            "label": self.label,
            "family": self.family,
            "groups": [list(group) for group in self.groups],
            "rl_steps": list(self.rl_steps),
            "gpus": self.gpus,
            "normalizer": self.normalizer,
        }
        if self.family in DISTILLED:
            document |= {"distill_steps": self.distill_steps, "student_gpus": self.student_gpus}
            document |= {"balance": self.balance, "rounds": self.rounds, "reward_mix": self.reward_mix}
        if self.family == "merge":
            document["scale"] = self.scale
        if self.family == "cascade_rl":
            document["replay"] = self.replay
        return document


def first_of_each(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> list[Row]:
    """The first row of each key, in the order of the rows."""
    found: dict[Hashable, Row] = {}
    for row in rows:
        found.setdefault(key(row), row)
    return list(found.values())


@cache
def group_name(group: Group) -> str:
    """The name of the teacher of these domains: by the domains, or by their digest where that is too long."""
    words = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in group]
    name = "teacher_" + "_and_".join(words)
    plain = all(re.fullmatch(r"[a-z0-9_]+", domain) for domain in group)
    if plain and len(name) <= _LONGEST_NAME:
        return name
    return "teacher_" + hashlib.blake2b("|".join(group).encode(), digest_size=6).hexdigest()


def recipe_of(question: Question, plan: Plan) -> Recipe:
    """The plan's recipe with its amounts."""
    made = _structure(question, plan)
    names, steps = _new_names(made, plan), _steps_by_stage(made, plan)
    group = REWARD_GROUP if plan.reward_mix else 1
    stages = tuple(
        renamed(
            stage.model_copy(update={"normalizer": plan.normalizer}) if isinstance(stage, Rl) else stage,
            names,
        )
        for stage in made.stages
    )
    amounts = {
        names.get(stage.name, stage.name): question.amounts(stage.kind, steps[stage.name], group=group)
        for stage in made.stages
        if isinstance(stage, Rl | Distill)
    }
    return made.model_copy(update={"stages": stages, "amounts": amounts})


def scenario_of(question: Question, plan: Plan, *, draws: int | None = None) -> Scenario:
    """The scenario that the plan stands for, as `mopd forecast` reads it."""
    recipe = recipe_of(question, plan)
    gpus_of = {
        stage.name: plan.gpus if isinstance(stage, Rl) else plan.student_gpus
        for stage in recipe.stages
        if not isinstance(stage, Merge)
    }
    return replace(question.base, recipe=recipe, gpus_of=gpus_of, draws=draws or question.base.draws)


def _structure(question: Question, plan: Plan) -> Recipe:
    """The catalogue's recipe of the plan's family, amounts at their defaults."""
    domains, amounts = question.domains, question.amounts_name
    groups: Groups = [list(group) for group in plan.groups]
    match plan.family:
        case "single":
            return assemble("single_domain", domains, amounts, [specialist("specialist", plan.groups[0])])
        case "mixed_rl":
            return catalogue.mixed_rl(domains, amounts=amounts)
        case "cascade_rl":
            order = [group[0] for group in plan.groups]
            return catalogue.cascade_rl(domains, amounts=amounts, order=order, replay=plan.replay)
        case "mopd":
            return catalogue.mopd(
                domains,
                amounts=amounts,
                groups=groups,
                rounds=plan.rounds,
                reward_mix=plan.reward_mix,
                balance=plan.balance,
            )
        case "off_policy":
            made = catalogue.off_policy(domains, amounts=amounts, groups=groups)
            stages = tuple(
                stage.model_copy(update={"balance": plan.balance}) if isinstance(stage, Distill) else stage
                for stage in made.stages
            )
            return made.model_copy(update={"stages": stages})
        case "merge":
            if plan.scale == 0:
                return catalogue.merge(domains, amounts=amounts, groups=groups, method="average")
            return catalogue.merge(domains, amounts=amounts, groups=groups, scale=plan.scale)


def _new_names(recipe: Recipe, plan: Plan) -> dict[str, str]:
    """The catalogue's teacher_1 of a round becomes the teacher of its domains."""
    if plan.family not in TAUGHT:
        return {}
    return {
        stage.name: re.sub(r"teacher_\d+$", group_name(tuple(stage.domains)), stage.name)
        for stage in recipe.stages
        if isinstance(stage, Rl)
    }


def _steps_by_stage(recipe: Recipe, plan: Plan) -> dict[str, int]:
    """Steps of every trained stage; the groups' runs come in their order, round by round."""
    runs = [stage.name for stage in recipe.stages if isinstance(stage, Rl)]
    steps = {name: plan.rl_steps[place % len(plan.groups)] for place, name in enumerate(runs)}
    return steps | {stage.name: plan.distill_steps for stage in recipe.stages if isinstance(stage, Distill)}
