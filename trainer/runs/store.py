"""The store: what a stage made, under a key that says what it was made from.

key = hash(stage, amounts, its parents' keys, settings, domains scored, the loop's ALGORITHM_VERSION). A stage's name is
not part of it, so recipes share what they have in common; a changed teacher changes the keys of what depends on it and
nothing else. A given model's key is the fingerprint of its weights. Files: `mopdsim.base.run_directory`.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mopdsim.base import run_directory as files
from mopdsim.base.documents import json_document, sha256_of
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts, AnyStage, Merge, RejectionSampling, parents, renamed
from trainer.files.atomic import PUT_BACK, explained, sweep, verified, write_json, write_text
from trainer.files.settings import Settings
from trainer.tasks import task

LOCK_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Store:
    """A directory of stage outputs."""

    root: Path

    def directory(self, key: str) -> Path:
        return self.root / key

    def finished(self, key: str) -> bool:
        """Whether the stage is complete and what it made is what was written."""
        place = self.directory(key)
        try:
            done = files.status_of(place) == files.DONE and bool(self.summary(key))
            stage = self.made_from(key)["stage"]
        except (OSError, MopdError):
            return False
        return done and (stage is None or verified(place / product(stage["kind"])))

    @contextmanager
    def held(self, key: str) -> Iterator[Path]:
        """The stage's directory, this process alone at work in it. MopdError where another is."""
        place = self.directory(key)
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
            lock = (place / ".lock").open("w")
        with lock:
            if not _locked(lock):
                raise MopdError(
                    f"{place}: another process is working on this stage; wait for it or choose another --out"
                )
            sweep(place)
            yield place

    def open(self, key: str, made_from: Mapping[str, Any]) -> None:
        """Mark a stage as about to run."""
        write_json(self.directory(key) / files.MADE_FROM, made_from)
        self.mark(key, files.RUNNING)

    def close(self, key: str, summary: Mapping[str, Any]) -> None:
        """Mark a stage complete; its checkpoints are no longer needed."""
        place = self.directory(key)
        write_json(place / files.SUMMARY, summary)
        self.mark(key, files.DONE)
        shutil.rmtree(place / files.CHECKPOINTS, ignore_errors=True)

    def mark(self, key: str, status: str) -> None:
        write_text(self.directory(key) / files.STATUS, status + "\n")

    def made_from(self, key: str) -> dict[str, Any]:
        """What a stage was made from. MopdError where that is not what its key says."""
        path = self.directory(key) / files.MADE_FROM
        found = json_document(path, missing=f"{path}: is missing", remedy=PUT_BACK)
        if key_of(found) != key:
            raise UsageError(f"{path}: was changed since the stage began: {PUT_BACK}")
        return found

    def summary(self, key: str) -> dict[str, Any]:
        """What a finished stage came to. MopdError where it is not what a trainer writes."""
        path = self.directory(key) / files.SUMMARY
        return files.checked_stage(json_document(path, missing=f"{path}: is missing", remedy=PUT_BACK), path)

    def weights(self, key: str) -> Path:
        return self.directory(key) / files.WEIGHTS

    def data(self, key: str) -> Path:
        return self.directory(key) / files.DATA


def product(kind: str) -> str:
    """The directory of what a stage of this kind makes: samples, or weights."""
    return files.DATA if kind == RejectionSampling.model_fields["kind"].default else files.WEIGHTS


def _locked(file: IO[str]) -> bool:
    """Whether the lock could be had within a few seconds (workers of a killed run take a moment to end)."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def key_of(made_from: Mapping[str, Any]) -> str:
    """20 hexadecimal digits of its hash."""
    return sha256_of(made_from)[:20]


def stage_keys(
    recipe: Recipe, settings: Settings, root_keys: Mapping[str, str], versions: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """For each stage what it is made from; its key is `key_of` that. root_keys: of the recipe's roots."""
    keys = dict(root_keys)
    made: dict[str, dict[str, Any]] = {}
    for stage in recipe.stages:
        made[stage.name] = _made_from(stage, recipe.amounts.get(stage.name), recipe, settings, keys, versions)
        keys[stage.name] = key_of(made[stage.name])
    return made


def _made_from(
    stage: AnyStage,
    amounts: Amounts | None,
    recipe: Recipe,
    settings: Settings,
    keys: Mapping[str, str],
    versions: Mapping[str, int],
) -> dict[str, Any]:
    structure = renamed(stage, keys).model_dump(mode="json", exclude={"name"})
    if structure.get("adapter_rank", 0) is None:  # a later field: older keys stay what they are
        del structure["adapter_rank"]
    return {
        "stage": structure,
        "amounts": None if isinstance(stage, Merge) or amounts is None else amounts.model_dump(mode="json"),
        "parents": [keys[name] for name in parents(stage)],
        "base": keys[recipe.root_of(stage.name)],
        "settings": settings.keyed(),
        "domains": [task(spec).fingerprint for spec in (*recipe.domains, *settings.probes)],
        "algorithm_version": versions[stage.kind],
    }
