"""Runs on disk, read as plain files: which there are, how far they are, their metrics while they are written.

Only directories right under one root are read, chosen by the server's owner (MOPD_RUNS, or ./runs), never by a
visitor. Leaves out: how a run is written (`trainer`), its start (`mopdsim.app.pages.runs`).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from mopdsim.base import run_directory as files
from mopdsim.base.documents import json_document, parse_toml
from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import CONFIG, MADE_FROM, METRICS, PHASES, SAMPLES, STATUS, STORE, SUMMARY

MAX_LOG = 20_000_000  # bytes read of one metrics.jsonl, its end


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run directory. age_s: seconds since its logs last grew."""

    name: str
    directory: Path
    status: str
    recipe: str
    age_s: float

    @property
    def running(self) -> bool:
        return self.status == files.RUNNING


def root() -> Path:
    """Where runs lie."""
    return Path(os.environ.get("MOPD_RUNS", "runs"))


def runs() -> dict[str, Run]:
    """All runs by name, the newest first."""
    found = [_run(path.parent) for path in root().glob(f"*/{STATUS}") if (path.parent / CONFIG).is_file()]
    return {run.name: run for run in sorted(found, key=lambda run: run.age_s)}


def run(name: str) -> Run:
    """The run of this name. NotFoundError for any other name, paths included."""
    found = runs().get(name)
    if found is None:
        raise NotFoundError(f"no run {name!r} in {root()}")
    return found


def _run(directory: Path) -> Run:
    logs = [*directory.glob(f"{STORE}/*/{METRICS}"), directory / STATUS]
    newest = max(path.stat().st_mtime for path in logs if path.exists())
    return Run(
        name=directory.name,
        directory=directory,
        status=files.status_of(directory),
        recipe=_recipe_name(directory / CONFIG),
        age_s=max(0.0, time.time() - newest),
    )


def _recipe_name(path: Path) -> str:
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("name"):
            return line.partition("=")[2].strip().strip('"')
    return "?"


def metrics(found: Run) -> list[dict[str, Any]]:
    """Rows of every stage: the run's own log where it is finished, the stages' logs while it is not."""
    return _logged(found, METRICS)


def samples(found: Run) -> list[dict[str, Any]]:
    """Samples of every stage; `trainer.stages.samples` says what a row holds."""
    return _logged(found, SAMPLES)


def _logged(found: Run, log: str) -> list[dict[str, Any]]:
    whole = _whole(found, log)
    if whole is not None:
        return list(files.rows_of(whole, most=MAX_LOG, of_run=True))
    return [
        {"stage": stage, **files.named(row, teachers)}
        for path, stage, teachers in _logs(found, log)
        for row in files.rows_of(path, most=MAX_LOG)
    ]


def _whole(found: Run, log: str) -> Path | None:
    """The log of all stages that a finished run has, in which everything has its name."""
    path = found.directory / log
    return path if path.is_file() and not found.running else None


def _logs(found: Run, log: str) -> Iterator[tuple[Path, str, list[str]]]:
    """The stages' logs, the first begun first, with the stage and its teachers in words."""
    made = {path.parent.name: _stage(path) for path in found.directory.glob(f"{STORE}/*/{MADE_FROM}")}
    words = {key: _in_words(stage) or key for key, stage in made.items()}
    count = Counter(words.values())
    labels = {key: word if count[word] == 1 else f"{word} ({key[:4]})" for key, word in words.items()}
    for path in sorted(found.directory.glob(f"{STORE}/*/{log}"), key=lambda path: path.stat().st_ctime):
        key = path.parent.name
        teachers = dict.fromkeys(teacher["stage"] for teacher in made.get(key, {}).get("teachers", ()))
        yield path, labels.get(key, key), [labels.get(teacher, teacher) for teacher in teachers]


def _stage(path: Path) -> dict[str, Any]:
    """The stage that a made_from.json describes; empty for a given model, and where it says none."""
    try:
        return dict(json.loads(path.read_text())["stage"] or {})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _in_words(stage: Mapping[str, Any]) -> str:
    """A stage of the store by its kind and domains; the store knows no names."""
    return f"{stage.get('kind', '')} {', '.join(stage.get('domains', ()))}".strip()


def curves(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pass rates by stage, step and domain; loss, reward and gradient norm by stage and step."""
    return (
        pd.DataFrame(files.scores_in(rows), columns=["stage", "step", "domain", "pass rate", "se"]),
        pd.DataFrame(files.curves_in(rows), columns=["stage", "step", "quantity", "value"]),
    )


def cost_split(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Seconds of each stage by phase, summed over its steps."""
    sums: dict[tuple[str, str], float] = {}
    for row in rows:
        for phase, seconds in (row.get("seconds") or {}).items():
            if phase in PHASES:
                sums[row["stage"], phase] = sums.get((row["stage"], phase), 0.0) + seconds
    return pd.DataFrame([(*key, value) for key, value in sums.items()], columns=["stage", "phase", "seconds"])


def final_scores(found: Run) -> pd.DataFrame | None:
    """Measured scores of a finished run by domain. UsageError where its summary is damaged or another version's."""
    path = found.directory / SUMMARY
    if not path.is_file():
        return None
    document = json_document(path, missing=f"{path}: is gone", remedy="run again for a table of scores")
    scores = files.checked_summary(document, path)["scores"]
    rows = [(name, row["start"], row["final"], row["se"]) for name, row in scores.items()]
    return pd.DataFrame(rows, columns=["domain", "start", "final", "standard error"])


def scenario_text(found: Run) -> str:
    """The scenario that a run carries out, as TOML. UsageError where its files are damaged."""
    try:
        model = json.loads((found.directory / files.RESOLVED).read_text())["model"]
        recipe = parse_toml((found.directory / CONFIG).read_text(), source=found.name)
        return tomli_w.dumps({"model": str(model), "recipe": recipe})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{found.name}: without a model and a recipe that can be read, there is no forecast"
        ) from None


def gradient_cosines() -> dict[str, float]:
    """Mean cosine of gradients by pair "a|b", over all runs and steps that measured it."""
    sums: dict[str, list[float]] = {}
    for found in runs().values():
        for row in metrics(found):
            for pair, cosine in (row.get("gradient_cosine") or {}).items():
                sums.setdefault(pair, []).append(cosine)
    return {pair: sum(values) / len(values) for pair, values in sums.items()}
