"""The recipe language: a post-training recipe is a DAG of stages over named domains.

A stage starts from the weights of another (`init`; "base" is the model the recipe is run on) and is one of a
closed set of kinds. Structure (`stages`) and amounts (`amounts`, by stage) are kept apart. Both engines read this
value: the simulator forecasts it, the trainer runs it.
Leaves out: files (`mopdsim.recipe_file`), ready-made recipes (`mopdsim.recipes`), what a domain is.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator, model_validator

from mopdsim.amounts import Amounts, AmountsName, Value
from mopdsim.errors import UsageError, did_you_mean
from mopdsim.stage import (
    BASE,
    AnyStage,
    Balance,
    Distill,
    DistillLoss,
    Merge,
    Name,
    Rl,
    Sft,
    Stage,
    Teacher,
    TrainedStage,
    parents,
)

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "BASE",
    "AnyStage",
    "Balance",
    "Distill",
    "DistillLoss",
    "Merge",
    "Recipe",
    "Rl",
    "Sft",
    "Stage",
    "Teacher",
    "TrainedStage",
    "parents",
]


class Recipe(Value):
    """Stages over domains, in an order in which each comes after its parents; the last word is `output`'s.

    domains: specifications of the prompts and verifiers, as the trainer's tasks or the simulator's table read them.
    amounts: by stage name, one for each stage but merges. amounts_name: the named set they started from.
    """

    name: Name
    domains: Annotated[tuple[str, ...], Field(min_length=1)]
    amounts_name: AmountsName
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    amounts: dict[str, Amounts]
    output: str

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
        return _topological(stages)

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        for stage in self.stages:
            _check_domains(stage, self.domains)
        names = [stage.name for stage in self.stages]
        if self.output not in names:
            raise ValueError(f"output {self.output!r} is no stage{did_you_mean(self.output, names)}")
        useful = self.ancestors(self.output) | {self.output}
        for name in names:
            if name not in useful:
                raise ValueError(
                    f"stage {name!r} is no ancestor of the output {self.output!r}: use it or remove it"
                )
        _check_amounts(self.stages, self.amounts)
        return self

    @cached_property
    def stage(self) -> dict[str, AnyStage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    def ancestors(self, name: str) -> set[str]:
        """Names of all stages that `name` depends on, the base left out."""
        found: set[str] = set()
        frontier = [name]
        while frontier:
            for parent in parents(self.stage[frontier.pop()]):
                if parent != BASE and parent not in found:
                    found.add(parent)
                    frontier.append(parent)
        return found

    def graph(self) -> nx.DiGraph:
        """The recipe as a networkx graph: nodes are stage names and "base" (attribute `stage`), edges carry
        `role`: "init", "teacher" or "input"."""
        import networkx as nx

        graph = nx.DiGraph(name=self.name)
        graph.add_node(BASE, stage=None)
        for stage in self.stages:
            graph.add_node(stage.name, stage=stage)
            role = "teacher" if isinstance(stage, Distill) else "input"
            for parent in parents(stage):
                graph.add_edge(parent, stage.name, role="init" if parent == stage.init else role)
        return graph

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with `factor` times the steps of every stage (at least 2)."""
        if not (math.isfinite(factor) and factor > 0):
            raise UsageError(f"scale {factor}: must be a positive number, for example 0.1")
        return self.with_amounts({name: amounts.scaled(factor) for name, amounts in self.amounts.items()})

    def with_amounts(self, amounts: Mapping[str, Amounts]) -> Recipe:
        """The same recipe with some stages' amounts replaced. UsageError where they do not suit the stages."""
        changed = {**self.amounts, **amounts}
        try:
            _check_amounts(self.stages, changed)
        except ValueError as error:
            raise UsageError(f"recipe {self.name!r}: {error}") from None
        return self.model_copy(update={"amounts": changed})


def _topological(stages: tuple[AnyStage, ...]) -> tuple[AnyStage, ...]:
    """Stages sorted so that parents come first, otherwise in the order given."""
    by_name = {stage.name: stage for stage in stages}
    if len(by_name) < len(stages):
        names = [stage.name for stage in stages]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two stages are called {twice!r}: give each its own name")
    if BASE in by_name:
        raise ValueError(
            f"a stage is called {BASE!r}, which names the model the recipe starts from: rename it"
        )
    for stage in stages:
        for parent in parents(stage):
            if parent != BASE and parent not in by_name:
                hint = did_you_mean(parent, [BASE, *by_name])
                raise ValueError(f"stage {stage.name!r} refers to {parent!r}, which is no stage{hint}")
    needs = {stage.name: [name for name in parents(stage) if name != BASE] for stage in stages}
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise ValueError(
            f"stages form a cycle: {' -> '.join(reversed(error.args[1]))}; remove one link"
        ) from None
    depth = {name: 0 for name in order}
    for name in order:
        depth[name] = max((depth[parent] + 1 for parent in needs[name]), default=0)
    return tuple(sorted(stages, key=lambda stage: depth[stage.name]))


def _check_amounts(stages: tuple[AnyStage, ...], amounts: Mapping[str, Amounts]) -> None:
    """Every trained stage has amounts, and as many rollouts of a prompt as its kind makes use of."""
    trained = {stage.name: stage for stage in stages if not isinstance(stage, Merge)}
    if extra := sorted(set(amounts) - set(trained)):
        raise ValueError(
            f"amounts of {extra[0]!r}: no trained stage of that name{did_you_mean(extra[0], trained)}"
        )
    if missing := sorted(set(trained) - set(amounts)):
        raise ValueError(f"stage {missing[0]!r} has no amounts: add [amounts_of.{missing[0]}]")
    for name, stage in trained.items():
        rollouts = amounts[name].rollouts_per_prompt
        if isinstance(stage, Sft) and rollouts != 1:
            raise ValueError(
                f"stage {name!r}: rollouts_per_prompt = {rollouts}: sft samples nothing: set it to 1"
            )
        rewarded = isinstance(stage, Rl) or (isinstance(stage, Distill) and stage.reward_mix > 0)
        if rewarded and rollouts < 2:
            raise ValueError(
                f"stage {name!r}: rollouts_per_prompt = {rollouts}: a group baseline needs at least 2: raise it"
            )


def _check_domains(stage: AnyStage, domains: tuple[str, ...]) -> None:
    """Every domain a stage names is the recipe's, and a distilled one has a teacher."""
    if isinstance(stage, Merge):
        return
    named = list(stage.domains)
    if isinstance(stage, Rl):
        named += list(stage.reward_weights)
    if isinstance(stage, Distill):
        named += [domain for teacher in stage.teachers for domain in teacher.domains]
    for domain in named:
        if domain not in domains:
            raise ValueError(
                f"stage {stage.name!r}: unknown domain {domain!r}{did_you_mean(domain, domains)}"
            )
    if isinstance(stage, Rl):
        for domain in stage.reward_weights:
            if domain not in stage.domains:
                raise ValueError(
                    f"stage {stage.name!r}: reward_weights names {domain!r}, which it does not train"
                )
    if isinstance(stage, Distill):
        taught = {domain for teacher in stage.teachers for domain in teacher.domains}
        for domain in stage.domains:
            if domain not in taught:
                raise ValueError(
                    f"stage {stage.name!r}: domain {domain!r} has no teacher: add it to one's domains"
                )
        for domain in sorted(taught - set(stage.domains)):
            raise ValueError(
                f"stage {stage.name!r}: a teacher serves {domain!r}, but no prompts of it are drawn: add it to domains"
            )
