"""MiMo-V2-Flash, DeepSeek-V4, Nemotron 3 Ultra and MAI-Thinking-1: specialists, made one again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mopdsim.base.errors import UsageError
from mopdsim.recipes.amounts import AmountsName
from mopdsim.recipes.parts import Groups, as_teachers, samples_of, specialists_of
from mopdsim.recipes.recipe import AnyStage, Distill, Recipe, RejectionSampling, Rl, Sft, Teacher
from mopdsim.recipes.systems.parts import chosen, equal_shares, system_of


def mimo_v2_flash(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    self_domains: Sequence[str] | None = None,
    sft_domains: Sequence[str] | None = None,
    reward_mix: float = 0.5,
) -> Recipe:
    """MiMo-V2-Flash (January 2026): SFT, domain specialists, then multi-teacher on-policy distillation.

    The token-level reverse KL is an advantage with truncated importance weights, a verifiable reward mixed in.
    self_domains: the student is its own teacher (where absent: of the published ones knowledge and chat, else the last
    sixth of the list). sft_domains: their teacher is fine-tuned (search, else the last sixth before those).
    groups: the domains of each RL teacher, one each where absent.
    """
    sixth = len(domains) // 6
    own = chosen("self_domains", self_domains, domains, ("knowledge", "chat"), sixth)
    rest = [domain for domain in domains if domain not in own]
    tuned = chosen("sft_domains", sft_domains, rest, ("search",), sixth)
    climbed = [domain for domain in rest if domain not in tuned]
    specialists: list[Rl | Sft] = [*specialists_of(climbed, groups, init="sft")]
    for number, domain in enumerate(tuned, start=1):
        specialists.append(Sft(name=f"sft_teacher_{number}", init="sft", domains=equal_shares([domain])))
    teachers = as_teachers(specialists)
    if own:
        teachers = (*teachers, Teacher(stage="self", domains=tuple(own)))
    student = Distill(
        name="student",
        init="sft",
        domains=equal_shares(domains),
        teachers=teachers,
        loss="sampled_token",
        reward_mix=reward_mix,
    )
    return system_of(
        "mimo_v2_flash",
        domains,
        amounts,
        [Sft(name="sft", domains=equal_shares(domains)), *specialists, student],
    )


def deepseek_v4(
    domains: Sequence[str], *, amounts: AmountsName = "tiny", groups: Groups | None = None
) -> Recipe:
    """DeepSeek-V4 (April 2026): specialists by SFT then GRPO, merged by full-vocabulary on-policy distillation.

    groups: the domains of each specialist, one each where absent.
    """
    stages: list[AnyStage] = [Sft(name="sft", domains=equal_shares(domains))]
    specialists = []
    for climbed in specialists_of(domains, groups):
        tuned = Sft(name=climbed.name.replace("teacher", "sft"), domains=climbed.domains)
        specialists.append(climbed.model_copy(update={"init": tuned.name}))
        stages += [tuned, specialists[-1]]
    student = Distill(
        name="student",
        init="sft",
        domains=equal_shares(domains),
        teachers=as_teachers(specialists),
        loss="reverse_kl",
    )
    return system_of("deepseek_v4", domains, amounts, [*stages, student])


def nemotron3_ultra(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    rounds: int = 2,
) -> Recipe:
    """Nemotron 3 Ultra (June 2026): SFT twice, RLVR over all, then rounds of multi-teacher on-policy distillation.

    A light warm-up on the teachers' samples precedes the first round; the next round's teachers grow from the last
    student. groups: the domains of each teacher, one each where absent.
    """
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}: must be at least 1")
    equal = equal_shares(domains)
    stages: list[AnyStage] = [
        Sft(name="sft_1", domains=equal),
        Sft(name="sft_2", init="sft_1", domains=equal),
        Rl(name="rlvr", init="sft_2", domains=equal),
    ]
    init = "rlvr"
    for number in range(1, rounds + 1):
        specialists = specialists_of(domains, groups, init=init, prefix=f"r{number}_")
        teachers = as_teachers(specialists)
        stages += specialists
        if number == 1:
            stages.append(samples_of(teachers, domains, name="warmup", init=init))
            init = "warmup"
        stages.append(Distill(name=f"student_{number}", init=init, domains=equal, teachers=teachers))
        init = f"student_{number}"
    return system_of("nemotron3_ultra", domains, amounts, stages)


def mai_thinking_1(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    resumed: bool = True,
) -> Recipe:
    """MAI-Thinking-1 (2026): parallel RL climbs, a consolidation SFT on their answers, one final RL.

    groups: the domains of each climb (where absent: three of nearly equal size). resumed: each climb is taken up again
    from the base after distilling its own correct answers into it. No teacher from outside.
    """
    if groups is None:
        size = math.ceil(len(domains) / 3)
        groups = [list(domains[place : place + size]) for place in range(0, len(domains), size)]
    stages: list[AnyStage] = []
    rejections = []
    for number, climb in enumerate(specialists_of(domains, groups), start=1):
        first = climb.model_copy(update={"name": f"climb_{number}"})
        own, last = list(first.domains), first.name
        stages.append(first)
        if resumed:
            teachers = (Teacher(stage=first.name, domains=tuple(own)),)
            last = f"resumed_climb_{number}"
            stages += [
                samples_of(teachers, own, name=f"self_distilled_{number}"),
                first.model_copy(update={"name": last, "init": f"self_distilled_{number}"}),
            ]
        rejections.append(
            RejectionSampling(name=f"rejection_{number}", init=last, domains=equal_shares(own), keep="passed")
        )
    data = tuple(stage.name for stage in rejections)
    stages += [
        *rejections,
        Sft(name="consolidation", domains=equal_shares(domains), data=data),
        Rl(name="final_rl", init="consolidation", domains=equal_shares(domains)),
    ]
    return system_of("mai_thinking_1", domains, amounts, stages)
