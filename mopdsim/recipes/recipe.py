"""The recipe language: a post-training recipe is a DAG of stages over named domains.

A stage starts from the weights of another (`init`; "base" is the model the recipe is run on, "smaller" a smaller
one) and is one of a closed set of kinds. Structure (`stages`) and amounts (`amounts`, by stage) are kept apart. Both
engines read this value: the simulator forecasts it, the trainer runs it.
Leaves out: files (`mopdsim.recipes.recipe_file`), ready-made recipes (`mopdsim.recipes.catalogue`), what a domain is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.recipes.amounts import BOLD, Amounts, AmountsName, Value, default_amounts
from mopdsim.recipes.feedback_stages import Preference, RejectionSampling, RewardModel
from mopdsim.recipes.recipe_checks import check_amounts, check_domains, check_judges, check_roles, topological
from mopdsim.recipes.stage import (
    AnyStage,
    Balance,
    Distill,
    DistillLoss,
    Merge,
    Rl,
    Sft,
    Stage,
    Teacher,
    TrainedStage,
    parents,
    read,
)
from mopdsim.recipes.stage_fields import BASE, ROOTS, SMALLER, Name

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "BASE",
    "ROOTS",
    "SMALLER",
    "AnyStage",
    "Balance",
    "Distill",
    "DistillLoss",
    "Merge",
    "Name",
    "Preference",
    "Recipe",
    "RejectionSampling",
    "RewardModel",
    "Rl",
    "Sft",
    "Stage",
    "Teacher",
    "TrainedStage",
    "parents",
    "read",
]


class Recipe(Value):
    """Stages over domains, each after its parents. The stage `output` is the recipe's result.

    domains: specifications of the prompts and verifiers, as the trainer's tasks or the simulator's table read them.
    amounts: by stage name, one for each stage but merges. amounts_name: the named set they started from.
    side_outputs: other models that the recipe delivers, such as a smaller student.
    """

    name: Name
    domains: Annotated[tuple[str, ...], Field(min_length=1)]
    amounts_name: AmountsName
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    amounts: dict[str, Amounts]
    output: str
    side_outputs: tuple[str, ...] = ()

    @field_validator("domains")
    @classmethod
    def _distinct(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if domains.count(domain) > 1:
                raise ValueError(f"{domain!r} is listed twice: list each domain once")
        return domains

    @field_validator("stages")
    @classmethod
    def _ordered(cls, stages: tuple[AnyStage, ...]) -> tuple[AnyStage, ...]:
        return topological(stages)

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        for stage in self.stages:
            check_domains(stage, self.domains)
        names = [stage.name for stage in self.stages]
        outputs = (self.output, *self.side_outputs)
        for output in outputs:
            if output not in names:
                raise ValueError(f"output {output!r} is no stage{did_you_mean(output, names)}")
        useful = set(outputs).union(*map(self.ancestors, outputs))
        for name in names:
            if name not in useful:
                raise ValueError(
                    f"stage {name!r} is no ancestor of the output {self.output!r}: use it or remove it"
                )
        check_roles(self.stages, outputs)
        for stage in self.stages:
            check_judges(stage, self.stage)
        check_amounts(self.stages, self.amounts)
        return self

    @cached_property
    def stage(self) -> dict[str, AnyStage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def taught_from(self) -> set[str]:
        """The stages that a distillation learns from or a merge takes in."""
        taught = (read(stage) for stage in self.stages)
        names = {name for roles in taught for role in ("teacher", "input") for name in roles.get(role, ())}
        return names - set(self.roots)

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The models the recipe is run on: "base" and, where a stage starts from it, "smaller"."""
        read_by_all = {parent for stage in self.stages for parent in parents(stage)}
        return (BASE, *(root for root in ROOTS[1:] if root in read_by_all))

    def root_of(self, name: str) -> str:
        """The model that a stage's weights grew from."""
        while name not in ROOTS:
            name = self.stage[name].init
        return name

    @cached_property
    def bold(self) -> frozenset[str]:
        """The stages that are RL at more than `BOLD` times the usual rate of their set, or follow from such a stage.
        Empty where every system has rates of its own."""
        if self.amounts_name == "published":
            return frozenset()
        limit = BOLD * default_amounts(self.amounts_name, "rl").learning_rate
        found: set[str] = set()
        for stage in self.stages:
            is_own = isinstance(stage, Rl) and self.amounts[stage.name].learning_rate > limit
            if is_own or found.intersection(parents(stage)):
                found.add(stage.name)
        return frozenset(found)

    def ancestors(self, name: str) -> set[str]:
        """Names of all stages that `name` depends on, roots left out."""
        found: set[str] = set()
        frontier = [name]
        while frontier:
            for parent in parents(self.stage[frontier.pop()]):
                if parent not in ROOTS and parent not in found:
                    found.add(parent)
                    frontier.append(parent)
        return found

    def graph(self) -> nx.DiGraph:
        """The recipe as a networkx graph: nodes are stage names and roots (attribute `stage`), edges carry `role`:
        "init", "teacher", "input", "data" or "reward"."""
        import networkx as nx

        graph = nx.DiGraph(name=self.name)
        graph.add_nodes_from(self.roots, stage=None)
        for stage in self.stages:
            graph.add_node(stage.name, stage=stage)
            for role, names in read(stage).items():
                graph.add_edges_from(((name, stage.name) for name in names), role=role)
            graph.add_edge(stage.init, stage.name, role="init")
        return graph

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with `factor` times the steps of every stage (at least 2)."""
        if not (math.isfinite(factor) and factor > 0):
            raise UsageError(f"scale {factor}: must be a positive number, for example 0.1")
        return self.with_amounts({name: amounts.scaled(factor) for name, amounts in self.amounts.items()})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Recipe:
        """The same recipe with some fields replaced, unchecked. Tables of its stages are made anew."""
        copied = super().model_copy(update=update, deep=deep)
        if update and {"stages", "amounts"} & update.keys():
            for table in ("stage", "roots", "bold"):
                copied.__dict__.pop(table, None)
        return copied

    def with_amounts(self, amounts: Mapping[str, Amounts]) -> Recipe:
        """The same recipe with some stages' amounts replaced. UsageError where they do not suit the stages."""
        changed = {**self.amounts, **amounts}
        try:
            check_amounts(self.stages, changed)
        except ValueError as error:
            raise UsageError(f"recipe {self.name!r}: {error}") from None
        return self.model_copy(update={"amounts": changed})
