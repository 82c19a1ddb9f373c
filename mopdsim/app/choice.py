"""A choice: a preset or an own scenario file, and what was changed on it. It makes the scenario that is forecast.

A choice holds only what differs from its base, so that a link stays short and "changed inputs" are its fields.
Leaves out: widgets (`mopdsim.app.pages.controls`), how a choice travels in a link (`mopdsim.app.link`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from mopdsim.app.presets import DEFAULT, PRESETS
from mopdsim.app.uploads import MAX_OWN, toml_document
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.facts.hardware import gpu
from mopdsim.forecast import published_scale
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.amounts import Value
from mopdsim.recipes.catalogue import CATALOGUE
from mopdsim.recipes.recipe import Recipe, Rl
from mopdsim.recipes.systems import SYSTEMS

OWN = "own scenario"
MAX_DRAWS, MAX_ROUNDS, MAX_DOMAINS, MAX_STAGES = 5000, 10, 16, 64
NO_LIMIT = 0  # of teams, dollars or days: takes the base's limit away

Pools = Literal["as_is", "by_kind", "by_stage"]
POOLS: tuple[Pools, ...] = get_args(Pools)
Whole = Annotated[int, Field(ge=1, le=1_000_000)]
Limit = Annotated[float, Field(ge=0, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Ends = Annotated[float, Field(ge=-10, le=10)]


class Choice(Value):
    """What is asked. None: as the base has it.

    own: text of an own scenario file, which takes the preset's place. teachers: number of teachers, domains split in
    their order; groups: the split itself. conflict: shift of K for every pair. quality: factor on the RL steps of
    what the student learns from (of every RL stage, where nobody is taught). pairs: (source, target, P10, P90) of K.
    share: whether every stage gets an equal share of the pool, in whole nodes, so that teams work side by side.
    pools: the GPUs in pools as they are, or in equal parts for each kind of stage, or for each stage.
    """

    preset: Name = DEFAULT
    own: Annotated[str, Field(max_length=MAX_OWN)] | None = None
    recipe: Name | None = None
    domains: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_DOMAINS)] | None = None
    model: Name | None = None
    gpu: Name | None = None
    gpus: Whole | None = None
    teams: Annotated[int, Field(ge=NO_LIMIT, le=1000)] | None = None
    budget_usd: Limit | None = None
    deadline_days: Limit | None = None
    teachers: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    groups: tuple[tuple[Name, ...], ...] | None = None
    conflict: Annotated[float, Field(ge=-2, le=2)] = 0.0
    quality: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    pairs: tuple[tuple[Name, Name, Ends, Ends], ...] = ()
    share: bool | None = None
    pools: Pools = "as_is"

    @property
    def shared(self) -> bool:
        """Whether each team gets an equal share of the pool: presets do, an own file says itself who gets what."""
        return self.own is None if self.share is None else self.share

    @property
    def key(self) -> str:
        """The choice as text, equal for equal choices."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def base(self) -> Choice:
        """The same preset or own file, unchanged."""
        return Choice(preset=self.preset, own=self.own)

    @property
    def changes(self) -> str:
        """What differs from the base, in a few words."""
        changed = self.model_dump(exclude_defaults=True, exclude={"preset", "own"})
        return ", ".join(
            f"own {name}" if name in ("groups", "pairs") else f"{name.removesuffix('_usd')} {_listed(value)}"
            for name, value in changed.items()
        ).replace("_", " ")

    @property
    def named(self) -> bool:
        """Whether the recipe is one of the catalogue, whose options and domains can be changed."""
        return self.recipe is not None or isinstance(base_document(self).get("recipe"), str)

    @property
    def groupable(self) -> bool:
        """Whether the recipe lets domains share a teacher."""
        name = self.recipe or base_document(self).get("recipe")
        return self.named and name in CATALOGUE and "groups" in inspect.signature(CATALOGUE[name]).parameters

    def changed(self, **fields: Any) -> Choice:
        """The choice with fields replaced and checked again."""
        if "domains" in fields or "recipe" in fields:
            fields = {"groups": None, "teachers": None, **fields}
        return Choice.model_validate({**self.model_dump(), **fields})

    def scenario(self) -> Scenario:
        """The scenario that is asked for. UsageError or NotFoundError, one sentence."""
        return _scenario(self)

    def resolved(self) -> Scenario:
        """The same, made anew."""
        found = scenarios.from_document(self.document(), source=OWN if self.own is not None else self.preset)
        if self.quality != 1.0:
            taught = {
                name: found.recipe.amounts[name].scaled(self.quality) for name in rl_behind(found.recipe)
            }
            found = replace(found, recipe=found.recipe.with_amounts(taught))
        if self.conflict:
            found = replace(found, conflict_shift=(found.conflict_shift or 0.0) + self.conflict)
        return found if self.pools == "as_is" else _pooled(found, self.pools)

    def document(self) -> dict[str, Any]:
        """The scenario file that the base and the changes make, before dials that need the resolved recipe."""
        document = dict(base_document(self))
        if self.recipe is not None and self.recipe != document.get("recipe"):
            document = _with_recipe(document, self.recipe)
        if self.domains is not None:
            document = _with_domains(document, self.domains)
        for key in ("model", "gpu"):
            if getattr(self, key) is not None:
                document[key] = getattr(self, key)
        if self.gpus is not None:
            document = scenarios.on_one_pool(document, self.gpus)
        for key in ("teams", "budget_usd", "deadline_days"):
            value = getattr(self, key)
            if value == NO_LIMIT:
                document.pop(key, None)
            elif value is not None:
                document[key] = value
        if self.shared and "gpus" in document and document.get("teams"):
            document["gpus_per_stage"] = per_team(document["gpus"], document["teams"], document.get("gpu"))
        if (groups := self.groups or self._split(document)) is not None:
            document["options"] = {**document.get("options", {}), "groups": [list(group) for group in groups]}
        if self.pairs:
            own = {f"{source}>{target}": [low, high] for source, target, low, high in self.pairs}
            document["conflict"] = {**document.get("conflict", {}), **own}
        return document

    def _split(self, document: Mapping[str, Any]) -> tuple[tuple[str, ...], ...] | None:
        if self.teachers is None or not self.groupable:
            return None
        return split(document["domains"], self.teachers)


def _listed(value: Any) -> str:
    return " and ".join(value) if isinstance(value, tuple | list) else str(value)


def split(domains: list[str], teachers: int) -> tuple[tuple[str, ...], ...]:
    """Domains dealt to teachers in their order, group sizes as even as they can be."""
    teachers = min(teachers, len(domains))
    ends = [round(len(domains) * number / teachers) for number in range(teachers + 1)]
    return tuple(tuple(domains[low:high]) for low, high in pairwise(ends))


def per_team(gpus: int, teams: int, name: str | None) -> int:
    """An equal share of the pool: whole nodes where it comes to one, at least one GPU."""
    node = 1 if name is None else gpu(name).gpus_per_node
    share = max(1, gpus // teams)
    return share // node * node or share


def base_document(choice: Choice) -> Mapping[str, Any]:
    """The base's scenario document. NotFoundError for an unknown preset, UsageError for a bad own file."""
    if choice.own is not None:
        return _parsed(choice.own)
    if choice.preset in PRESETS:
        return PRESETS[choice.preset].document
    if choice.preset not in SYSTEMS:
        raise NotFoundError(f"no preset {choice.preset!r}{did_you_mean(choice.preset, [*PRESETS, *SYSTEMS])}")
    return published_scale.document(choice.preset)


@lru_cache(maxsize=32)
def _parsed(text: str) -> Mapping[str, Any]:
    document = toml_document(text, source=OWN)
    document = {"recipe": document} if "stages" in document else document
    for key in ("model", "smaller"):
        name = document.get(key)
        if isinstance(name, str) and (name.endswith(".json") or Path(name).is_dir()):
            raise UsageError(
                f"{OWN}: {key} = {name!r}: the app reads no files; use `mopd forecast` for an own model"
            )
    for where, value, most in _sizes(document):
        if isinstance(value, int | float) and value > most:
            raise UsageError(
                f"{OWN}: {where} = {value!r}: the app takes up to {most}; use `mopd forecast` for more"
            )
    return document


def _sizes(document: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """What decides how long a forecast takes: where it stands, its value, the most that the app takes."""
    recipe = document.get("recipe")
    inner = recipe if isinstance(recipe, Mapping) else {}
    options = document.get("options")
    yield "draws", document.get("draws"), MAX_DRAWS
    yield "options.rounds", options.get("rounds") if isinstance(options, Mapping) else None, MAX_ROUNDS
    for where, rows, most in (
        ("number of domains", document.get("domains", inner.get("domains")), MAX_DOMAINS),
        ("number of stages", inner.get("stages"), MAX_STAGES),
    ):
        yield where, len(rows) if isinstance(rows, list) else None, most


def rl_behind(recipe: Recipe) -> list[str]:
    """RL stages whose quality the output inherits: those that are taught from or merged; all where there are none."""
    sources = recipe.taught_from
    reinforced = [stage.name for stage in recipe.stages if isinstance(stage, Rl)]
    return [name for name in reinforced if name in sources] or reinforced


@lru_cache(maxsize=64)
def _scenario(choice: Choice) -> Scenario:
    return choice.resolved()


def _pooled(scenario: Scenario, how: Pools) -> Scenario:
    """All GPUs dealt out in equal parts, a pool for each stage or each kind of stage. UsageError for too few GPUs."""
    pool_of = {
        stage.name: stage.name if how == "by_stage" else stage.kind
        for stage in scenario.recipe.stages
        if stage.name in scenario.recipe.amounts
    }
    whole, names = sum(scenario.pools.values()), sorted(set(pool_of.values()))
    if whole < len(names):
        raise UsageError(
            f"GPUs = {whole}: {len(names)} pools need at least one each; take fewer pools or more GPUs"
        )
    return replace(scenario, pools=dict.fromkeys(names, whole // len(names)), pool_of=pool_of, gpus_of={})


def _with_recipe(document: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """The document under another recipe of the catalogue: of its options, those that both know."""
    if not isinstance(document.get("recipe"), str):
        domains = list(document["recipe"]["domains"])
        document = {**document, "domains": domains}
        for key in ("pool_of", "gpus_of", "priority"):
            document.pop(key, None)
    known = inspect.signature(CATALOGUE[recipe]).parameters if recipe in CATALOGUE else {}
    options = {key: value for key, value in document.get("options", {}).items() if key in known}
    return {**document, "recipe": recipe, "options": options}


def _with_domains(document: Mapping[str, Any], domains: tuple[str, ...]) -> dict[str, Any]:
    """The document over other domains: what it says of those that stay, stays."""
    options = {key: value for key, value in document.get("options", {}).items() if key != "groups"}
    facts = {name: row for name, row in document.get("domain", {}).items() if name in domains}
    pairs = document.get("conflict", {}).items()
    conflict = {pair: ends for pair, ends in pairs if set(pair.split(">")) <= set(domains)}
    return {**document, "domains": list(domains), "options": options, "domain": facts, "conflict": conflict}
