"""Published post-training systems as recipes, 2022 to 2026, over any list of domains and any number of teachers.

InstructGPT, Llama 3, DeepSeek-R1 and R1-Zero have no multi-teacher distillation; MiMo-V2-Flash, DeepSeek-V4, Nemotron 3
Ultra and MAI-Thinking-1 train specialists and make them one again. Structures follow the systems' reports; what one
leaves open is our reading and said in docs/recipes.md. Amounts: `tiny` and `small` are the named sets, stretched with
the number of domains that a stage trains; `published` are the report's own (`mopdsim.recipes.published`). Leaves out:
figures and sources (`mopdsim/data/systems`), plain recipes (`mopdsim.recipes.catalogue`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mopdsim.base.errors import UsageError
from mopdsim.recipes.amounts import AmountsName
from mopdsim.recipes.parts import (
    Groups,
    as_teachers,
    chosen,
    equal_shares,
    samples_of,
    specialists_of,
    system_of,
)
from mopdsim.recipes.recipe import (
    BASE,
    SMALLER,
    AnyStage,
    Distill,
    Preference,
    Recipe,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    Teacher,
)

HELD = 0.1  # KL coefficient against a reward model: small models exploit one within tens of steps (studies/LOG.md)
# each labeller errs so often that two agree on 73% of pairs (InstructGPT): 1 - 2 p (1 - p)
LABEL_NOISE = 0.16


def instructgpt(
    domains: Sequence[str], *, amounts: AmountsName = "tiny", noise: float = LABEL_NOISE
) -> Recipe:
    """InstructGPT (March 2022): SFT, a reward model from comparisons, PPO against it.

    PPO is held to the SFT model by a KL penalty and to its earlier data by a pre-training mix.
    """
    equal = equal_shares(domains)
    stages: list[AnyStage] = [
        Sft(name="sft", domains=equal),
        RewardModel(name="reward_model", init="sft", domains=equal, noise=noise),
        Rl(
            name="ppo",
            init="sft",
            domains=equal,
            algorithm="ppo",
            clip_high=0.2,
            kl_coefficient=HELD,
            reward_models=dict.fromkeys(domains, "reward_model"),
            demonstration_mix=0.1,
            updates_per_batch=4,
        ),
    ]
    return system_of("instructgpt", domains, amounts, stages)


def llama3(
    domains: Sequence[str], *, amounts: AmountsName = "tiny", rounds: int = 6, noise: float = LABEL_NOISE
) -> Recipe:
    """Llama 3 (July 2024): rounds of reward model, rejection sampling, SFT and DPO; no online RL.

    Each round's SFT starts from the base again, on the best answers of the round's sampler beside demonstrations. The
    reward model chooses those; DPO reads labelled pairs, as noisy as the reward model's.
    """
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}: must be at least 1")
    equal = equal_shares(domains)
    stages: list[AnyStage] = []
    best = BASE
    for number in range(1, rounds + 1):
        judge = f"reward_model_{number}"
        judged = dict.fromkeys(domains, judge)
        stages += [
            RewardModel(name=judge, init=best, domains=equal, noise=noise),
            RejectionSampling(name=f"rejection_{number}", init=best, domains=equal, reward_models=judged),
            Sft(name=f"sft_{number}", domains=equal, data=(f"rejection_{number}",), data_share=0.8),
            Preference(
                name=f"dpo_{number}",
                init=f"sft_{number}",
                domains=equal,
                noise=noise,
                beta=0.5,
                likelihood_weight=0.2,
            ),
        ]
        best = f"dpo_{number}"
    return system_of("llama3", domains, amounts, stages)


def deepseek_r1(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    general: Sequence[str] | None = None,
    smaller: bool = False,
) -> Recipe:
    """DeepSeek-R1 (January 2025): cold start, reasoning RL, SFT on its correct answers, RL over all scenarios.

    general: the domains without a verifier, judged by a reward model in the last RL (where absent: of the published
    ones knowledge and chat, else the last third of the list). smaller: then distil into a smaller model, off-policy.
    """
    general = chosen(
        "general", general, domains, ("knowledge", "chat", "instruction_following"), len(domains) // 3
    )
    reasoning = [domain for domain in domains if domain not in general]
    if not reasoning:
        raise UsageError(f"general = {', '.join(general)}: leaves no domain with a verifier: name fewer")
    equal = equal_shares(domains)
    stages: list[AnyStage] = [
        Sft(name="cold_start", domains=equal),
        Rl(name="reasoning_rl", init="cold_start", domains=equal_shares(reasoning), kl_coefficient=0.001),
        RejectionSampling(
            name="rejection", init="reasoning_rl", domains=equal_shares(reasoning), keep="passed"
        ),
        Sft(name="sft", domains=equal, data=("rejection",)),
    ]
    if general:
        stages.append(
            RewardModel(name="reward_model", init="sft", domains=equal_shares(general), noise=LABEL_NOISE)
        )
    judged = dict.fromkeys(general, "reward_model")
    held = HELD if general else 0.001
    stages.append(Rl(name="rl", init="sft", domains=equal, kl_coefficient=held, reward_models=judged))
    if not smaller:
        return system_of("deepseek_r1", domains, amounts, stages)
    teachers = (Teacher(stage="rl", domains=tuple(domains)),)
    stages.append(samples_of(teachers, domains, name="distilled", init=SMALLER))
    return system_of("deepseek_r1", domains, amounts, stages, side_outputs=["distilled"])


def deepseek_r1_zero(domains: Sequence[str], *, amounts: AmountsName = "tiny") -> Recipe:
    """DeepSeek-R1-Zero (January 2025): RL from the base alone, over all domains with a verifier."""
    return system_of(
        "deepseek_r1_zero",
        domains,
        amounts,
        [Rl(name="rl", domains=equal_shares(domains), kl_coefficient=0.001)],
    )


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
    domains: Sequence[str], *, amounts: AmountsName = "tiny", groups: Groups | None = None, rounds: int = 2
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


_PUBLISHED = (
    instructgpt, llama3, deepseek_r1_zero, deepseek_r1, mimo_v2_flash, deepseek_v4, nemotron3_ultra, mai_thinking_1,
)  # fmt: skip
SYSTEMS: dict[str, Callable[..., Recipe]] = {function.__name__: function for function in _PUBLISHED}
