"""InstructGPT, Llama 3, DeepSeek-R1 and R1-Zero: systems without a multi-teacher distillation."""

from __future__ import annotations

from collections.abc import Sequence

from mopdsim.base.errors import UsageError
from mopdsim.recipes.amounts import AmountsName
from mopdsim.recipes.parts import samples_of
from mopdsim.recipes.recipe import (
    BASE,
    SMALLER,
    AnyStage,
    Preference,
    Recipe,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    Teacher,
)
from mopdsim.recipes.systems.parts import chosen, equal_shares, system_of

HELD = 0.1  # KL coefficient against a reward model: small models exploit one within tens of steps (studies/LOG.md)
LABEL_NOISE = (
    0.16  # each labeller errs so often that two agree on 73% of pairs (InstructGPT): 1 - 2 p (1 - p)
)


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
