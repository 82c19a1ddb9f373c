"""The recipe language: a post-training recipe is a DAG of stages over named domains.

A stage starts from the weights of another (`init`; "base" is the model the recipe is run on, "smaller" a smaller
one) and is one of a closed set of kinds. Structure (`stages`) and amounts (`amounts`, by stage) are kept apart. Both
engines read this value: the simulator forecasts it, the trainer runs it.
What must hold between the stages (order, roles, domains, amounts) is checked here; every breach is one sentence that
names the stage, the value and the remedy. Leaves out: what holds within a stage (`mopdsim.recipes.stage`), files
(`mopdsim.recipes.recipe_file`), ready-made recipes (`mopdsim.recipes.catalogue`), what a domain is.
"""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from mopdsim.base.documents import number
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.recipes.stage import (
    BASE,
    BOLD,
    MOST_STEPS,
    ROOTS,
    SELF,
    Amounts,
    AmountsName,
    AnyStage,
    Distill,
    Merge,
    Name,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    Stage,
    Value,
    default_amounts,
    needs,
    parents,
    read,
)


def topological(stages: tuple[AnyStage, ...]) -> tuple[AnyStage, ...]:
    """Stages sorted so that parents come first, otherwise in the order given."""
    by_name = {stage.name: stage for stage in stages}
    if len(by_name) < len(stages):
        names = [stage.name for stage in stages]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two stages are called {twice!r}: give each its own name")
    for name in (*ROOTS, SELF):
        if name in by_name:
            raise ValueError(
                f"a stage is called {name!r}, which names a model that recipes start from: rename it"
            )
    for stage in stages:
        for parent in parents(stage):
            if parent not in ROOTS and parent not in by_name:
                hint = did_you_mean(parent, [*ROOTS, *by_name])
                raise ValueError(f"stage {stage.name!r} refers to {parent!r}, which is no stage{hint}")
    before = {stage.name: needs(stage) for stage in stages}
    try:
        order = list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError as error:
        raise ValueError(
            f"stages form a cycle: {' -> '.join(reversed(error.args[1]))}; remove one link"
        ) from None
    depth = {name: 0 for name in order}
    for name in order:
        depth[name] = max((depth[parent] + 1 for parent in before[name]), default=0)
    return tuple(sorted(stages, key=lambda stage: depth[stage.name]))


def check_roles(stages: tuple[AnyStage, ...], outputs: tuple[str, ...]) -> None:
    """Checks roles: only weights can be started from, teach or be merged; a reward model only judges; a
    dataset is only read."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        _check_role(stage.name, "init", stage.init, by_name)
        for role, names in read(stage).items():
            for name in names:
                _check_role(stage.name, role, name, by_name)
        if isinstance(stage, Merge):
            roots = {name: _root(name, by_name) for name in (stage.init, *stage.inputs)}
            for name, root in roots.items():
                if root != roots[stage.init]:
                    raise ValueError(
                        f"stage {stage.name!r}: {name!r} grew from {root!r} and {stage.init!r} from "
                        f"{roots[stage.init]!r}: merge models of one size"
                    )
    for output in outputs:
        _check_role("output", "the last word", output, by_name)


def _check_role(stage: str, role: str, name: str, by_name: Mapping[str, AnyStage]) -> None:
    """One reference: `stage` reads `name` as `role`."""
    found = by_name.get(name)
    if role == "reward" and not isinstance(found, RewardModel):
        raise ValueError(f"stage {stage!r}: {name!r} is no reward_model stage: name one as its reward model")
    if role == "data" and not isinstance(found, RejectionSampling):
        raise ValueError(f"stage {stage!r}: {name!r} is no rejection_sampling stage: name one as its data")
    if role not in ("reward", "data") and isinstance(found, RewardModel | RejectionSampling):
        product = "a reward model" if isinstance(found, RewardModel) else "a dataset"
        raise ValueError(
            f"stage {stage!r}: {name!r} makes {product}, which cannot be its {role}: name another stage"
        )


def _root(name: str, by_name: Mapping[str, AnyStage]) -> str:
    while name not in ROOTS:
        name = by_name[name].init
    return name


def check_amounts(stages: tuple[AnyStage, ...], amounts: Mapping[str, Amounts]) -> None:
    """Every stage but merges has amounts, and as many rollouts of a prompt as its kind makes use of."""
    spending = {stage.name: stage for stage in stages if not isinstance(stage, Merge)}
    if extra := sorted(set(amounts) - set(spending)):
        raise ValueError(
            f"amounts of {extra[0]!r}: no stage of that name spends anything{did_you_mean(extra[0], spending)}"
        )
    if missing := sorted(set(spending) - set(amounts)):
        raise ValueError(f"stage {missing[0]!r} has no amounts: add [amounts_of.{missing[0]}]")
    for name, stage in spending.items():
        if amounts[name].steps > MOST_STEPS:
            raise ValueError(f"stage {name!r}: steps: more than {MOST_STEPS:,} come of this scale: lower it")
        _check_rate(name, stage, amounts[name].learning_rate)
        _check_rollouts(name, stage, amounts[name].rollouts_per_prompt)
        if amounts[name].ledger:
            _check_ledger(stage)


def _check_ledger(stage: AnyStage) -> None:
    """What each teacher did can be told apart, weight by weight."""
    where = f"stage {stage.name!r}: ledger = true:"
    if not isinstance(stage, Distill):
        raise ValueError(f"{where} a distillation alone keeps one: remove it")
    if stage.adapter_rank is not None:
        raise ValueError(f"{where} it is kept of whole weights: leave adapter_rank out")
    if stage.loss == "sampled_token" and stage.reward_mix:
        raise ValueError(
            f"{where} loss 'sampled_token' mixes the reward into every teacher's own signal: choose another loss or "
            "set reward_mix = 0"
        )


def check_ranks(stages: tuple[AnyStage, ...]) -> None:
    """An adapter that goes on keeps its rank."""
    ranks: dict[str, int | None] = {stage.name: getattr(stage, "adapter_rank", None) for stage in stages}
    for stage in stages:
        own, before = ranks[stage.name], ranks.get(stage.init)
        if own is not None and before is not None and own != before:
            raise ValueError(
                f"stage {stage.name!r}: adapter_rank = {own}, but it starts from an adapter of rank {before} "
                f"({stage.init!r}): give it that rank, or none to train all weights"
            )


def _check_rate(name: str, stage: AnyStage, rate: float) -> None:
    if isinstance(stage, RejectionSampling) and rate:
        raise ValueError(f"stage {name!r}: learning_rate = {rate}: it trains nothing: set it to 0")
    if not isinstance(stage, RejectionSampling) and not rate:
        raise ValueError(f"stage {name!r}: learning_rate = 0: a trained stage needs one above 0")


def _check_rollouts(name: str, stage: AnyStage, rollouts: int) -> None:
    if isinstance(stage, Sft) and rollouts != 1:
        raise ValueError(
            f"stage {name!r}: rollouts_per_prompt = {rollouts}: sft samples nothing: set it to 1"
        )
    if rollouts >= 2:
        return
    if isinstance(stage, RewardModel | Preference):
        raise ValueError(
            f"stage {name!r}: rollouts_per_prompt = {rollouts}: a pair needs at least 2 samples of a prompt: raise it"
        )
    grouped = isinstance(stage, Rl) and stage.algorithm == "grpo"
    if grouped or (isinstance(stage, Distill) and stage.reward_mix > 0):
        raise ValueError(
            f"stage {name!r}: rollouts_per_prompt = {rollouts}: a group baseline needs at least 2: raise it"
        )


def check_domains(stage: AnyStage, domains: tuple[str, ...]) -> None:
    """Checks that every domain a stage names is one of the recipe's, and that settings of a domain concern
    one that it trains."""
    if isinstance(stage, Merge):
        return
    named = list(stage.domains)
    qualified = {
        key: list(getattr(stage, key)) for key in ("reward_weights", "reward_models") if hasattr(stage, key)
    }
    named += [domain for domains_of in qualified.values() for domain in domains_of]
    if isinstance(stage, Distill):
        named += [domain for teacher in stage.teachers for domain in teacher.domains]
    for domain in named:
        if domain not in domains:
            raise ValueError(
                f"stage {stage.name!r}: unknown domain {domain!r}{did_you_mean(domain, domains)}"
            )
    for key, domains_of in qualified.items():
        for domain in domains_of:
            if domain not in stage.domains:
                raise ValueError(f"stage {stage.name!r}: {key} names {domain!r}, which it does not train")
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


def check_judges(stage: AnyStage, by_name: Mapping[str, AnyStage]) -> None:
    """Reward models judge what they were trained on, and a verdict is asked of verifiers alone."""
    for domain, name in getattr(stage, "reward_models", {}).items():
        trained = getattr(by_name[name], "domains", {})
        if domain not in trained:
            raise ValueError(
                f"stage {stage.name!r}: reward model {name!r} was not trained on {domain!r}: add it to its domains"
            )
    if isinstance(stage, RejectionSampling) and stage.keep == "passed" and stage.reward_models:
        raise ValueError(
            f"stage {stage.name!r}: keep = 'passed' asks a verifier, and a reward model gives no verdict: use 'best'"
        )


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
        check_ranks(self.stages)
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
        return _root(name, self.stage)

    @cached_property
    def bold(self) -> frozenset[str]:
        """The stages that are RL at more than `BOLD` times the usual rate of their set, or follow from such a stage."""
        return self.bold_beyond(())

    def bold_beyond(self, known: Collection[str]) -> frozenset[str]:
        """`bold`, where nothing follows from a stage that is known. Empty where every system has rates of its own."""
        if self.amounts_name == "published":
            return frozenset()
        limit = BOLD * default_amounts(self.amounts_name, "rl").learning_rate
        found: set[str] = set()
        for stage in self.stages:
            is_own = isinstance(stage, Rl) and self.amounts[stage.name].learning_rate > limit
            if is_own or found.difference(known).intersection(parents(stage)):
                found.add(stage.name)
        return frozenset(found)

    def ancestors(self, name: str) -> set[str]:
        """Names of all stages that `name` depends on, roots left out."""
        found: set[str] = set()
        frontier = [name]
        while frontier:
            new = set(needs(self.stage[frontier.pop()])) - found
            found |= new
            frontier += new
        return found

    def affected_by(self, domain: str) -> tuple[str, ...]:
        """The stages to run again when one domain's data or reward changes: the last that learn it, the reward models
        and samples that they learn it from, and all after any of these.

        A stage learns a domain by reward, preference or examples; "the last" have no such stage downstream. One mixed
        run is redone whole; of many specialists one is, with what it is merged or distilled into.
        """
        learners = {
            s.name for s in self.stages if isinstance(s, Sft | Rl | Preference) and domain in s.domains
        }
        followed: set[str] = set()  # stages with a learner downstream
        for stage in reversed(self.stages):
            if stage.name in learners | followed:
                followed |= set(needs(stage))
        changed = learners - followed
        for stage in reversed(self.stages):
            if stage.name in changed:
                changed |= self._told_by(stage, domain)
        affected: list[str] = []
        for stage in self.stages:
            if stage.name in changed or not set(needs(stage)).isdisjoint(affected):
                affected.append(stage.name)
        return tuple(affected)

    def _told_by(self, stage: AnyStage, domain: str) -> set[str]:
        """The reward model and the datasets that a stage learns a domain from."""
        match stage:
            case Rl() | Preference() | RejectionSampling():
                return {judge for judged, judge in stage.reward_models.items() if judged == domain}
            case Sft():
                return {data for data in stage.data if domain in getattr(self.stage[data], "domains", {})}
            case _:
                return set()

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with `factor` times the steps of every stage (at least 2)."""
        number(factor, "scale", least=0, above=True)
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
