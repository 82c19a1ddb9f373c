"""Forecasts on record: what the model and the simple rules say of every run, hashed before what they speak of is run.

    RESULTS/NAME/forecasts.json    the model's file as its sha256, the rules; by condition the forecasts of its runs by
                                   domain, their sha256, the date
                  forecasts_*.json the same by a model that came while the study ran, of conditions not yet begun
A study that foretells goes condition by condition (the factor `contest`; the factor `batch` where a condition's seeds
come one after the other): first its starts and specialists are run, which a forecast may know, as the rules do; then
its forecasts are written; then the rest is run. Leaves out: making
forecasts and judging them (`studies.honest.prospective`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopdsim.base.documents import json_document, sha256_of, table
from mopdsim.base.errors import UsageError
from mopdsim.recipes.stage import BASE, AnyStage, Rl
from studies.framework.observe import Observations
from studies.framework.run import Run
from trainer.files.atomic import write_json
from trainer.runs.plan import Plan

FILE, LATER = "forecasts.json", "forecasts_*.json"
HASHED = ("study", "model", "rules", "runs")  # of a condition
CONTEST, BATCH = "contest", "batch"


@dataclass(frozen=True, kw_only=True)
class Foreteller:
    """model: sha256 of the model's file. rules: names of the simple rules, listed beforehand. tell: from observations
    of starts and specialists to what is forecast of each run, by domain."""

    model: str
    rules: tuple[str, ...]
    tell: Callable[[Observations], Mapping[str, Any]]


def is_specialist(stage: AnyStage | None) -> bool:
    """Whether a stage is RL on one domain from the base."""
    return isinstance(stage, Rl) and len(stage.domains) == 1 and stage.init == BASE


def known(found: Plan) -> Plan:
    """The stages that a forecast may know: starts and specialists."""
    return found.only(n.key for n in found.nodes if not n.needs or is_specialist(n.job.stage))


def conditions(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """Names of the runs of each condition, or of each batch of one, in the design's order."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        own = run.factors.get(BATCH, run.factors.get(CONTEST, ""))
        found.setdefault(str(own), []).append(name)
    return found


def add(
    study: str,
    condition: str,
    runs: Sequence[str],
    found: Observations,
    foreteller: Foreteller,
    folder: Path,
    *,
    today: str,
) -> None:
    """Put the forecasts of a condition's runs on record, beside those that are."""
    told = foreteller.tell(found)
    own = {name: told[name] for name in runs if name in told}
    head: dict[str, Any] = {"study": study, "model": foreteller.model, "rules": list(foreteller.rules)}
    document = read(folder) if (folder / FILE).exists() else {**head, "conditions": {}}
    batch = {"written": today, "sha256": digest({**head, "runs": own}), "runs": own}
    write_json(folder / FILE, {**document, "conditions": {**document["conditions"], condition: batch}})


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The study's own record, and after it those of models that came later."""
    return [read(folder), *(read(folder, path.name) for path in sorted(folder.glob(LATER)))]


def read(folder: Path, file: str = FILE) -> dict[str, Any]:
    """The record. NotFoundError where there is none; UsageError where its text is not what its hashes say."""
    path = folder / file
    missing = f"{path}: no forecasts are on record; `mopd study run {folder.name}` writes them"
    document = json_document(path, "conditions", missing=missing, remedy="restore it")
    for name, batch in table(document["conditions"], f"{path}: conditions").items():
        if not {"runs", "sha256", "written"} <= set(table(batch, f"{path}: conditions.{name}")):
            raise UsageError(f"{path}: conditions.{name} lacks its runs, its date or their hash: restore it")
        if digest({**document, "runs": batch["runs"]}) != batch["sha256"]:
            raise UsageError(
                f"{path}: its text is not the one that was hashed: restore it from version control"
            )
    return document


def told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is forecast of each run on record."""
    return {name: row for batch in record["conditions"].values() for name, row in batch["runs"].items()}


def check(study: str, foreteller: Foreteller, folder: Path) -> None:
    """UsageError where a study goes on under another model, or other rules, than its forecasts were made by."""
    if not (folder / FILE).exists():
        return
    document = read(folder)
    for name, key, now in (
        ("model file", "model", foreteller.model),
        ("list of rules", "rules", list(foreteller.rules)),
    ):
        if now != document[key]:
            since = min(batch["written"] for batch in document["conditions"].values())
            raise UsageError(
                f"study {study!r}: the {name} was changed after the forecasts of {since} (now {_short(now)}, on record "
                f"{_short(document[key])} in {folder / FILE}): restore it, or give the new one a study of its own"
            )


def digest(document: Mapping[str, Any]) -> str:
    """sha256 of what is hashed of a condition."""
    return sha256_of({key: document.get(key) for key in HASHED})


def _short(value: str | list[str]) -> str:
    return f"sha256 {value[:12]}" if isinstance(value, str) else ", ".join(value)
