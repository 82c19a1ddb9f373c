"""What must hold between the stages of a recipe: order, roles, domains, amounts.

Every violation is a ValueError with one sentence that names the stage, the value and the remedy. Leaves out: what
holds within a stage (`mopdsim.recipes.stage`).
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping

from mopdsim.base.errors import did_you_mean
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.feedback_stages import Preference, RejectionSampling, RewardModel
from mopdsim.recipes.stage import AnyStage, Distill, Merge, Rl, Sft, parents, read
from mopdsim.recipes.stage_fields import ROOTS, SELF


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
    needs = {stage.name: [name for name in parents(stage) if name not in ROOTS] for stage in stages}
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
        _check_rate(name, stage, amounts[name].learning_rate)
        _check_rollouts(name, stage, amounts[name].rollouts_per_prompt)
        if amounts[name].ledger and not isinstance(stage, Distill):
            raise ValueError(f"stage {name!r}: ledger = true: a distillation alone keeps one: remove it")


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
