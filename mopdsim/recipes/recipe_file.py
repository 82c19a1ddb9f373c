"""Recipe files: TOML to a `Recipe` and back, without loss, with errors a person can act on.

    name = "two_teachers"
    domains = ["sort", "reverse"]
    amounts = "tiny"                 # the named set that fills what [amounts_of.STAGE] leaves out
    output = "student"

    [[stages]]
    kind = "rl"
    name = "teacher_sort"
    domains = { sort = 1.0 }
    ...
    [amounts_of.teacher_sort]
    steps = 40

Leaves out: what the keys mean (`mopdsim.recipes.recipe`, `mopdsim.recipes.stage`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from mopdsim.base.documents import WANTED, parse_toml, read_toml, stated
from mopdsim.base.documents import keys as check_keys
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import AMOUNTS_NAMES, SPENDING_KINDS, Amounts, AnyStage, Teacher, default_amounts

SCHEMA_VERSION = 1
MAX_STAGES = 2_000
_KINDS: dict[str, type[AnyStage]] = {kind.model_fields["kind"].default: kind for kind in get_args(AnyStage)}
_KEYS = ("schema_version", "name", "domains", "amounts", "output", "side_outputs", "stages", "amounts_of")


def to_document(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the plain document that a file holds; every amount is written out."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": recipe.name,
        "domains": list(recipe.domains),
        "amounts": recipe.amounts_name,
        "output": recipe.output,
        "side_outputs": list(recipe.side_outputs),
        "stages": [stage.model_dump(mode="json", exclude_none=True) for stage in recipe.stages],
        "amounts_of": {
            name: amounts.model_dump(mode="json", exclude_none=True)
            for name, amounts in recipe.amounts.items()
        },
    }


def from_document(document: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """A validated recipe from a document. Raises UsageError with one sentence that starts with `source`."""
    check_keys(document, _KEYS, SCHEMA_VERSION, source)
    name = document.get("amounts", "tiny")
    if name not in AMOUNTS_NAMES:
        raise UsageError(f"{source}: amounts = {name!r}: no such set{did_you_mean(str(name), AMOUNTS_NAMES)}")
    stages = document.get("stages")
    if isinstance(stages, list) and len(stages) > MAX_STAGES:
        raise UsageError(f"{source}: {len(stages)} stages: at most {MAX_STAGES} are read; split the recipe")
    overrides = document.get("amounts_of", {})
    if not isinstance(overrides, Mapping):
        raise UsageError(f"{source}: amounts_of must be a table of stages, such as [amounts_of.student]")
    amounts: dict[str, Any] = {}
    for stage in stages if isinstance(stages, list) else []:
        kind = stage.get("kind") if isinstance(stage, Mapping) else None
        if kind in SPENDING_KINDS:
            stage_name = str(stage.get("name"))
            given = overrides.get(stage_name, {})
            filled = isinstance(given, Mapping) and name != "published"
            amounts[stage_name] = {**default_amounts(name, kind).model_dump(), **given} if filled else given
    plain = ("name", "domains", "stages", "output", "side_outputs")
    fields = {key: value for key, value in document.items() if key in plain}
    if "output" not in fields and isinstance(stages, list) and stages and isinstance(stages[-1], Mapping):
        fields["output"] = stages[-1].get("name")
    try:
        recipe = Recipe.model_validate({**fields, "amounts_name": name, "amounts": amounts})
    except ValidationError as error:
        raise UsageError(f"{source}: {_first_problem(error, document)}") from None
    for key in overrides:
        if key not in amounts:
            hint = did_you_mean(key, amounts)
            raise UsageError(f"{source}: amounts_of.{key}: no stage of that name spends anything{hint}")
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as TOML text; `loads(dump(recipe)) == recipe`."""
    import tomli_w

    return tomli_w.dumps(to_document(recipe))


def loads(text: str, *, source: str = "recipe") -> Recipe:
    """A recipe from TOML text."""
    return from_document(parse_toml(text, source=source), source=source)


def load(path: Path, *, remedy: str = WANTED) -> Recipe:
    """A recipe from a file. NotFoundError with the remedy where there is none, UsageError where it is not sound."""
    return from_document(read_toml(path, remedy=remedy), source=str(path))


def _first_problem(error: ValidationError, document: Mapping[str, Any]) -> str:
    """One sentence for the first thing pydantic found: where, what value, which rule."""
    problem = error.errors(include_url=False)[0]
    where, model = _place(problem["loc"], document)
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        parent, _, key = where.rpartition(".")
        known = list(model.model_fields) if model else []
        return (
            f"{parent}: unknown key {key!r}{did_you_mean(key, known)}" if parent else f"unknown key {key!r}"
        )
    if kind == "union_tag_invalid":
        tag = str(value.get("kind")) if isinstance(value, Mapping) else str(value)
        return f"{where}: unknown kind {tag!r}{did_you_mean(tag, _KINDS)}"
    if kind == "union_tag_not_found":
        return f"{where}: no kind given: add kind = one of {', '.join(_KINDS)}"
    return stated(where, problem)


def _place(loc: tuple[int | str, ...], document: Mapping[str, Any]) -> tuple[str, type[Any] | None]:
    """Where the problem is in the user's words (a stage by its name), and the model whose key it is."""
    parts = list(loc)
    if parts[:1] == ["amounts"]:
        return ".".join(["amounts_of", *map(str, parts[1:])]), Amounts
    if parts[:1] == ["stages"] and len(parts) > 1 and isinstance(parts[1], int):
        stage = document["stages"][parts[1]]
        label = stage.get("name", parts[1]) if isinstance(stage, Mapping) else parts[1]
        rest = parts[2:]
        model: type[Any] | None = None
        if rest and rest[0] in _KINDS:
            model = _KINDS[str(rest[0])]
            rest = rest[1:]
        if rest[:1] == ["teachers"] and len(rest) > 2:
            model = Teacher
        return ".".join([f"stage {label!r}", *map(str, rest)]), model
    return ".".join(map(str, parts)), Recipe
