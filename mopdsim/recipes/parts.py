"""The pieces that recipes of the catalogue are put together from. Leaves out: the recipes (`mopdsim.recipes.catalogue`,
`mopdsim.recipes.systems`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mopdsim.base.errors import UsageError
from mopdsim.recipes import published
from mopdsim.recipes.amounts import Amounts, AmountsName, default_amounts
from mopdsim.recipes.recipe import (
    BASE,
    AnyStage,
    Distill,
    DistillLoss,
    Merge,
    Recipe,
    Rl,
    Sft,
    SpendingStage,
    Teacher,
)

Groups = Sequence[Sequence[str]]
REWARD_GROUP = 4  # samples of a prompt where distillation mixes in a reward


def specialists_of(
    domains: Sequence[str], groups: Groups | None, *, init: str = BASE, prefix: str = ""
) -> list[Rl]:
    """One RL specialist per group of domains; the groups must partition the domains."""
    groups = [[domain] for domain in domains] if groups is None else groups
    grouped = [domain for group in groups for domain in group]
    if sorted(grouped) != sorted(domains):
        raise UsageError(f"groups = {groups}: must name each of {', '.join(domains)} exactly once")
    return [
        specialist(f"{prefix}teacher_{number}", group, init=init)
        for number, group in enumerate(groups, start=1)
    ]


def specialist(name: str, domains: Sequence[str], *, init: str = BASE) -> Rl:
    """RL on some domains, in equal shares."""
    return Rl(name=name, init=init, domains=dict.fromkeys(domains, 1.0))


def as_teachers(specialists: Sequence[Rl | Sft]) -> tuple[Teacher, ...]:
    """Each stage as the teacher of its domains."""
    return tuple(Teacher(stage=stage.name, domains=tuple(stage.domains)) for stage in specialists)


def samples_of(
    teachers: tuple[Teacher, ...],
    domains: Sequence[str],
    *,
    name: str,
    init: str = BASE,
    loss: DistillLoss = "sample_nll",
    correct_only: bool = True,
) -> Distill:
    """Training on samples that the teachers draw."""
    return Distill(
        name=name,
        init=init,
        domains=dict.fromkeys(domains, 1.0),
        teachers=teachers,
        on_policy=False,
        loss=loss,
        correct_only=correct_only,
    )


def named_amounts(stage: SpendingStage, amounts: AmountsName) -> Amounts:
    """The named set's amounts; PPO at half of GRPO's rate; a warm-up on the teachers' samples is a tenth of a
    distillation; where a reward is mixed in, as many samples come in groups, which its baseline needs."""
    chosen = default_amounts(amounts, stage.kind)
    if isinstance(stage, Rl) and stage.algorithm == "ppo":
        return chosen.model_copy(update={"learning_rate": chosen.learning_rate / 2})
    if isinstance(stage, Distill) and stage.reward_mix:
        prompts = max(1, chosen.prompts_per_step * chosen.rollouts_per_prompt // REWARD_GROUP)
        return chosen.model_copy(update={"prompts_per_step": prompts, "rollouts_per_prompt": REWARD_GROUP})
    return chosen.scaled(0.1) if stage.name.endswith("warmup") else chosen


def assemble(
    name: str,
    domains: Sequence[str],
    amounts: AmountsName,
    stages: Sequence[AnyStage],
    *,
    amounts_of: Callable[[SpendingStage, AmountsName], Amounts] = named_amounts,
    side_outputs: Sequence[str] = (),
) -> Recipe:
    """The recipe of these stages; its output is the last that is no side output."""
    outputs = [stage.name for stage in stages if stage.name not in side_outputs]
    return Recipe(
        name=name,
        domains=tuple(domains),
        amounts_name=amounts,
        stages=tuple(stages),
        amounts={stage.name: amounts_of(stage, amounts) for stage in stages if not isinstance(stage, Merge)},
        output=outputs[-1],
        side_outputs=tuple(side_outputs),
    )


_SHARED_BY = 3  # domains that the named sets' steps suffice for


def equal_shares(domains: Sequence[str]) -> dict[str, float]:
    """The same share for each domain."""
    return dict.fromkeys(domains, 1.0)


def chosen(
    option: str, given: Sequence[str] | None, domains: Sequence[str], usual: Sequence[str], count: int
) -> list[str]:
    """The domains of an option: as given, else the usual ones among `domains`, else its last `count`."""
    if given is None:
        return [domain for domain in domains if domain in usual] or list(domains[len(domains) - count :])
    for domain in given:
        if domain not in domains:
            raise UsageError(f"{option} names {domain!r}: must be among {', '.join(domains)}")
    return list(given)


def system_of(
    name: str,
    domains: Sequence[str],
    amounts: AmountsName,
    stages: Sequence[AnyStage],
    *,
    side_outputs: Sequence[str] = (),
) -> Recipe:
    """The system over these domains: the named set's steps stretched with the domains of a stage, or published ones."""

    def amounts_of(stage: SpendingStage, amounts: AmountsName) -> Amounts:
        if amounts == "published":
            return published.amounts(name, stage.name)
        return named_amounts(stage, amounts).scaled(max(1.0, len(stage.domains) / _SHARED_BY))

    return assemble(name, domains, amounts, stages, amounts_of=amounts_of, side_outputs=side_outputs)
