"""The calibration of all committed studies, and of all but some: which runs enter a fit, and from which prior.

A run enters where it finished, was not held out, ran a model of the table, and holds no stage that is the last word of
a run left out. The prior is the shipped calibration without what earlier fits put into it, so that a rebuilt
calibration is the same each time. Leaves out: the method (`mopdsim.fit.quality`), judging it (`studies.honest.honest`).
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import SCHEMA_VERSION, Calibration, from_document
from mopdsim.facts.model import models
from mopdsim.fit.quality import STARTS, fitted
from studies.framework.observe import Observations, read
from studies.framework.registry import LISTED
from studies.framework.registry import study as study_of

Leave = Callable[[str, Mapping[str, Any]], bool]  # of a study's name and a run as the manifest has it
SAME = 5e-6  # relative: six significant digits


@dataclass(frozen=True, kw_only=True)
class Refit:
    """A fitted calibration. seconds: of the fit alone, None where it was made before."""

    document: Mapping[str, Any]
    calibration: Calibration
    seconds: float | None

    @property
    def runs(self) -> dict[str, int]:
        """How many runs it was fitted to, by study; a run with a stage of a second size enters no fit."""
        return dict(Counter(name.partition("/")[0] for name in self.document["fit"]["runs"]))


def committed(folders: Mapping[str, Path]) -> dict[str, Observations]:
    """The observations of those folders that hold any, by study. Studies that are not of skills, or of real models, are
    left out; runs that were held out until their study was released are so no more."""
    found = {
        name: read(folder) for name, folder in folders.items() if (folder / "observations.csv").is_file()
    }
    own = {name: study_of(name) for name in found if name in LISTED}
    return {
        name: _released(seen) if name in own and own[name].released else seen
        for name, seen in found.items()
        if name not in own or (own[name].of_skills and own[name].suite != "real")
    }


def of_real_models(folders: Mapping[str, Path]) -> dict[str, Observations]:
    """The observations of studies of real models that were judged and then released. They enter no fit."""
    own = {name: study_of(name) for name in folders if name in LISTED}
    return {
        name: read(folders[name])
        for name, study in own.items()
        if study.suite == "real" and study.released and (folders[name] / "observations.csv").is_file()
    }


def _released(found: Observations) -> Observations:
    runs = {name: {**row, "held_out": False} for name, row in found.manifest["runs"].items()}
    return replace(found, manifest={**found.manifest, "runs": runs})


def entering(studies: Mapping[str, Observations], leave: Leave | None = None) -> dict[str, tuple[str, ...]]:
    """Names of the runs that enter a fit, by study; studies without any are left out."""
    left = {
        found.key(name)
        for study, found in studies.items()
        for name, row in found.manifest["runs"].items()
        if row["held_out"] or (leave is not None and leave(study, row))
    }
    chosen = {
        study: tuple(
            name
            for name, row in found.finished.items()
            if not row["held_out"] and row["model"] in models() and not left & set(row["keys"].values())
        )
        for study, found in studies.items()
    }
    return {study: names for study, names in chosen.items() if names}


def refit(
    folders: Mapping[str, Path],
    studies: Mapping[str, Observations],
    *,
    leave: Leave | None = None,
    starts: int = STARTS,
) -> Refit:
    """Fit what enters. UsageError where nothing does."""
    chosen = entering(studies, leave)
    if not chosen:
        raise UsageError("no finished run enters the fit: run a study first, as in `mopd study run order`")
    began = time.perf_counter()
    document = fitted(
        [folders[study] / "observations.csv" for study in chosen],
        base=prior_of(shipped()),
        chosen=_named(chosen),
        starts=starts,
    )
    return Refit(
        document=document,
        calibration=from_document(document, source="the calibration fitted to committed studies"),
        seconds=time.perf_counter() - began,
    )


def _named(chosen: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Runs by the names that a fit has for them, STUDY/RUN."""
    return {f"{study}/{name}" for study, names in chosen.items() for name in names}


def as_shipped(studies: Mapping[str, Observations]) -> Refit:
    """The calibration that ships, to be judged as it is. UsageError where a run that does not enter a fit, such as a
    held-out one, is in it."""
    document = shipped()
    if "fit" not in document:
        raise UsageError("the calibration that ships is no fit of ours: fit anew, without --as-shipped")
    if unknown := sorted(set(document["fit"]["runs"]) - _named(entering(studies))):
        raise UsageError(
            f"the calibration that ships was fitted to {unknown[0]!r}, which is held out or was not run: fit anew, "
            "without --as-shipped"
        )
    return Refit(
        document=document,
        calibration=from_document(document, source="the calibration that ships"),
        seconds=None,
    )


def shipped() -> dict[str, Any]:
    """The calibration that ships, as a document."""
    return dict(json.loads(shipped_path().read_text(encoding="utf-8")))


def shipped_path() -> Path:
    """Where it lies."""
    return Path(str(files("mopdsim").joinpath("data", "calibration.json")))


def prior_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """A calibration without what a fit put into it: its facts of domains, its correlations."""
    provenance = list(document.get("provenance", ()))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": "prior",
        "provenance": provenance[:-1] if "fit" in document else provenance,
        "parameters": {
            name: {key: value for key, value in row.items() if key != "studies"}
            for name, row in document["parameters"].items()
        },
    }


def same(one: Any, other: Any) -> bool:
    """Whether two documents agree, numbers to six significant digits."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-12)
    return bool(one == other)
