"""The catalogue: ready-made recipes, one function each, over any list of domains and any number of teachers.

Every function returns a complete `Recipe`; amounts come from a named set (`mopdsim.recipes.stage`) and may be
replaced with `Recipe.with_amounts`. Teachers that two recipes share are the same stage with the same amounts, so that
a trainer's store runs them once. Plain recipes come first, published post-training systems, 2022 to 2026, after them.

InstructGPT, Llama 3, DeepSeek-R1 and R1-Zero have no multi-teacher distillation; MiMo-V2-Flash, DeepSeek-V4, Nemotron 3
Ultra and MAI-Thinking-1 train specialists and make them one again. Structures follow the systems' reports; what one
leaves open is our reading and said in docs/recipes.md. Amounts: `tiny` and `small` are the named sets, stretched with
the number of domains that a stage trains; `published` are the report's own. Leaves out: figures and sources
(`mopdsim.recipes.published`), what a recipe yields.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, validate_call

from mopdsim.base.documents import in_words
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.recipes import published
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import (
    BASE,
    SMALLER,
    Amounts,
    AmountsName,
    AnyStage,
    Balance,
    Distill,
    DistillLoss,
    Merge,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    SpendingStage,
    Teacher,
    default_amounts,
)

DEFAULT_DOMAINS = ("sort", "reverse", "shift")  # of the built-in tiny model, where a command is given none
REAL_MODEL = "HuggingFaceTB/SmolLM2-135M"  # the small open model that the trainer fetches by name
REAL_DOMAINS = ("ask:smallest", "ask:larger", "ask:gcd", "ask:swap")  # of that model, likewise
Groups = Sequence[Sequence[str]]
Rounds = Annotated[int, Field(ge=1, le=100)]
REWARD_GROUP = 4  # samples of a prompt where distillation mixes in a reward
_SHARED_BY = 3  # domains that the named sets' steps suffice for
HELD = 0.1  # KL coefficient against a reward model: small models exploit one within tens of steps (studies/LOG.md)
# each labeller errs so often that two agree on 73% of pairs (InstructGPT): 1 - 2 p (1 - p)
LABEL_NOISE = 0.16


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
    return Rl(name=name, init=init, domains=equal_shares(domains))


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
        domains=equal_shares(domains),
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


def single_domain(domains: Sequence[str], *, amounts: AmountsName = "tiny") -> Recipe:
    """RL on the first domain alone: one specialist."""
    return assemble("single_domain", domains, amounts, [specialist("specialist", [domains[0]])])


def mixed_rl(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    shares: Mapping[str, float] | None = None,
    reward_weights: Mapping[str, float] | None = None,
    advantage_scale: Literal["group", "domain", "none"] = "group",
    curriculum: Literal["none", "staged", "signal"] = "none",
) -> Recipe:
    """One RL run over all domains at once."""
    stage = Rl(
        name="mixed",
        domains=equal_shares(domains) if shares is None else dict(shares),
        reward_weights=dict(reward_weights or {}),
        advantage_scale=advantage_scale,
        curriculum=curriculum,
    )
    return assemble("mixed_rl", domains, amounts, [stage])


def cascade_rl(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    order: Sequence[str] | None = None,
    replay: float = 0.0,
) -> Recipe:
    """RL on one domain after the other; `replay` is the share of prompts from the domains before."""
    if not 0 <= replay < 1:
        raise UsageError(f"replay = {replay}: must be at least 0 and below 1")
    order = list(domains if order is None else order)
    if sorted(order) != sorted(domains):
        raise UsageError(f"order = {', '.join(order)}: must name each of {', '.join(domains)} once")
    stages: list[AnyStage] = []
    init = BASE
    for step in range(len(order)):
        shares = cascade_shares(order, step, replay)
        stages.append(Rl(name=f"step_{step + 1}", init=init, domains=shares))
        init = stages[-1].name
    return assemble("cascade_rl", domains, amounts, stages)


def cascade_shares(order: Sequence[str], step: int, replay: float) -> dict[str, float]:
    """Shares of the prompts in one step of a cascade: its own domain's, and those of the domains before."""
    if not (replay and step):
        return {order[step]: 1.0}
    return {order[step]: 1 - replay, **{old: replay / step for old in order[:step]}}


def mopd(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    rounds: Rounds = 1,
    warmup: bool = False,
    reward_mix: float = 0.0,
    balance: Balance = "none",
    loss: DistillLoss = "reverse_kl",
    extrapolation: float = 1.0,
    misrouting: float = 0.0,
) -> Recipe:
    """Multi-teacher on-policy distillation: RL specialists, then a student on its own samples.

    groups: the domains of each teacher (one teacher a domain where absent). rounds: the next round's teachers and
    student start from the last student. warmup: before each distillation, a light SFT on the teachers' samples.
    """
    stages: list[AnyStage] = []
    init = BASE
    for number in range(1, rounds + 1):
        prefix = "" if rounds == 1 else f"r{number}_"
        specialists = specialists_of(domains, groups, init=init, prefix=prefix)
        teachers = as_teachers(specialists)
        stages += specialists
        if warmup:
            stages.append(samples_of(teachers, domains, name=f"{prefix}warmup", init=init))
        stages.append(
            Distill(
                name=f"{prefix}student",
                init=stages[-1].name if warmup else init,
                domains=equal_shares(domains),
                teachers=teachers,
                loss=loss,
                reward_mix=reward_mix,
                balance=balance,
                extrapolation=extrapolation,
                misrouting=misrouting,
            )
        )
        init = stages[-1].name
    return assemble("mopd", domains, amounts, stages)


def off_policy(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    loss: DistillLoss = "sample_nll",
    correct_only: bool = True,
) -> Recipe:
    """The same specialists, distilled off-policy: fine-tuning on their own (correct) samples, or on their logits."""
    specialists = specialists_of(domains, groups)
    student = samples_of(
        as_teachers(specialists), domains, name="student", loss=loss, correct_only=correct_only
    )
    return assemble("off_policy", domains, amounts, [*specialists, student])


def merge(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    method: Literal["average", "task_arithmetic", "ties"] = "task_arithmetic",
    scale: float | None = None,
    density: float = 0.2,
) -> Recipe:
    """The same specialists, their weights combined without further training.

    scale: of the sum of their changes (0.5 where absent); an average has none.
    """
    specialists = specialists_of(domains, groups)
    if scale is None:
        scale = 1.0 if method == "average" else 0.5
    merged = Merge(
        name="merged", inputs=tuple(s.name for s in specialists), method=method, scale=scale, density=density
    )
    return assemble("merge", domains, amounts, [*specialists, merged])


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
    domains: Sequence[str], *, amounts: AmountsName = "tiny", rounds: Rounds = 6, noise: float = LABEL_NOISE
) -> Recipe:
    """Llama 3 (July 2024): rounds of reward model, rejection sampling, SFT and DPO; no online RL.

    Each round's SFT starts from the base again, on the best answers of the round's sampler beside demonstrations. The
    reward model chooses those; DPO reads labelled pairs, as noisy as the reward model's.
    """
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
    domains: Sequence[str], *, amounts: AmountsName = "tiny", groups: Groups | None = None, rounds: Rounds = 2
) -> Recipe:
    """Nemotron 3 Ultra (June 2026): SFT twice, RLVR over all, then rounds of multi-teacher on-policy distillation.

    A light warm-up on the teachers' samples precedes the first round; the next round's teachers grow from the last
    student. groups: the domains of each teacher, one each where absent.
    """
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


PLAIN: dict[str, Callable[..., Recipe]] = {
    function.__name__: function for function in (single_domain, mixed_rl, cascade_rl, mopd, off_policy, merge)
}
CATALOGUE: dict[str, Callable[..., Recipe]] = {**PLAIN, **SYSTEMS}
TITLES = {
    "single_domain": "one specialist",
    "mixed_rl": "one mixed RL run",
    "cascade_rl": "cascade RL",
    "mopd": "multi-teacher distillation",
    "off_policy": "off-policy distillation",
    "merge": "weight merging",
    "mopd_then_rl": "distillation, then RL",
}


def recipe_title(name: str) -> str:
    """A recipe of the catalogue in words, a published system by its name."""
    return published.system(name).title if name in SYSTEMS else TITLES.get(name, name)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the catalogue: name, one sentence, and the options its function takes."""

    name: str
    summary: str
    options: tuple[str, ...]


def entries() -> list[Entry]:
    """What the catalogue holds."""
    return [
        Entry(
            name=name,
            summary=(inspect.getdoc(function) or "").split("\n")[0],
            options=tuple(key for key in inspect.signature(function).parameters if key != "domains"),
        )
        for name, function in CATALOGUE.items()
    ]


def known(name: str) -> None:
    """NotFoundError where there is no recipe of this name."""
    if name not in CATALOGUE:
        raise NotFoundError(f"no recipe {name!r}{did_you_mean(name, CATALOGUE)}; a file ends in .toml")


def recipe(name: str, domains: Sequence[str], /, **options: Any) -> Recipe:
    """The catalogue's recipe of this name. NotFoundError for a name, UsageError for a bad option or its value."""
    known(name)
    if not domains:
        raise UsageError("domains is empty: a recipe needs at least one domain")
    own = inspect.signature(CATALOGUE[name]).parameters.keys() - {"domains"}
    for key in options:
        if key not in own:
            raise UsageError(f"recipe {name!r} has no option {key!r}{did_you_mean(key, own)}")
    try:
        return _checked(name)(domains, **options)
    except ValidationError as error:
        raise UsageError(f"recipe {name!r}: {in_words(error)}") from None


@cache
def _checked(name: str) -> Callable[..., Recipe]:
    """The function behind a name with its arguments checked; making the check takes longer than the call."""
    return validate_call(CATALOGUE[name])
