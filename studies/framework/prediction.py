"""The prediction on record: what a study expected, hashed and dated before its first run, refused if changed after.

    RESULTS/NAME/prediction.json    question, text, claims, held-out runs, sha256, dates
The hash covers the question, the prediction and the names of the held-out runs. Leaves out: judging it
(`studies.framework.report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopdsim.base.documents import json_document, sha256_of
from mopdsim.base.errors import UsageError
from studies.framework.run import Run
from studies.framework.study import Study
from trainer.files.atomic import explained, write_json

FILE = "prediction.json"
HASHED = ("question", "text", "claims", "held_out")


def record(study: Study, runs: Mapping[str, Run], folder: Path, *, today: str) -> dict[str, Any]:
    """The prediction's record, written where there is none yet or no run has begun. UsageError where it was changed."""
    content = _content(study, runs)
    document = {
        "study": study.name,
        **content,
        "sha256": digest(content),
        "written": today,
        "first_run": None,
    }
    path = folder / FILE
    if path.exists():
        before = read(folder)
        if before["sha256"] == document["sha256"]:
            return before
        if before["first_run"] is not None:
            raise UsageError(
                f"study {study.name!r}: the prediction was changed after the first run of {before['first_run']} "
                f"(sha256 {document['sha256'][:12]}, on record {before['sha256'][:12]} in {path}): restore it, "
                "or give the new prediction a study of its own"
            )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    return document


def begin(folder: Path, *, today: str) -> None:
    """From now on the prediction may not change."""
    document = read(folder)
    if document["first_run"] is None:
        write_json(folder / FILE, document | {"first_run": today})


def read(folder: Path) -> dict[str, Any]:
    """The record. NotFoundError where there is none; UsageError where its text is not what its hash says."""
    path = folder / FILE
    missing = f"{path}: no prediction is on record; `mopd study plan` writes it"
    document = json_document(path, "written", "first_run", "sha256", missing=missing, remedy="restore it")
    if digest(document) != document.get("sha256"):
        raise UsageError(f"{path}: its text is not the one that was hashed: restore it from version control")
    return document


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of what is hashed."""
    return sha256_of({key: content.get(key) for key in HASHED})


def _content(study: Study, runs: Mapping[str, Run]) -> dict[str, Any]:
    return {
        "question": study.question,
        "text": study.prediction.text,
        "claims": [claim.model_dump(mode="json") for claim in study.prediction.claims],
        "held_out": sorted(name for name, run in runs.items() if run.held_out),
    }
