"""The catalogue: ready-made recipes, one function each, over any list of domains.

Every function returns a complete `Recipe`; amounts come from a named set (`mopdsim.recipes.amounts`) and may be
replaced with `Recipe.with_amounts`. Teachers that two recipes share are the same stage with the same amounts, so that
a trainer's store runs them once. The published systems (`mopdsim.recipes.systems`) are listed beside them. Leaves
out: what a recipe yields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError, validate_call

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.recipes import published
from mopdsim.recipes.amounts import AmountsName
from mopdsim.recipes.parts import Groups, as_teachers, assemble, samples_of, specialist, specialists_of
from mopdsim.recipes.recipe import BASE, AnyStage, Balance, Distill, DistillLoss, Merge, Recipe, Rl
from mopdsim.recipes.recipe_file import in_words
from mopdsim.recipes.systems import SYSTEMS

DEFAULT_DOMAINS = ("sort", "reverse", "shift")  # of the built-in tiny model, where a command is given none
REAL_MODEL = "HuggingFaceTB/SmolLM2-135M"  # the small open model that the trainer fetches by name
REAL_DOMAINS = ("ask:smallest", "ask:larger", "ask:gcd", "ask:swap")  # of that model, likewise


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
        domains=dict.fromkeys(domains, 1.0) if shares is None else dict(shares),
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
        specialists = specialists_of(domains, groups, init=init, prefix=prefix)
        teachers = as_teachers(specialists)
        stages += specialists
        if warmup:
            stages.append(samples_of(teachers, domains, name=f"{prefix}warmup", init=init))
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
        return _checked(name)(domains, **options)
    except ValidationError as error:
        raise UsageError(f"recipe {name!r}: {in_words(error)}") from None


@cache
def _checked(name: str) -> Callable[..., Recipe]:
    """The function behind a name with its arguments checked; making the check takes longer than the call."""
    return validate_call(CATALOGUE[name])
