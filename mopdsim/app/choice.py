"""A choice: a preset or an own scenario file, and what was changed on it. It makes the scenario that is forecast.

A choice holds only what differs from its base, so that a link stays short and "changed inputs" are its fields. Presets
are the questions that the app opens with, each a scenario document, as a scenario file would hold it. Leaves out:
widgets (`mopdsim.app.pages.controls`), how a choice travels in a link (`mopdsim.app.state`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field

from mopdsim.app.uploads import MAX_CONFIG, MAX_OWN, toml_document
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.base.numbers import usd
from mopdsim.cost.constants import UNKNOWN
from mopdsim.facts.domains import WHOLE as WHOLE_FACTS
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import title
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.catalogue import CATALOGUE, SYSTEMS
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Rl, Value


class Preset(NamedTuple):
    """A question with its title."""

    title: str
    document: Mapping[str, Any]


def _asked(
    recipe: str, domains: str, model: str, gpus: int, gpu: str, teams: int, **more: Any
) -> dict[str, Any]:
    """A scenario document; domains in one string."""
    machine = {"model": model, "gpu": gpu, "gpus": gpus, "teams": teams, "options": {"amounts": "small"}}
    return {"recipe": recipe, "domains": domains.split(), **machine, **more}


DEFAULT = "eight_domains"
PRESETS: Mapping[str, Preset] = {
    DEFAULT: Preset(
        "Eight domains, 512 H200s, $3M, twelve weeks, five teams",
        _asked(
            "mopd", "math code swe tool_use search instruction_following chat safety", "Qwen3-30B-A3B", 512, "H200", 5,
            budget_usd=3_000_000.0, deadline_days=84.0,
        ),
    ),
    "three_specialists": Preset(
        "Three specialists and one student on 64 H100s",
        _asked(
            "mopd", "math instruction_following swe", "Qwen3-30B-A3B", 64, "H100", 3,
            budget_usd=300_000.0, deadline_days=60.0,
        ),
    ),
    "conflicting_pair": Preset(
        "One mixed run over two domains that a pilot showed to conflict",
        _asked(
            "mixed_rl", "math chat", "Qwen3-8B", 32, "H100", 1, budget_usd=50_000.0, deadline_days=28.0,
            domain={"math": {"start": [0.25, 0.29], "asymptote": [0.45, 0.55]}},
            conflict={"math>chat": [-0.6, -0.2], "chat>math": [-0.3, 0.0]},
        ),
    ),
    "tiny": Preset(
        "Six tiny domains that this machine can run for real",
        _asked(
            "mopd", "sort reverse shift swap brackets rle_decode", "tiny", 1, "CPU-2-cores", 1,
            options={"amounts": "tiny"}, reliability={"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0},
        ),
    ),
}  # fmt: skip
OWN = "own scenario"
MAX_DRAWS, MAX_ROUNDS, MAX_DOMAINS, MAX_STAGES = 5000, 10, 16, 64
MAX_FACTS, MAX_WISHES = 400, 20_000  # facts, letters of the wishes
NO_LIMIT = 0  # of teams, dollars or days: takes the base's limit away

Pools = Literal["as_is", "by_kind", "by_stage"]
POOLS: tuple[Pools, ...] = get_args(Pools)
Whole = Annotated[int, Field(ge=1, le=1_000_000)]
Limit = Annotated[float, Field(ge=0, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Ends = Annotated[float, Field(ge=-10, le=10)]
Fact = Annotated[float, Field(ge=0, le=1e15)]


class Choice(Value):
    """What is asked. None: as the base has it.

    own: text of an own scenario file, which takes the preset's place. teachers: number of teachers, domains split in
    their order; groups: the split itself. conflict: shift of K for every pair. quality: factor on the RL steps of
    what the student learns from (of every RL stage, where nobody is taught). pairs: (source, target, P10, P90) of K.
    share: whether every stage gets an equal share of the pool, in whole nodes, so that teams work side by side.
    model: a name, or the text of a config.json. facts: (domain, key, value) of what is known of domains; a value is a
    number, (P10, P90), or of the key `like` the row of the table that a new domain starts from. measured: mean and
    spread of the log factor on seconds that own step times show. wishes: the planner's own keys (what counts, further
    limits, later releases) as TOML.
    equal_total: whether fewer teachers train longer, so that all together take the steps of one teacher a domain.
    pools: the GPUs in pools as they are, or in equal parts for each kind of stage, or for each stage.
    """

    preset: Name = DEFAULT
    own: Annotated[str, Field(max_length=MAX_OWN)] | None = None
    recipe: Name | None = None
    domains: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_DOMAINS)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=MAX_CONFIG)] | None = None
    gpu: Name | None = None
    gpus: Whole | None = None
    teams: Annotated[int, Field(ge=NO_LIMIT, le=1000)] | None = None
    budget_usd: Limit | None = None
    deadline_days: Limit | None = None
    usd_per_gpu_hour: Limit | None = None
    facts: Annotated[
        tuple[tuple[Name, Name, Fact | Name | tuple[Fact, Fact]], ...], Field(max_length=MAX_FACTS)
    ] = ()
    measured: tuple[Ends, Annotated[float, Field(gt=0, le=10)]] | None = None
    wishes: Annotated[str, Field(max_length=MAX_WISHES)] = ""
    teachers: Annotated[int, Field(ge=1, le=MAX_DOMAINS)] | None = None
    groups: tuple[tuple[Name, ...], ...] | None = None
    conflict: Annotated[float, Field(ge=-2, le=2)] = 0.0
    quality: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    pairs: tuple[tuple[Name, Name, Ends, Ends], ...] = ()
    share: bool | None = None
    pools: Pools = "as_is"
    equal_total: bool = False

    @property
    def shared(self) -> bool:
        """Whether each team gets an equal share of the pool: presets do, an own file says itself who gets what."""
        return self.own is None if self.share is None else self.share

    @property
    def base(self) -> Choice:
        """The same preset or own file, unchanged."""
        return Choice(preset=self.preset, own=self.own)

    @property
    def changes(self) -> str:
        """What differs from the base, in a few words."""
        changed = self.model_dump(exclude_defaults=True, exclude={"preset", "own"})
        if self.model is not None:
            changed["model"] = title(self.model)
        return ", ".join(
            f"own {name}"
            if name in ("groups", "pairs", "facts", "measured", "wishes")
            else f"{name.removesuffix('_usd')} {_listed(name, value)}"
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
        """The choice with fields replaced and checked again. Domains are dealt to teachers by number or by groups,
        whichever came last; in another recipe, or over other domains, anew."""
        if fields.keys() & {"domains", "recipe", "teachers", "groups"}:
            fields = {"groups": None, "teachers": None, **fields}
        return Choice.model_validate({**self.model_dump(), **fields})

    def scenario(self) -> Scenario:
        """The scenario that is asked for. UsageError or NotFoundError, one sentence."""
        return _scenario(self)

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
        for key in ("teams", "budget_usd", "deadline_days", "usd_per_gpu_hour"):
            value = getattr(self, key)
            if value == NO_LIMIT:
                document.pop(key, None)
            elif value is not None:
                document[key] = value
        if self.facts:
            document["domain"] = self._known(document)
        if self.measured is not None:
            document["measured"] = scenarios.measured_table(document.get("stack", UNKNOWN), self.measured)
        if self.shared and "gpus" in document and document.get("teams"):
            document["gpus_per_stage"] = per_team(document["gpus"], document["teams"], document.get("gpu"))
        if (groups := self.groups or self._split(document)) is not None:
            document["options"] = {**document.get("options", {}), "groups": [list(group) for group in groups]}
        if self.pairs:
            own = {f"{source}>{target}": [low, high] for source, target, low, high in self.pairs}
            document["conflict"] = {**document.get("conflict", {}), **own}
        return document

    def _known(self, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What is known of the document's domains, the own facts over the base's."""
        recipe = document.get("recipe")
        names = document.get("domains", recipe.get("domains") if isinstance(recipe, Mapping) else None) or ()
        known = {name: dict(row) for name, row in document.get("domain", {}).items()}
        for name, key, value in self.facts:
            if name in names:
                known.setdefault(name, {})[key] = _plain(key, value)
        return known

    def _split(self, document: Mapping[str, Any]) -> tuple[tuple[str, ...], ...] | None:
        if self.teachers is None or not self.groupable:
            return None
        return split(document["domains"], self.teachers)


def _plain(key: str, value: float | str | tuple[float, float]) -> Any:
    """A fact as a scenario file holds it."""
    if isinstance(value, tuple):
        return list(value)
    return int(value) if isinstance(value, float) and key in WHOLE_FACTS else value


def _listed(name: str, value: Any) -> str:
    if isinstance(value, tuple | list):
        return " and ".join(part for part in (", ".join(value[:-1]), value[-1]) if part)
    if name.endswith("_usd") and value:
        return usd(value)
    return str(value)


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
    return scenarios.published_document(choice.preset)


@lru_cache(maxsize=32)
def _parsed(text: str) -> Mapping[str, Any]:
    document = toml_document(text, source=OWN)
    document = {"recipe": document} if "stages" in document else document
    without_files(document, source=OWN, command="forecast")
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


def without_files(document: Mapping[str, Any], *, source: str, command: str) -> None:
    """UsageError where a document names a file or directory of the server's."""
    for key in ("model", "smaller", "measured"):
        name = document.get(key)
        if not isinstance(name, str) or (key != "measured" and name.lstrip().startswith("{")):
            continue
        if key == "measured" or name.endswith(".json") or Path(name).is_dir():
            raise UsageError(
                f"{source}: {key} = {name!r}: the app reads no files of its machine: upload it under *Yours*, or use "
                f"`mopd {command}`"
            )


def rl_behind(recipe: Recipe) -> list[str]:
    """RL stages whose quality the output inherits: those that are taught from or merged; all where there are none."""
    sources = recipe.taught_from
    reinforced = [stage.name for stage in recipe.stages if isinstance(stage, Rl)]
    return [name for name in reinforced if name in sources] or reinforced


@lru_cache(maxsize=64)
def _scenario(choice: Choice) -> Scenario:
    """The scenario of the choice's document, with the dials that need the resolved recipe."""
    source = OWN if choice.own is not None else choice.preset
    found = scenarios.from_document(choice.document(), source=source)
    factor = choice.quality
    if choice.equal_total and choice.groupable:
        many = len(found.recipe.domains)
        factor *= many / len(choice.groups or range(min(choice.teachers or many, many)))
    if factor != 1.0:
        taught = {name: found.recipe.amounts[name].scaled(factor) for name in rl_behind(found.recipe)}
        found = replace(found, recipe=found.recipe.with_amounts(taught))
    if choice.conflict:
        found = replace(found, conflict_shift=(found.conflict_shift or 0.0) + choice.conflict)
    return found if choice.pools == "as_is" else _pooled(found, choice.pools)


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
