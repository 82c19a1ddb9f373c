"""The planner's question, in one TOML file: domains, machine, limits and what counts as better.

    domains = ["math", "code", "swe"]
    model = "Qwen3-30B-A3B"
    gpu = "H200"
    gpus = 512
    teams = 5
    budget_usd = 3_000_000
    deadline_days = 84
    objective = "mean"               # or worst, weighted, p10
    [minimum]                        # lowest score of a domain that is acceptable
    swe = 0.40
    [domain.math]                    # what is known better than the table: a number, or [P10, P90]
    start = 0.42
    [conflict]
    "math>code" = [-0.4, 0.0]

Whatever is not asked here (domains' fields, conflict, reliability) has the keys of a scenario file. A limit holds
where it is kept with probability `confidence`. Leaves out: the answer (`mopdsim.plan.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.documents import known_keys, number, parse_toml, read_toml, table, whole
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.domains import Scope, domain
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.stage import Amounts, AmountsName, SpendingKind, default_amounts


def new_domains(given: Any, source: str) -> None:
    """A domain of one's own says which of the table it resembles."""
    for name, row in table(given, f"{source}: domain").items():
        if isinstance(row, Mapping) and "like" not in row:
            try:
                domain(name)
            except NotFoundError as error:
                raise NotFoundError(
                    f'{source}: [domain.{name}]: {error}; for a new one add like = "NAME" of one that it resembles'
                ) from None


def by_domain(
    document: Mapping[str, Any], key: str, base: Scenario, source: str, *, most: float, above: bool = False
) -> dict[str, float]:
    given = document.get(key, {})
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{source}: {key} = {given!r}: must be a table by domain: [{key}], then {base.recipe.domains[0]} = 0.5"
        )
    for name, value in given.items():
        if name not in base.recipe.domains:
            raise UsageError(
                f"{source}: {key}.{name}: no such domain{did_you_mean(name, base.recipe.domains)}"
            )
        number(value, f"{source}: {key}.{name}", least=0.0, most=most, above=above)
    return dict(given)


def releases(document: Mapping[str, Any], base: Scenario, source: str) -> tuple[tuple[str, ...], ...]:
    given = document.get("portfolio", [])
    shape = (
        f'{source}: portfolio = {given!r}: must be a list of releases, such as [["math"], ["code", "swe"]]'
    )
    if not isinstance(given, list) or not all(isinstance(release, list) and release for release in given):
        raise UsageError(shape)
    for release in given:
        for name in release:
            if name not in base.recipe.domains:
                raise UsageError(
                    f"{source}: portfolio: no domain {name!r}{did_you_mean(str(name), base.recipe.domains)}"
                )
    return tuple(tuple(release) for release in given)


Objective = Literal["mean", "worst", "weighted", "p10"]
Family = Literal["single", "mixed_rl", "cascade_rl", "mopd", "off_policy", "merge"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
FAMILIES: tuple[Family, ...] = get_args(Family)
REMEDY = "give a question (TOML), such as studies/questions/eight_domains.toml"
MOST_DOMAINS = 24
SEARCH_DRAWS = 200
JUDGING_DRAWS = 1000  # of the few plans that are compared at the end, and of the plan's file
_BATCH: dict[Scope, dict[str, int] | None] = {
    "tiny": None,  # the named set's
    "small": None,
    "frontier": {"rl_prompts": 512, "rollouts": 16, "distill_prompts": 1024},  # prior: published runs' order
}
PASSED_KEYS = (
    "model", "gpu", "gpus", "teams", "usd_per_gpu_hour", "budget_usd", "deadline_days", "overlap", "reliability",
    "domain", "conflict", "conflict_shift", "seed", "precision", "speculative_factor",
    "stack", "measured", "packed", "lora", "trainer_share", "lag", "evaluations", "overhead",
    "epochs", "sampled_per_trained", "environment_slots",
)  # fmt: skip
OWN_KEYS = (
    "domains", "budget_gpu_hours", "confidence", "objective", "weights", "minimum", "families", "max_teachers",
    "max_rounds", "batch", "draws", "portfolio",
)  # fmt: skip
_MEANT = {
    "weeks": "deadline_days: a week is 7",
    "hours": "budget_gpu_hours",
    "pools": "gpus: the planner knows one pool",
}
_BATCH_KEYS = ("rl_prompts", "rollouts", "distill_prompts")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked. base: a scenario with everything but the recipe, which a candidate replaces.

    minimum: lowest acceptable score by domain. portfolio: the domains that each further release of the year changes.
    """

    base: Scenario
    budget_gpu_hours: float | None = None
    confidence: float = 0.8
    objective: Objective = "mean"
    weights: Mapping[str, float] = field(default_factory=dict)
    minimum: Mapping[str, float] = field(default_factory=dict)
    families: tuple[Family, ...] = FAMILIES
    max_teachers: int | None = None
    max_rounds: int = 2
    batch: Mapping[str, int] = field(default_factory=dict)
    portfolio: tuple[tuple[str, ...], ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Axis D."""
        return self.base.recipe.domains

    @property
    def pool(self) -> int:
        """GPUs of the one pool."""
        return next(iter(self.base.pools.values()))

    @property
    def usd_per_gpu_hour(self) -> float:
        return self.base.price

    @property
    def limits(self) -> dict[str, float]:
        """The given limits by name: gpu_hours, usd, days."""
        given = {
            "gpu_hours": self.budget_gpu_hours,
            "usd": self.base.budget_usd,
            "days": self.base.deadline_days,
        }
        return {name: limit for name, limit in given.items() if limit is not None}

    @property
    def most_gpu_hours(self) -> float:
        """The most that any limit lets a plan use."""
        hours = {"gpu_hours": 1.0, "usd": 1 / self.usd_per_gpu_hour, "days": 24.0 * self.pool}
        return min(limit * hours[name] for name, limit in self.limits.items())

    @cached_property
    def amounts_name(self) -> AmountsName:
        return "tiny" if self.base.scope == "tiny" else "small"

    def amounts(self, kind: SpendingKind, steps: int, *, group: int = 1) -> Amounts:
        """What a stage of this kind spends. group: samples of a prompt where a distillation mixes in a reward."""
        chosen = default_amounts(self.amounts_name, kind)
        if kind == "rl" and self.batch:
            changes = {
                "prompts_per_step": self.batch["rl_prompts"],
                "rollouts_per_prompt": self.batch["rollouts"],
            }
        elif kind == "distill":
            samples = self.batch.get("distill_prompts", chosen.prompts_per_step * chosen.rollouts_per_prompt)
            changes = {"prompts_per_step": max(1, samples // group), "rollouts_per_prompt": group}
        else:
            changes = {}
        return chosen.model_copy(update={**changes, "steps": steps})

    def utility(self, scores_DXN: Array) -> Array:
        """What counts as better, by draw, from scores with domains first: (..., N)."""
        match self.objective:
            case "worst":
                return np.asarray(scores_DXN.min(axis=0))
            case "weighted":
                weights_D = np.array([self.weights[name] for name in self.domains])
                return np.asarray(np.einsum("d,d...->...", weights_D / weights_D.sum(), scores_DXN))
            case "mean" | "p10":
                return np.asarray(scores_DXN.mean(axis=0))

    def value(self, utility_XN: Array) -> Array:
        """The objective of utilities by draw: their mean, or their P10."""
        if self.objective == "p10":
            return np.asarray(np.quantile(utility_XN, 0.1, axis=-1))
        return np.asarray(utility_XN.mean(axis=-1))

    def on(self, **changes: Any) -> Question:
        """The same question with fields of its base scenario replaced."""
        return replace(self, base=replace(self.base, **changes))


def load(path: Path) -> Question:
    """A question from a file. NotFoundError where there is none, UsageError where it is not sound."""
    return from_document(read_toml(path, remedy=REMEDY), source=str(path))


def loads(text: str, *, source: str = "question") -> Question:
    """A question from TOML text."""
    return from_document(parse_toml(text, source=source), source=source)


def from_document(document: Mapping[str, Any], *, source: str = "question") -> Question:
    """A validated question. Raises UsageError or NotFoundError with one sentence."""
    for key in document:
        if key not in (*OWN_KEYS, *PASSED_KEYS):
            hint = f" (use {_MEANT[key]})" if key in _MEANT else did_you_mean(key, (*OWN_KEYS, *PASSED_KEYS))
            raise UsageError(f"{source}: unknown key {key!r}{hint}")
    names = document.get("domains", list(table(document.get("domain", {}), f"{source}: domain")))
    if isinstance(names, list) and len(names) > MOST_DOMAINS:
        raise UsageError(f"{source}: {len(names)} domains: at most {MOST_DOMAINS}; put related ones together")
    draws = document.get("draws", SEARCH_DRAWS)
    whole(draws, f"{source}: draws", most=10_000)
    passed = {key: document[key] for key in PASSED_KEYS if key in document}
    new_domains(passed.get("domain", {}), source)
    base = scenarios.from_document(
        {"recipe": "mixed_rl", "domains": names, "draws": draws, **passed}, source=source
    )
    hours = document.get("budget_gpu_hours")
    if hours is not None:
        number(hours, f"{source}: budget_gpu_hours", least=0.0, above=True)
    objective = document.get("objective", "mean")
    if objective not in OBJECTIVES:
        hint = did_you_mean(str(objective), OBJECTIVES)
        raise UsageError(f"{source}: objective = {objective!r}: no such objective{hint}")
    numbers, domains = _numbers(document, source), base.recipe.domains
    question = Question(
        base=base,
        budget_gpu_hours=hours,
        objective=objective,
        weights=by_domain(document, "weights", base, source, most=1e6, above=True),
        minimum=by_domain(document, "minimum", base, source, most=1.0),
        families=_families(document, len(domains), numbers.get("max_teachers", len(domains)), source),
        batch=_batch(document, base, source),
        portfolio=releases(document, base, source),
        **numbers,
    )
    _check(question, source)
    return question


def _check(question: Question, source: str) -> None:
    if not question.limits:
        raise UsageError(
            f"{source}: no limit: give budget_usd, budget_gpu_hours or deadline_days, or more is always better"
        )
    if question.objective == "weighted":
        for name in question.domains:
            if name not in question.weights:
                raise UsageError(
                    f"{source}: weights.{name} is missing: objective 'weighted' needs one a domain"
                )
    elif question.weights:
        raise UsageError(f"{source}: weights are read by objective 'weighted' alone: set it or remove them")


def _numbers(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "confidence" in document:
        number(document["confidence"], f"{source}: confidence", least=0.5, most=0.99)
        found["confidence"] = float(document["confidence"])
    for key, most in (("max_teachers", MOST_DOMAINS), ("max_rounds", 3)):
        if key in document:
            whole(document[key], f"{source}: {key}", most=most)
            found[key] = document[key]
    return found


def _families(document: Mapping[str, Any], domains: int, most: int, source: str) -> tuple[Family, ...]:
    """The families to search, without those that take two domains or teachers where there is one."""
    given = document.get("families", list(FAMILIES))
    if not isinstance(given, list) or not given:
        raise UsageError(f"{source}: families = {given!r}: must be a list of {', '.join(FAMILIES)}")
    for name in given:
        if name not in FAMILIES:
            raise UsageError(f"{source}: families: no family {name!r}{did_you_mean(str(name), FAMILIES)}")
    several = {"cascade_rl": domains > 1, "merge": min(domains, most) > 1}
    found = tuple(name for name in FAMILIES if name in given and several.get(name, True))
    if not found:
        raise UsageError(
            f"{source}: families = {given!r}: with {domains} domain(s) and at most {most} teacher(s) there is nothing "
            "to merge or to train in turn: add a domain or a family"
        )
    return found


def _batch(document: Mapping[str, Any], base: Scenario, source: str) -> dict[str, int]:
    given = dict(table(document.get("batch", {}), f"{source}: batch"))
    known_keys(given, _BATCH_KEYS, f"{source}: batch")
    for key, value in given.items():
        whole(value, f"{source}: batch.{key}", most=4096 if key == "rollouts" else 1_000_000)
    default = _BATCH[base.scope]
    if default is None and given:
        rl, distill = (
            default_amounts("tiny" if base.scope == "tiny" else "small", k) for k in ("rl", "distill")
        )
        default = {
            "rl_prompts": rl.prompts_per_step,
            "rollouts": rl.rollouts_per_prompt,
            "distill_prompts": distill.prompts_per_step,
        }
    return {**(default or {}), **given}
