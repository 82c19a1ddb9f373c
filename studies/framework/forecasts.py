"""Forecasts on record: what the model and the simple rules say of every run, hashed before what they speak of is run.

    RESULTS/NAME/forecasts.json    the model's file as its sha256, the rules, forecasts by run and domain, sha256, date
A study that foretells runs its starts and specialists first: a forecast may know them, as the rules do. Everything else
is run after the forecasts are written. Leaves out: making them and judging them (`studies.honest.prospective`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.recipes.recipe import BASE, AnyStage, Rl
from studies.framework.observe import Observations
from trainer.files.atomic import write_json
from trainer.runs.plan import Plan

FILE = "forecasts.json"
HASHED = ("study", "model", "rules", "runs")


@dataclass(frozen=True, kw_only=True)
class Foreteller:
    """model: sha256 of the model's file. rules: names of the simple rules, listed beforehand. tell: from observations
    of starts and specialists to what is forecast of each run, by domain."""

    model: str
    rules: tuple[str, ...]
    tell: Callable[[Observations], Mapping[str, Any]]


def is_specialist(stage: AnyStage) -> bool:
    """Whether a stage is RL on one domain from the base."""
    return isinstance(stage, Rl) and len(stage.domains) == 1 and stage.init == BASE


def known(found: Plan) -> Plan:
    """The stages that a forecast may know: starts and specialists."""
    nodes = tuple(node for node in found.nodes if not node.needs or _specialised(node.job.stage))
    return Plan(nodes=nodes, keys=found.keys)


def _specialised(stage: AnyStage | None) -> bool:
    return stage is not None and is_specialist(stage)


def write(study: str, found: Observations, foreteller: Foreteller, folder: Path, *, today: str) -> None:
    """Put the forecasts on record."""
    content = {
        "study": study,
        "model": foreteller.model,
        "rules": list(foreteller.rules),
        "runs": foreteller.tell(found),
    }
    write_json(folder / FILE, {**content, "sha256": digest(content), "written": today})


def read(folder: Path) -> dict[str, Any]:
    """The record. NotFoundError where there is none; UsageError where its text is not what its hash says."""
    path = folder / FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: no forecasts are on record; `mopd study run {folder.name}` writes them"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error}): restore it") from None
    if digest(document) != document.get("sha256"):
        raise UsageError(f"{path}: its text is not the one that was hashed: restore it from version control")
    return document


def check(study: str, foreteller: Foreteller, folder: Path) -> None:
    """UsageError where a study goes on under another model, or other rules, than its forecasts were made by."""
    document = read(folder)
    for name, now in (("model file", foreteller.model), ("list of rules", list(foreteller.rules))):
        before = document["model" if name == "model file" else "rules"]
        if now != before:
            raise UsageError(
                f"study {study!r}: the {name} was changed after the forecasts of {document['written']} (now "
                f"{_short(now)}, on record {_short(before)} in {folder / FILE}): restore it, or give the new one a "
                "study of its own"
            )


def digest(document: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what is hashed."""
    content = {key: document.get(key) for key in HASHED}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _short(value: str | list[str]) -> str:
    return f"sha256 {value[:12]}" if isinstance(value, str) else ", ".join(value)
