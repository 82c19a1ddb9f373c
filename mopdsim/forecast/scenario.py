"""A scenario: one complete question, in one TOML file: a recipe, a model, GPUs, domains, teams, budget.

    recipe = "mopd"                  # a name of the catalogue, or a table [recipe] as in a recipe file
    domains = ["math", "code"]       # of a named recipe
    model = "Qwen3-30B-A3B"
    gpu = "H100"
    gpus = 512
    teams = 3
    [options]                        # of a named recipe
    rounds = 2
    [domain.math]                    # what is known better than the table: a number, or [P10, P90]
    start = 0.42
    specialist = {score = 0.61, flops = 2e20}  # what RL on it alone was measured to reach from this start
    [conflict]
    "math>code" = [-0.4, 0.0]        # P10 and P90 of K, source > target; conflict_shift = -0.1 moves every pair
    [ranges]
    "student.steps" = [200, 800]     # P10 and P90 of what a stage spends, where nobody states it

`published_document` is a published system at its published scale, what `mopd forecast SYSTEM` answers. `dump` writes
the resolved scenario: the recipe in full, every default stated; `loads(dump(s)) == s`.
Every breach of a rule of its keys is one sentence with the field, the value and the rule. Leaves out: the answer
(`mopdsim.forecast.forecast`); models, domains and recipes, which have checks of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from mopdsim.base.documents import keys as check_keys
from mopdsim.base.documents import known_keys, number, pair_of, parse_toml, read_toml, table, whole
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.cost.constants import MEASURED_SCHEMA, UNKNOWN, Stack, measured_of, read_measured, stack
from mopdsim.cost.rlstep import Overlap
from mopdsim.facts.domains import SCOPES, Domain, Estimate, Scope, domain, domains, scope_of
from mopdsim.facts.hardware import CACHE_BYTES, gpu
from mopdsim.facts.model import model
from mopdsim.forecast.schedule import Reliability
from mopdsim.quality.learning import Specialist
from mopdsim.recipes import catalogue, published
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import from_document as recipe_from_document
from mopdsim.recipes.recipe_file import to_document
from mopdsim.recipes.stage import BASE, SMALLER, AmountsName, Merge, Rl, default_amounts

SCHEMA_VERSION = 1
MAX_DRAWS = 100_000
MOST_K = 5.0  # of a conflict: at -5 less than a hundredth of a gain is left
PRECISIONS = tuple(CACHE_BYTES)  # formats that weights, products and cache can all take
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)
RELIABILITY = tuple(row.name for row in fields(Reliability))
RANGED = ("steps", "prompts_per_step", "rollouts_per_prompt", "response_tokens")


_PACE = ("learning_rate", "prompts_per_step", "rollouts_per_prompt")  # of a specialist's amounts


_WHOLE = {  # by key, the most; what is absent has no rule
    "teams": 10_000_000, "gpus_per_stage": 10_000_000, "environment_slots": 10_000_000, "draws": MAX_DRAWS, "lag": 64,
    "epochs": 64,
}  # fmt: skip
_NUMBERS: Mapping[str, Mapping[str, float]] = {
    **{key: {"least": 0.0, "above": True} for key in ("usd_per_gpu_hour", "budget_usd", "deadline_days")},
    "conflict_shift": {"least": -10.0, "most": 10.0},
    "speculative_factor": {"least": 1.0, "most": 16.0},
    "trainer_share": {"least": 0.0, "most": 0.99, "above": True},
    "sampled_per_trained": {"least": 1.0, "most": 64.0},
}
_MACHINES: dict[Scope, tuple[str, str, int]] = {
    "tiny": ("tiny", "CPU-2-cores", 1),
    "small": ("Qwen3-1.7B", "H100", 1),
    "frontier": ("Qwen3-30B-A3B", "H100", 64),
}
_SMALLER = dict.fromkeys(("tiny", "tiny-large", "tiny-1.5M", "tiny-xlarge", "tiny-10M"), "tiny-small")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One question.

    pools: GPUs by pool; stages run on the first unless `pool_of` names another. gpus_per_stage: GPUs of every
    stage (None: its whole pool), gpus_of: of single stages. teams: stages worked on at once (None: no limit).
    overlap: whether generation waits for the update. facts and conflict: what the user knows of domains, and
    of pairs "source>target" (P10 and P90). smaller: the second model, of a recipe that has one; smaller_start: its
    start scores by domain. ranges: by "STAGE.FIELD" of steps, prompts_per_step, rollouts_per_prompt and
    response_tokens, a stage's own mean length. overhead: one factor on all seconds (restarts, tests, debugging; None: a
    whole project's, see `overhead_of`). stack: the software, a name of `mopdsim.cost.constants`; packed: whether
    fine-tuning packs its sequences (None: as the stack does). lora: adapters alone are trained. trainer_share: of a
    stage's GPUs that train where generation overlaps (None: the fastest), or that take turns with those that sample
    where it waits (None: all do both); lag: steps that a sample may be behind in
    asynchronous mode. evaluations: tests in every stage (None: five; one of fine-tuning and of reward models).
    epochs: passes over a batch of RL samples; value_model: PPO's, where it is no head on the policy's own states;
    sampled_per_trained: samples drawn for one that is kept (dynamic sampling); environment_slots: samples whose
    environment runs at once (None: all). fill_idle: stages share GPUs, one computing while another waits for its
    longest answers (None: no). model: a name, the path of a config.json, or the text of one. measured: a file of `mopd
    calibrate cost`, whence the factor comes (None where the scenario holds it). factor: mean and spread of the log
    factor on seconds that replace the stack's own, and launch_layer_s its launches. precision: of weights, products and
    cache; speculative_factor: tokens that a decode step yields. stated: keys that the question gave, the others
    being defaults.
    """

    recipe: Recipe
    model: str
    gpu: str
    pools: Mapping[str, int]
    pool_of: Mapping[str, str] = field(default_factory=dict)
    gpus_per_stage: int | None = None
    gpus_of: Mapping[str, int] = field(default_factory=dict)
    teams: int | None = None
    priority: Mapping[str, float] = field(default_factory=dict)
    usd_per_gpu_hour: float | None = None
    budget_usd: float | None = None
    deadline_days: float | None = None
    reliability: Reliability = field(default_factory=Reliability)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    conflict: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    conflict_shift: float | None = None
    overlap: Overlap = "synchronous"
    smaller: str | None = None
    smaller_start: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    overhead: tuple[float, float] | None = None
    precision: str = "bf16"
    speculative_factor: float = 1.0
    stack: str = UNKNOWN
    packed: bool | None = None
    lora: bool = False
    trainer_share: float | None = None
    lag: int = 1
    evaluations: int | None = None
    epochs: int = 1
    value_model: str | None = None
    sampled_per_trained: float = 1.0
    environment_slots: int | None = None
    fill_idle: bool | None = None
    draws: int = 1000
    seed: int = 0
    measured: str | None = None
    factor: tuple[float, float] | None = None
    launch_layer_s: float | None = None
    stated: frozenset[str] = field(default=frozenset(), compare=False)

    @cached_property
    def software(self) -> Stack:
        """The stack, with the factor that was measured on it where there is one."""
        found = stack(self.stack)
        if self.launch_layer_s is not None:
            found = replace(found, launch_layer_s=self.launch_layer_s)
        return found if self.factor is None else found.measured(*self.factor)

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The recipe's domains: the table's rows with the user's facts; of another model than the row's the start is a
        wide prior, unless the user gives it."""
        return {name: self._met(_domain(name, self.facts.get(name, {}))) for name in self.recipe.domains}

    @cached_property
    def specialists(self) -> dict[str, Specialist]:
        """By domain, what RL on it alone was measured to reach, where the user says so."""
        return {
            name: _specialist(row[SPECIALIST], self.recipe.amounts_name, f"domain.{name}.{SPECIALIST}")
            for name, row in self.facts.items()
            if SPECIALIST in row
        }

    def _met(self, row: Domain) -> Domain:
        if not row.model or row.start.grade == "measured" or row.asymptote.grade == "measured":
            return row
        known, own = model(row.model), model(self.model)
        if own.name == known.name:
            return row
        return row.of_model(own.name, ratio=own.total_parameters / known.total_parameters)

    @property
    def price(self) -> float:
        """Dollars a GPU-hour: the user's, or the table's."""
        return self.usd_per_gpu_hour or gpu(self.gpu).usd_per_gpu_hour

    @property
    def scope(self) -> Scope:
        """Which calibration holds: the widest scope of the domains."""
        return scope_of(self.domains)

    @property
    def pairs(self) -> dict[str, Estimate]:
        """The user's conflicts as estimates, by "source>target"."""
        return {
            pair: Estimate.between(low, high, grade="measured", source="scenario")
            for pair, (low, high) in self.conflict.items()
        }

    @property
    def smaller_starts(self) -> dict[str, Estimate]:
        """What the user knows of the smaller model's start scores."""
        return {
            name: Estimate.between(*ends, grade="measured", source="scenario")
            for name, ends in self.smaller_start.items()
        }

    def model_of(self, root: str) -> str:
        """The name of the model that a root stands for."""
        return self.model if root == BASE or self.smaller is None else self.smaller

    def range_of(self, stage: str, key: str) -> tuple[float, float] | None:
        """P10 and P90 of what a stage spends of something, where a range is given."""
        return self.ranges.get(f"{stage}.{key}")

    def pool(self, stage: str) -> str:
        """The pool that a stage runs on."""
        return self.pool_of.get(stage, next(iter(self.pools)))

    def stage_gpus(self, stage: str) -> int:
        """How many GPUs a stage is given."""
        size = self.pools[self.pool(stage)]
        return self.gpus_of.get(
            stage, size if self.gpus_per_stage is None else min(self.gpus_per_stage, size)
        )


_PLAIN = (
    "model", "gpu", "overlap", "gpus_per_stage", "teams", "usd_per_gpu_hour", "budget_usd", "deadline_days",
    "smaller", "precision", "speculative_factor", "stack", "packed", "lora", "trainer_share", "lag", "evaluations",
    "epochs", "value_model", "sampled_per_trained", "environment_slots", "fill_idle", "measured", "conflict_shift",
    "draws", "seed",
)  # fmt: skip
_KEYS = (
    "schema_version", "recipe", "options", "domains", *_PLAIN, "gpus", "pools", "pool_of", "gpus_of", "priority",
    "reliability", "domain", "conflict", "smaller_start", "ranges", "overhead",
)  # fmt: skip

SPECIALIST = "specialist"  # a fact of a domain that is no field of its own


def from_document(document: Mapping[str, Any], *, source: str = "scenario") -> Scenario:
    """A resolved scenario. Raises UsageError or NotFoundError with one sentence."""
    check_keys(document, _KEYS, SCHEMA_VERSION, source)
    facts = {
        name: table(row, f"{source}: domain.{name}")
        for name, row in _table_of(document, "domain", source).items()
    }
    recipe = _recipe(document, facts, source)
    for name, row in facts.items():
        if name not in recipe.domains:
            raise UsageError(
                f"{source}: [domain.{name}]: no domain of the recipe{did_you_mean(name, recipe.domains)}"
            )
        if SPECIALIST in row:
            _specialist(row[SPECIALIST], recipe.amounts_name, f"{source}: domain.{name}.{SPECIALIST}")
    chosen = {name: _domain(name, facts.get(name, {}), source) for name in recipe.domains}
    model_name, gpu_name, gpus = _MACHINES["tiny" if _is_real(document) else scope_of(chosen)]
    plain = {"model": model_name, "gpu": gpu_name} | {key: document[key] for key in _PLAIN if key in document}
    _models(plain, recipe, source)
    plain |= _measured(document, source)
    overhead = document.get("overhead")
    if overhead is not None:
        overhead = pair_of(overhead, f"{source}: overhead", least=0.0, above=True)
    scenario = Scenario(
        recipe=recipe,
        pools=_pools(document, gpus, source),
        pool_of=_table_of(document, "pool_of", source),
        gpus_of=_table_of(document, "gpus_of", source),
        priority=_table_of(document, "priority", source),
        reliability=_reliability(_table_of(document, "reliability", source), source),
        facts=facts,
        conflict=_conflicts(_table_of(document, "conflict", source), recipe, source),
        smaller_start=_smaller_start(_table_of(document, "smaller_start", source), recipe, source),
        ranges=_ranges(_table_of(document, "ranges", source), recipe, source),
        overhead=overhead,
        stated=_stated(document),
        **plain,
    )
    _check(scenario, source)
    return scenario


def _stated(document: Mapping[str, Any]) -> frozenset[str]:
    """What a document says: its keys, and `amounts` and `domains` where they stand in the recipe or its options."""
    inside = {"amounts", "domains"} if isinstance(document.get("recipe"), Mapping) else set()
    options = document.get("options")
    return frozenset({*document, *inside, *(options if isinstance(options, Mapping) else ())})


def _measured(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The stack's factor from the user's own measurements: what such a file holds, or its name; it is looked for beside
    the scenario's, then here."""
    if "measured" not in document:
        return {}
    if isinstance(document["measured"], Mapping):
        name, factor = measured_of(document["measured"], f"{source}: measured")
        return {"measured": None, "factor": factor, "stack": document.get("stack", name)}
    if not isinstance(document["measured"], str):
        raise UsageError(
            f"{source}: measured = {document['measured']!r}: must be the name of a file of `mopd calibrate cost`"
        )
    beside = Path(source).parent / document["measured"]
    path = beside if beside.is_file() else Path(document["measured"])
    name, factor = read_measured(path)
    return {"measured": document["measured"], "factor": factor, "stack": document.get("stack", name)}


def _models(plain: dict[str, Any], recipe: Recipe, source: str) -> None:
    """Checks the names of models and GPU and puts in the smaller model's default."""
    if SMALLER in recipe.roots and "smaller" not in plain and plain["model"] in _SMALLER:
        plain["smaller"] = _SMALLER[plain["model"]]
    for key in ("model", "gpu", "smaller"):
        if key in plain and not isinstance(plain[key], str):
            raise UsageError(f"{source}: {key} = {plain[key]!r}: must be a name in quotes")
    plain["gpu"] = gpu(plain["gpu"]).name
    model(plain["model"])
    if SMALLER in recipe.roots and "smaller" not in plain:
        raise UsageError(
            f"{source}: recipe {recipe.name!r} has a smaller student: give its model, as in smaller = "
            '"Qwen3-1.7B"'
        )
    if "smaller" in plain:
        if SMALLER not in recipe.roots:
            raise UsageError(
                f"{source}: smaller = {plain['smaller']!r}: recipe {recipe.name!r} has no stage on it: leave it out"
            )
        model(plain["smaller"])


def loads(text: str, *, source: str = "scenario") -> Scenario:
    """A scenario from TOML text."""
    return from_document(parse_toml(text, source=source), source=source)


def load(path: Path) -> Scenario:
    """A scenario from a file; a recipe's own file is a scenario with everything else at its default."""
    document = read_toml(path)
    if "stages" in document:
        document = {"recipe": document}
    return from_document(document, source=str(path))


def of_recipe(name: str, *, source: str = "scenario", **settings: Any) -> Scenario:
    """The scenario of a named recipe; `settings` are the keys of a scenario file, None where not given."""
    given = {key: value for key, value in settings.items() if value is not None}
    return from_document({"recipe": name, **given}, source=source)


def on_one_pool(document: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """A scenario's document with one pool of so many GPUs; what it said of several pools goes."""
    of_pools = ("pools", "pool_of", "gpus_of") if "pools" in document else ()
    return {**{key: value for key, value in document.items() if key not in of_pools}, "gpus": gpus}


def dump(scenario: Scenario) -> str:
    """The resolved scenario as TOML text."""
    import tomli_w

    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    document |= {key: getattr(scenario, key) for key in _PLAIN if getattr(scenario, key) is not None}
    document["pools"] = dict(scenario.pools)
    for key in ("pool_of", "gpus_of", "priority"):
        if getattr(scenario, key):
            document[key] = dict(getattr(scenario, key))
    document["reliability"] = {key: getattr(scenario.reliability, key) for key in RELIABILITY}
    if scenario.facts:
        document["domain"] = {name: dict(row) for name, row in scenario.facts.items()}
    for key in ("conflict", "smaller_start", "ranges"):
        if getattr(scenario, key):
            document[key] = {name: list(ends) for name, ends in getattr(scenario, key).items()}
    if scenario.overhead is not None:
        document["overhead"] = list(scenario.overhead)
    if scenario.measured is None and scenario.factor is not None:
        document["measured"] = measured_table(scenario.stack, scenario.factor)
    document["recipe"] = to_document(scenario.recipe)
    return tomli_w.dumps(document)


def measured_table(name: str, factor: tuple[float, float]) -> dict[str, Any]:
    """A measured stack as a scenario holds it."""
    log_bias, log_sd = factor
    return {"schema_version": MEASURED_SCHEMA, "stack": name, "log_bias": log_bias, "log_sd": log_sd}


def _recipe(document: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]], source: str) -> Recipe:
    """The recipe given inline, or the catalogue's of that name over the listed domains."""
    given = document.get("recipe")
    if isinstance(given, Mapping):
        for key in ("options", "domains"):
            if key in document:
                raise UsageError(
                    f"{source}: {key} belongs to a named recipe; edit the table [recipe] instead"
                )
        return recipe_from_document(given, source=f"{source}: recipe")
    if not isinstance(given, str):
        raise UsageError(
            f'{source}: recipe is missing: give a name such as recipe = "mopd", or a table [recipe]'
        )
    names = document.get("domains")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f'{source}: domains = {names!r}: must be a list of names, such as ["math", "code"]')
    options = dict(_table_of(document, "options", source))
    scope = max((_domain(name, facts.get(name, {}), source).scope for name in names), key=SCOPES.index)
    usual = "real" if _is_real(document) else "tiny" if scope == "tiny" else "small"
    options.setdefault("amounts", usual)
    return catalogue.recipe(given, names, **options)


def _is_real(document: Mapping[str, Any]) -> bool:
    """Whether the model is the one that the trainer runs on the cores at hand, with amounts of its own."""
    name = document.get("model")
    return isinstance(name, str) and model(name).name == catalogue.REAL_MODEL


def _domain(name: str, facts: Mapping[str, Any], source: str = "scenario") -> Domain:
    """A domain with the user's facts; `like` names the row of the table that a new domain starts from."""
    like = facts.get("like", name)
    if not isinstance(like, str):
        raise UsageError(
            f"{source}: domain.{name}: like = {like!r}: must be the name of a domain of the table"
        )
    rest = {key: value for key, value in facts.items() if key not in ("like", SPECIALIST)}
    row = domain(like)
    if like != name and name.partition("?")[0] in domains():
        raise UsageError(
            f"{source}: domain.{name}: like = {like!r}: {name!r} is in the table; leave `like` out"
        )
    return replace(row, name=name).with_facts(rest, source=source)


def _table_of(document: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    return dict(table(document.get(key, {}), f"{source}: {key}"))


def _check(scenario: Scenario, source: str) -> None:
    """Ranges of amounts and names of stages and pools."""
    _plain_keys(scenario, source)
    for key in ("pool_of", "gpus_of", "priority"):
        for name in getattr(scenario, key):
            if name not in scenario.recipe.stage:
                known = did_you_mean(name, scenario.recipe.stage)
                raise UsageError(f"{source}: {key}: no stage {name!r}{known}")
    for name, pool in scenario.pool_of.items():
        if not isinstance(pool, str) or pool not in scenario.pools:
            raise UsageError(
                f"{source}: pool_of.{name} = {pool!r}: no such pool{did_you_mean(str(pool), scenario.pools)}"
            )
    for name, count in scenario.gpus_of.items():
        whole(count, f"{source}: gpus_of.{name}", most=scenario.pools[scenario.pool(name)])
    for name, value in scenario.priority.items():
        number(value, f"{source}: priority.{name}")


_PUBLISHED_MACHINE = ("model", "smaller", "gpu", "precision", "overlap", "overhead")
_INSIDE_OVERHEAD = {"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0}


def published_document(name: str) -> dict[str, Any]:
    """The scenario of a system at its published scale: central amounts, and P10 to P90 of what is not known."""
    own = published.system(name)
    domains = list(dict.fromkeys(key.partition(".")[0] for key in own.under("domains")))
    options = {key: row.value for key, row in own.under("options").items()}
    made = to_document(catalogue.recipe(name, domains, amounts="published", **options))
    for stage in made["stages"]:
        stage |= {key: row.value for key, row in own.of_stage("structure", stage["name"]).items()}
    machine = own.under("machine")
    gpus = _published_gpus(machine["gpus"])  # of every stage: none of them says that some stood idle
    found: dict[str, Any] = {"recipe": made, "gpus": gpus, "gpus_per_stage": gpus, "stack": "megatron"}
    found |= {key: row.value for key, row in machine.items() if key in _PUBLISHED_MACHINE}
    if "speculative_factor" in machine:
        found["speculative_factor"] = machine["speculative_factor"].middle
    if "overhead" in machine:
        found["reliability"] = _INSIDE_OVERHEAD
    found["domain"] = {domain: _published_domain(own, domain) for domain in domains}
    found["ranges"] = dict(_published_ranges(own, [stage["name"] for stage in made["stages"]]))
    return found


def _published_domain(own: published.System, name: str) -> dict[str, Any]:
    facts = {key: row.value for key, row in own.under(f"domains.{name}").items()}
    return {"like": own.like[name], **facts} if name in own.like else facts


def _published_ranges(own: published.System, stages: list[str]) -> Iterator[tuple[str, list[float]]]:
    """Amounts that are not one number, and every length of a stage's own."""
    for stage in stages:
        for key, row in own.of_stage("stages", stage).items():
            if key == "response_tokens" or (key in RANGED and row.ends is not None):
                yield f"{stage}.{key}", row.pair


def _published_gpus(row: published.Figure) -> int:
    """The number, or of a range the power of two below its middle: layouts split by powers of two."""
    return int(row.value) if row.ends is None else 2 ** int(math.log2(row.middle))


def _pools(document: Mapping[str, Any], default: int, source: str) -> dict[str, int]:
    """GPUs by pool, from `gpus` (one pool) or `pools`."""
    if "pools" in document and "gpus" in document:
        raise UsageError(f"{source}: gpus and pools are both given: keep one (gpus is one pool)")
    given = dict(table(document.get("pools", {}), f"{source}: pools"))
    found = given or {"pool": document.get("gpus", default)}
    for name, size in found.items():
        where = f"{source}: gpus" if name == "pool" and "pools" not in document else f"{source}: pools.{name}"
        whole(size, where)
    return found


def _conflicts(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
    """P10 and P90 of K, by "source>target". K is the ln of the factor on a gain."""
    found = {}
    for pair, value in given.items():
        ends = tuple(pair.split(">"))
        for name in ends:
            if len(ends) != 2 or name not in recipe.domains:
                hint = did_you_mean(name, recipe.domains)
                raise UsageError(
                    f'{source}: conflict {pair!r}: must be "source>target", two domains of the recipe{hint}'
                )
        if ends[0] == ends[1]:
            raise UsageError(
                f"{source}: conflict {pair!r}: a domain has no conflict with itself: name two domains"
            )
        where = f"{source}: conflict {pair!r}: K, the ln of the factor on the gain,"
        found[pair] = pair_of(value, where, least=-MOST_K, most=MOST_K)
    return found


def _smaller_start(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
    """P10 and P90 of the smaller model's start scores, by domain."""
    for name in given:
        if name not in recipe.domains:
            raise UsageError(
                f"{source}: smaller_start.{name}: no domain of the recipe{did_you_mean(name, recipe.domains)}"
            )
    if given and SMALLER not in recipe.roots:
        raise UsageError(
            f"{source}: smaller_start: recipe {recipe.name!r} has no smaller student: leave it out"
        )
    return {
        name: pair_of(value, f"{source}: smaller_start.{name}", least=0.0, most=1.0)
        for name, value in given.items()
    }


def _specialist(given: Any, amounts_name: AmountsName, where: str) -> Specialist:
    """What RL on one domain alone was measured to reach: {score, flops}, and the rate and batch where they are not
    the set's own."""
    row = table(given, where)
    known_keys(row, ("score", "flops", *_PACE), where)
    for key in ("score", "flops"):
        if key not in row:
            raise UsageError(f"{where}: {key} is missing: give the measured score and the training FLOPs")
    number(row["score"], f"{where}.score", least=0, most=1)
    number(row["flops"], f"{where}.flops", least=0, above=True)
    for key in _PACE[1:]:
        if key in row:
            whole(row[key], f"{where}.{key}")
    if "learning_rate" in row:
        number(row["learning_rate"], f"{where}.learning_rate", least=0, above=True)
    pace = {key: row[key] for key in _PACE if key in row}
    if pace and amounts_name != "tiny":
        raise UsageError(
            f"{where}.{next(iter(pace))}: how rate and batch set the pace was measured for amounts tiny alone, and "
            f"these are {amounts_name}: leave it out"
        )
    own = default_amounts(amounts_name, "rl").model_copy(update=pace) if pace else None
    return Specialist(score=row["score"], flops=row["flops"], amounts=own)


def _ranges(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
    """P10 and P90 of what stages spend, by "STAGE.FIELD"."""
    found = {}
    for name, value in given.items():
        stage, _, key = name.partition(".")
        spending = [other.name for other in recipe.stages if not isinstance(other, Merge)]
        if stage not in spending:
            raise UsageError(
                f'{source}: ranges {name!r}: must be "STAGE.FIELD", and no stage {stage!r} spends anything'
                f"{did_you_mean(stage, spending)}"
            )
        if key not in RANGED:
            raise UsageError(
                f"{source}: ranges {name!r}: {key!r} has no range; one of {', '.join(RANGED)} has"
                f"{did_you_mean(key, RANGED)}"
            )
        found[name] = pair_of(value, f"{source}: ranges {name!r}", least=0.0, above=True)
    return found


def _plain_keys(scenario: Any, source: str) -> None:
    """What a scenario says in single values: numbers, modes, formats, switches, the stack."""
    for key, most in _WHOLE.items():
        if getattr(scenario, key) is not None:
            whole(getattr(scenario, key), f"{source}: {key}", most=most)
    for key, limits in _NUMBERS.items():
        if getattr(scenario, key) is not None:
            number(getattr(scenario, key), f"{source}: {key}", **limits)  # type: ignore[arg-type]
    if scenario.evaluations not in (None, 0):
        whole(scenario.evaluations, f"{source}: evaluations", most=1000)
    if isinstance(scenario.seed, bool) or not isinstance(scenario.seed, int):
        raise UsageError(f"{source}: seed = {scenario.seed!r}: must be a whole number")
    for key, known, rule in (
        ("overlap", OVERLAPS, "no such mode"),
        ("precision", PRECISIONS, f"must be one of {', '.join(PRECISIONS)}"),
    ):
        value = getattr(scenario, key)
        if value not in known:
            raise UsageError(f"{source}: {key} = {value!r}: {rule}{did_you_mean(str(value), known)}")
    for key in ("packed", "lora", "fill_idle"):
        if not isinstance(getattr(scenario, key), bool | None):
            raise UsageError(f"{source}: {key} = {getattr(scenario, key)!r}: must be true or false")
    try:
        stack(scenario.stack)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    if scenario.lag > 1 and scenario.overlap != "asynchronous":
        raise UsageError(
            f'{source}: lag = {scenario.lag}: only overlap = "asynchronous" lets samples be several steps behind'
        )
    if scenario.value_model is not None:
        where = f"{source}: value_model = {scenario.value_model!r}"
        if not isinstance(scenario.value_model, str):
            raise UsageError(f"{where}: must be a name in quotes")
        if not any(isinstance(stage, Rl) and stage.algorithm == "ppo" for stage in scenario.recipe.stages):
            raise UsageError(f"{where}: no stage of the recipe is PPO: leave it out")
        model(scenario.value_model)


def _reliability(given: Mapping[str, Any], source: str) -> Reliability:
    """What stretches stages, from a table."""
    known_keys(given, RELIABILITY, f"{source}: reliability")
    for key, value in given.items():
        number(value, f"{source}: reliability.{key}", least=0.0, most=1e9)
    return Reliability(**given)
