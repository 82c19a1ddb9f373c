"""The catalogue: ready-made recipes, one function each, over any list of domains.

Every function returns a complete `Recipe`; amounts come from a named set (`mopdsim.amounts`) and may be replaced
with `Recipe.with_amounts`. Teachers that two recipes share are the same stage with the same amounts, so that a
trainer's store runs them once. Leaves out: the seven published systems (to come) and what a recipe yields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError, validate_call

from mopdsim.amounts import Amounts, AmountsName, default_amounts
from mopdsim.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.recipe import BASE, AnyStage, Balance, Distill, DistillLoss, Merge, Recipe, Rl, Sft, Teacher
from mopdsim.recipe_file import in_words

Groups = Sequence[Sequence[str]]
DEFAULT_DOMAINS = ("sort", "reverse", "shift")  # of the built-in tiny model, where a command is given none
REWARD_GROUP = 4  # samples of a prompt where distillation mixes in a reward


def single_domain(domains: Sequence[str], *, amounts: AmountsName = "tiny") -> Recipe:
    """RL on the first domain alone: one specialist."""
    return _recipe("single_domain", domains, amounts, [_teacher("specialist", [domains[0]])])


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
        domains=dict.fromkeys(domains, 1.0) if shares is None else dict(shares),
        reward_weights=dict(reward_weights or {}),
        advantage_scale=advantage_scale,
        curriculum=curriculum,
    )
    return _recipe("mixed_rl", domains, amounts, [stage])


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
    for step, domain in enumerate(order):
        shares = {domain: 1.0}
        if replay and step:
            shares = {domain: 1 - replay, **{old: replay / step for old in order[:step]}}
        stages.append(Rl(name=f"step_{step + 1}", init=init, domains=shares))
        init = stages[-1].name
    return _recipe("cascade_rl", domains, amounts, stages)


def mopd(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    rounds: int = 1,
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
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}: must be at least 1")
    stages: list[AnyStage] = []
    init = BASE
    for number in range(1, rounds + 1):
        prefix = "" if rounds == 1 else f"r{number}_"
        specialists = _specialists(domains, groups, init=init, prefix=prefix)
        teachers = _as_teachers(specialists)
        stages += specialists
        if warmup:
            stages.append(_samples_of(teachers, domains, name=f"{prefix}warmup", init=init))
        stages.append(
            Distill(
                name=f"{prefix}student",
                init=stages[-1].name if warmup else init,
                domains=dict.fromkeys(domains, 1.0),
                teachers=teachers,
                loss=loss,
                reward_mix=reward_mix,
                balance=balance,
                extrapolation=extrapolation,
                misrouting=misrouting,
            )
        )
        init = stages[-1].name
    return _recipe("mopd", domains, amounts, stages)


def off_policy(
    domains: Sequence[str],
    *,
    amounts: AmountsName = "tiny",
    groups: Groups | None = None,
    loss: DistillLoss = "sample_nll",
    correct_only: bool = True,
) -> Recipe:
    """The same specialists, distilled off-policy: fine-tuning on their own (correct) samples, or on their logits."""
    specialists = _specialists(domains, groups)
    student = _samples_of(
        _as_teachers(specialists), domains, name="student", loss=loss, correct_only=correct_only
    )
    return _recipe("off_policy", domains, amounts, [*specialists, student])


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
    specialists = _specialists(domains, groups)
    if scale is None:
        scale = 1.0 if method == "average" else 0.5
    merged = Merge(
        name="merged", inputs=tuple(s.name for s in specialists), method=method, scale=scale, density=density
    )
    return _recipe("merge", domains, amounts, [*specialists, merged])


CATALOGUE: dict[str, Callable[..., Recipe]] = {
    function.__name__: function for function in (single_domain, mixed_rl, cascade_rl, mopd, off_policy, merge)
}


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


def recipe(name: str, domains: Sequence[str], /, **options: Any) -> Recipe:
    """The catalogue's recipe of this name. NotFoundError for a name, UsageError for a bad option or its value."""
    if name not in CATALOGUE:
        raise NotFoundError(f"no recipe {name!r}{did_you_mean(name, CATALOGUE)}")
    if not domains:
        raise UsageError("domains is empty: a recipe needs at least one domain")
    known = inspect.signature(CATALOGUE[name]).parameters.keys() - {"domains"}
    for key in options:
        if key not in known:
            raise UsageError(f"recipe {name!r} has no option {key!r}{did_you_mean(key, known)}")
    try:
        return validate_call(CATALOGUE[name])(domains, **options)
    except ValidationError as error:
        raise UsageError(f"recipe {name!r}: {in_words(error)}") from None


def _specialists(
    domains: Sequence[str], groups: Groups | None, *, init: str = BASE, prefix: str = ""
) -> list[Rl]:
    """One RL specialist per group of domains; the groups must partition the domains."""
    groups = [[domain] for domain in domains] if groups is None else groups
    grouped = [domain for group in groups for domain in group]
    if sorted(grouped) != sorted(domains):
        raise UsageError(f"groups = {groups}: must name each of {', '.join(domains)} exactly once")
    return [
        _teacher(f"{prefix}teacher_{number}", group, init=init)
        for number, group in enumerate(groups, start=1)
    ]


def _teacher(name: str, domains: Sequence[str], *, init: str = BASE) -> Rl:
    return Rl(name=name, init=init, domains=dict.fromkeys(domains, 1.0))


def _as_teachers(specialists: Sequence[Rl]) -> tuple[Teacher, ...]:
    return tuple(Teacher(stage=stage.name, domains=tuple(stage.domains)) for stage in specialists)


def _samples_of(
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


def _recipe(name: str, domains: Sequence[str], amounts: AmountsName, stages: Sequence[AnyStage]) -> Recipe:
    return Recipe(
        name=name,
        domains=tuple(domains),
        amounts_name=amounts,
        stages=tuple(stages),
        amounts={stage.name: _amounts_of(stage, amounts) for stage in stages if not isinstance(stage, Merge)},
        output=stages[-1].name,
    )


def _amounts_of(stage: Sft | Rl | Distill, amounts: AmountsName) -> Amounts:
    """The named set's amounts; a warm-up on the teachers' samples is a tenth of a distillation; where a reward is mixed
    in, as many samples come in groups, which its baseline needs."""
    chosen = default_amounts(amounts, stage.kind)
    if isinstance(stage, Distill) and stage.reward_mix:
        prompts = max(1, chosen.prompts_per_step * chosen.rollouts_per_prompt // REWARD_GROUP)
        return chosen.model_copy(update={"prompts_per_step": prompts, "rollouts_per_prompt": REWARD_GROUP})
    return chosen.scaled(0.1) if stage.name.endswith("warmup") else chosen
