"""From what was typed to values: a recipe by name or file with `--set` changes, the run's settings.

Precedence: default < file < flags. Domains are checked here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mopdsim.base.documents import in_words, parse_toml, read_toml
from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import AmountsName
from trainer.files.settings import FOR_REAL, Settings
from trainer.tasks import task

ADAPTABLE = ("sft", "rl", "distill", "preference")  # kinds of stage that can train an adapter


def resolve_recipe(
    name: str, domains: Sequence[str], amounts: AmountsName | None, changes: Sequence[str]
) -> Recipe:
    """A catalogue recipe over `domains`, or a file's; then the changes.

    A change `key=value` is an option of the catalogue's function, or a dotted path into the document:
    `amounts_of.STAGE.key`, `stages.STAGE.key`. `adapter_rank=R` puts an adapter on every stage that can train one but
    those that the recipe delivers.
    """
    given = [_pair(change) for change in changes]
    ranks = [value for key, value in given if key == "adapter_rank"]
    given = [(key, value) for key, value in given if key != "adapter_rank"]
    if name.endswith(".toml"):
        if domains:
            raise UsageError(
                f"domains = {','.join(domains)}: a recipe file names its own; edit {name} instead"
            )
        document = {"amounts_of": {}} | read_toml(Path(name))
        if amounts:
            document["amounts"] = amounts
        paths = given
    else:
        chosen = {key: value for key, value in given if "." not in key}
        if amounts:
            chosen["amounts"] = amounts
        made = catalogue.recipe(name, domains or catalogue.DEFAULT_DOMAINS, **chosen)
        document = recipe_file.to_document(made)
        paths = [(key, value) for key, value in given if "." in key]
    delivered = {document.get("output"), *document.get("side_outputs", ())}
    for stage in document.get("stages", ()) if ranks else ():
        if stage.get("kind") in ADAPTABLE and stage.get("name") not in delivered:
            stage["adapter_rank"] = ranks[-1]
    for path, value in paths:
        _set(document, path, value)
    resolved = recipe_file.from_document(document, source=name)
    for spec in resolved.domains:
        task(spec)
    return resolved


def resolve_settings(changes: Sequence[str], *, amounts: AmountsName = "tiny", **flags: Any) -> Settings:
    """The run's settings; `changes` are key=value. With the amounts `real` evaluation is smaller (FOR_REAL)."""
    flags = {**(FOR_REAL if amounts == "real" else {}), **flags}
    values = pairs(changes)
    for key in values:
        if key not in Settings.model_fields:
            raise UsageError(f"--setting {key}: no such setting{did_you_mean(key, Settings.model_fields)}")
    try:
        settings = Settings.model_validate({**flags, **values})
    except ValidationError as error:
        raise UsageError(in_words(error)) from None
    for spec in settings.probes:
        task(spec)
    return settings


def pairs(changes: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE strings by key."""
    return dict(_pair(change) for change in changes)


def _pair(change: str) -> tuple[str, Any]:
    """key=value with the value read as TOML, or as a string where it is none."""
    key, found, text = change.partition("=")
    if not found or not key.strip():
        raise UsageError(f"{change!r}: must be KEY=VALUE, for example amounts_of.student.steps=50")
    try:
        return key.strip(), parse_toml(f"value = {text}", source=change)["value"]
    except UsageError:
        return key.strip(), text.strip()


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a dotted path; stages are found by name."""
    *steps, last = path.split(".")
    place: Any = document
    for depth, step in enumerate(steps):
        if isinstance(place, list):
            named = {item.get("name"): item for item in place if isinstance(item, dict)}
            if step not in named:
                raise UsageError(
                    f"--set {path}: no stage {step!r}{did_you_mean(step, [str(name) for name in named])}"
                )
            place = named[step]
        elif isinstance(place, dict):
            if step not in place and depth == 0:
                raise UsageError(f"--set {path}: no {step!r}{did_you_mean(step, place)}")
            place = place.setdefault(step, {})
        else:
            raise UsageError(f"--set {path}: {step!r} is no table; give the path of a key")
    if not isinstance(place, dict):
        raise UsageError(f"--set {path}: {last!r} is not in a table; give the path of a key")
    place[last] = value
