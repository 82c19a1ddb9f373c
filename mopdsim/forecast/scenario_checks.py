"""The rules of a scenario's keys: pools, conflicts, ranges, names of stages. Each breach is one sentence with the
field, the value and the rule. Leaves out: models, domains and recipes, which have checks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from mopdsim.base.documents import known_keys, number, pair_of, table, whole
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.cost.constants import stack
from mopdsim.cost.rlstep import Overlap
from mopdsim.facts.hardware import CACHE_BYTES
from mopdsim.facts.model import model
from mopdsim.forecast.schedule import Reliability
from mopdsim.quality.learning import Specialist
from mopdsim.recipes.recipe import SMALLER, Merge, Recipe, Rl
from mopdsim.recipes.stage import AmountsName, default_amounts

MAX_DRAWS = 100_000
MOST_K = 5.0  # of a conflict: at -5 less than a hundredth of a gain is left
PRECISIONS = tuple(CACHE_BYTES)  # formats that weights, products and cache can all take
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)
RELIABILITY = tuple(row.name for row in fields(Reliability))
RANGED = ("steps", "prompts_per_step", "rollouts_per_prompt", "response_tokens")


def pools(document: Mapping[str, Any], default: int, source: str) -> dict[str, int]:
    """GPUs by pool, from `gpus` (one pool) or `pools`."""
    if "pools" in document and "gpus" in document:
        raise UsageError(f"{source}: gpus and pools are both given: keep one (gpus is one pool)")
    given = dict(table(document.get("pools", {}), f"{source}: pools"))
    found = given or {"pool": document.get("gpus", default)}
    for name, size in found.items():
        where = f"{source}: gpus" if name == "pool" and "pools" not in document else f"{source}: pools.{name}"
        whole(size, where)
    return found


def conflicts(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
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


def smaller_start(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
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


_PACE = ("learning_rate", "prompts_per_step", "rollouts_per_prompt")  # of a specialist's amounts


def specialist(given: Any, amounts_name: AmountsName, where: str) -> Specialist:
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


def overhead(given: Any, source: str) -> tuple[float, float] | None:
    """P10 and P90 of the factor on all seconds, None where none is given."""
    return None if given is None else pair_of(given, f"{source}: overhead", least=0.0, above=True)


def ranges(given: Mapping[str, Any], recipe: Recipe, source: str) -> dict[str, tuple[float, float]]:
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


def plain_keys(scenario: Any, source: str) -> None:
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


def reliability(given: Mapping[str, Any], source: str) -> Reliability:
    """What stretches stages, from a table."""
    known_keys(given, RELIABILITY, f"{source}: reliability")
    for key, value in given.items():
        number(value, f"{source}: reliability.{key}", least=0.0)
    return Reliability(**given)
