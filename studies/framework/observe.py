"""Observations: what a study's runs left in the store, as flat tables that can be committed.

    RESULTS/NAME/  observations.csv  a row for each stage, point of evaluation and domain
                   measured.csv.gz   what some studies look at besides (`Study.measure`)
                   manifest.json     runs (condition, seed, stages' keys, what failed), stages (cost), versions, device
A stage that several runs share is written once, under its key. Weights stay in the store. A score is one of three
`Figure`s: pass_rate is sampled at the run's temperature (1 in every study), greedy is of the likeliest answers, pass_8
the best of eight samples; where the settings asked for the first alone, the others are empty. Leaves out: analysis
(`studies.designs`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from mopdsim.base.answers import samples_count
from mopdsim.base.documents import json_document
from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import METRICS, PHASES, checked_manifest, rows_of
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import from_document, to_document
from mopdsim.recipes.stage import BASE, ROOTS
from studies.framework.run import Factor, Run
from trainer.files.atomic import explained, write_bytes, write_json, write_text
from trainer.runs.plan import Node, Plan
from trainer.runs.store import Store

if TYPE_CHECKING:
    from trainer.runs.execute import Outcome

POINTS = (
    "study", "run", "recipe", "stage", "key", "seed", "split", "step", "domain", "trained", "pass_rate", "se", "n",
    "length", "flops", "gradient_tokens", "kl_start", "kl_parent", "pass_8", "greedy", "greedy_se", "greedy_n",
)  # fmt: skip
NUMBERS = frozenset(POINTS) - {"study", "run", "recipe", "stage", "key", "split", "domain", "trained"}
Figure = Literal["pass_rate", "greedy", "pass_8"]
MEASURED = "measured.csv.gz"
NOT_RUN = "not run yet"  # the failure of a run that nothing but time has kept from its result
SAME = 1e-6  # of scores written to eight digits


@dataclass(frozen=True, kw_only=True)
class Observations:
    """points: a row an evaluation and domain. manifest: the JSON beside them. measured: the study's own table."""

    points: pd.DataFrame
    manifest: Mapping[str, Any]
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def finished(self) -> dict[str, Mapping[str, Any]]:
        """The runs that have a result, by name, as the manifest describes them."""
        return {name: row for name, row in self.manifest["runs"].items() if row["failure"] is None}

    def runs(self, **factors: Factor) -> list[str]:
        """Names of the finished runs under this condition."""
        wanted = factors.items()
        return [name for name, row in self.finished.items() if wanted <= row["factors"].items()]

    def stages(self, keys: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """What those of some stages cost that were observed, by key."""
        return {key: row for key, row in self.manifest["stages"].items() if key in keys}

    def factor(self, run: str, name: str) -> Any:
        """One factor of a run."""
        return self.manifest["runs"][run]["factors"][name]

    def recipe(self, run: str) -> Recipe:
        """A run's recipe, as it was run."""
        return _recipe(json.dumps(self.manifest["runs"][run]["document"]), f"manifest: {run}")

    def seed(self, run: str) -> int:
        """Of a run."""
        return int(self.manifest["runs"][run]["seed"])

    def key(self, run: str, stage: str | None = None) -> str:
        """Of a run's stage, or of its output."""
        row = self.manifest["runs"][run]
        return str(row["keys"][row["output"] if stage is None else stage])

    def scores(self, run: str, stage: str | None = None) -> dict[str, float]:
        """Test scores by domain after a stage, in the figure that is seen."""
        return self._tested(run, stage, "pass_rate")

    def errors(self, run: str, stage: str | None = None) -> dict[str, float]:
        """Standard errors of pass rates over test prompts, by domain."""
        return self._tested(run, stage, "se")

    def _tested(self, run: str, stage: str | None, column: str) -> dict[str, float]:
        rows = self._tests[self.key(run, stage)]
        return dict(zip(rows.domain, rows[column], strict=True))

    def has(self, run: str, stage: str) -> bool:
        """Whether a run's stage was carried out."""
        return self.key(run, stage) in self._by_key

    def prompts(self, run: str, stage: str | None = None) -> dict[str, int]:
        """How many prompts of each domain the test after a stage had."""
        return {domain: int(n) for domain, n in self._tested(run, stage, "n").items()}

    def answers(self, run: str, stage: str | None = None) -> dict[str, int]:
        """For how many answers, each to a prompt of its own, the test after a stage counts, by domain: its prompts,
        times what several samples of each add on the run's start."""
        more = samples_count([dict(row) for _, row in self._tests[self.key(run, BASE)].iterrows()])
        return {domain: round(more * n) for domain, n in self.prompts(run, stage).items()}

    def seen(self, figure: Figure) -> Observations:
        """The same observations with another figure in the place of pass rates; of greedy scores with their prompts."""
        if figure not in self._views:
            points = self.points.assign(pass_rate=self.points[figure])
            if figure == "greedy":
                points = points.assign(se=points.greedy_se, n=points.greedy_n)
            self._views[figure] = replace(self, points=points[points.pass_rate.notna()])
        return self._views[figure]

    @cached_property
    def _views(self) -> dict[Figure, Observations]:
        return {"pass_rate": self}

    def mean(self, run: str, domains: Collection[str], stage: str | None = None) -> float:
        """Mean test score over some domains after a stage."""
        scores = self.scores(run, stage)
        return sum(scores[domain] for domain in domains) / len(domains)

    def about(self, run: str) -> dict[str, Any]:
        """A run's name, seed and factors: the head of its row in a table."""
        return {"run": run, "seed": self.seed(run), **self.finished[run]["factors"]}

    def flops(self, run: str) -> float:
        """Training FLOPs of all the run's own stages, evaluation and the start left out."""
        keys = {key for name, key in self.manifest["runs"][run]["keys"].items() if name not in ROOTS}
        return float(sum(self.manifest["stages"][key]["flops"] for key in keys))

    @cached_property
    def _tests(self) -> dict[str, pd.DataFrame]:
        """The test's rows, by key."""
        return {key: rows[rows.split == "test"] for key, rows in self._by_key.items()}

    @cached_property
    def _by_key(self) -> dict[str, pd.DataFrame]:
        return {str(key): rows for key, rows in self.points.groupby("key")}


@lru_cache(maxsize=2048)
def _recipe(text: str, source: str) -> Recipe:
    return from_document(json.loads(text), source=source)


def collect(
    runs: Mapping[str, Run],
    found: Plan,
    outcome: Outcome,
    store: Store,
    about: Mapping[str, Any],
    before: Observations | None,
) -> Observations:
    """Read the store, and what it does not say from the observations of `before`, perhaps of another machine: a stage
    observed there stays as it was observed. `about` goes into the manifest as it is (study, versions, scale, date)."""
    kept = before.stages(found.node) if before is not None else {}
    points: list[dict[str, Any]] = []
    seen: set[str] = set()
    described = {}
    for name, run in runs.items():
        keys = dict(found.keys[name])
        for stage, key in keys.items():
            if key in seen or key in kept or key not in outcome.summaries:
                continue
            seen.add(key)
            common = {"study": about["study"], "run": name, "stage": stage, "key": key}
            node, summary = found.node[key], outcome.summaries[key]
            log = store.directory(key) / METRICS
            rows = list(rows_of(log)) if log.exists() else []
            more = {"recipe": run.recipe.name, "seed": run.settings.seed}
            points += [common | more | row for row in _points(node, rows, summary)]
        described[name] = {
            "recipe": run.recipe.name,
            "document": to_document(run.recipe),
            "model": run.model,
            "seed": run.settings.seed,
            "domains": list(run.recipe.domains),
            "factors": run.factors,
            "held_out": run.held_out,
            "output": run.recipe.output,
            "keys": keys,
            "failure": outcome.failure_of(keys.values())
            or (None if set(keys.values()) <= outcome.summaries.keys() | kept.keys() else NOT_RUN),
        }
    stages = {key: _stage(found.node[key], outcome.summaries[key]) for key in seen} | kept
    return Observations(
        points=_after(before, pd.DataFrame(points, columns=list(POINTS)), kept),
        manifest={**about, "runs": described, "stages": dict(sorted(stages.items()))},
    )


def _after(before: Observations | None, rows: pd.DataFrame, kept: Collection[str]) -> pd.DataFrame:
    """The points after those of the stages that were observed before."""
    old = rows.iloc[:0] if before is None else before.points[before.points.key.isin(kept)]
    return (
        pd.concat([old, rows], ignore_index=True) if len(old) and len(rows) else (old if len(old) else rows)
    )


def write(found: Observations, folder: Path) -> list[Path]:
    """The two files, or three. Returns them."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "observations.csv", folder / "manifest.json"]
    write_text(files[0], found.points.to_csv(index=False, float_format="%.8g"))
    write_json(files[1], found.manifest)
    if not found.measured.empty:
        files.append(folder / MEASURED)
        text = found.measured.to_csv(index=False)
        write_bytes(files[-1], gzip.compress(text.encode(), mtime=0))
    return files


def read(folder: Path) -> Observations:
    """The observations that a study left. NotFoundError where there are none; UsageError where they cannot be read, or
    where greedy scores and sampled ones are mixed up."""
    try:
        points = pd.read_csv(folder / "observations.csv", dtype={"key": str})
        points = points.assign(**{name: pd.to_numeric(points[name]) for name in points if name in NUMBERS})
        own = folder / MEASURED
        measured = (
            pd.read_csv(own, keep_default_na=False, na_values=[""]) if own.is_file() else pd.DataFrame()
        )
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{error.filename}: no observations yet; run the study first: `mopd study run {folder.name}`"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{folder}: the observations cannot be read ({' '.join(str(error).split())}): restore or collect them"
        ) from None
    path = folder / "manifest.json"
    found = json_document(path, missing=f"{path}: not there: restore it", remedy="restore it")
    manifest = checked_manifest(found, path, of_study=True)
    points = points.reindex(columns=list(POINTS))  # older files have fewer columns
    _apart(points, folder)
    return Observations(points=points, manifest=manifest, measured=measured)


def _apart(points: pd.DataFrame, folder: Path) -> None:
    """Refuse a file in which greedy scores stand where sampled ones belong, or the other way round.

    A greedy score has one answer a prompt, so that its error is at most sqrt(g (1 - g) / n), and exactly that where
    answers are right or wrong; a mean of several samples a prompt lies below it, and below the best of eight.
    """
    rows = points[points.greedy.notna()]
    spread = np.sqrt(rows.greedy * (1 - rows.greedy) / rows.greedy_n)
    wrong = ((rows.greedy_se - spread).abs() > SAME) | (rows.pass_8 < rows.pass_rate - SAME)
    if wrong.any():
        row = rows[wrong].iloc[0]
        raise UsageError(
            f"{folder / 'observations.csv'}: domain {row.domain!r} after stage {row.stage!r} of run {row.run!r}: "
            f"greedy {row.greedy:g} (se {row.greedy_se:g} over {row.greedy_n:g} prompts), temperature 1 "
            f"{row.pass_rate:g}, pass@8 {row.pass_8:g} cannot all be so: greedy and temperature-1 scores are mixed up; "
            "restore the file or collect it again with `mopd study run`"
        )


def _points(node: Node, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each evaluation and domain, with the FLOPs and the domain's gradient tokens spent before it.

    The log gives sampled tokens by step; the summary how many of them were trained on: a point has the share of the
    latter that it had of the former.
    """
    sampled: dict[str, float] = {}
    whole = _sampled(rows)
    trained = summary.get("tokens", {}).get("trained", {})
    spent = 0.0
    domains = getattr(node.job.stage, "domains", {})
    for row in rows:
        if row["kind"] == "step":
            spent = row["flops"]
            for domain, tokens in _tokens(row).items():
                sampled[domain] = sampled.get(domain, 0.0) + tokens
        elif row["kind"] == "evaluation":
            for domain, score in row["domains"].items():
                share = sampled.get(domain, 0.0) / whole[domain] if whole.get(domain) else float(spent > 0)
                yield {
                    "split": row["split"],
                    "step": row["step"],
                    "domain": domain,
                    "trained": domain in domains,
                    "flops": spent,
                    "gradient_tokens": trained.get(domain, 0) * share,
                    **{name: score.get(name) for name in ("pass_rate", "se", "n", "length", "pass_8")},
                    **{name: score.get(name) for name in ("greedy", "greedy_se", "greedy_n")},
                    **{name: score.get(name) for name in ("kl_start", "kl_parent")},
                }


def _sampled(rows: list[dict[str, Any]]) -> dict[str, float]:
    whole: dict[str, float] = {}
    for row in rows:
        for domain, tokens in _tokens(row).items() if row["kind"] == "step" else ():
            whole[domain] = whole.get(domain, 0.0) + tokens
    return whole


def _tokens(row: Mapping[str, Any]) -> dict[str, float]:
    """Tokens of a step by domain, up to a factor that is the stage's."""
    prompts, domains = row.get("prompts", {}), row.get("domains", {})
    return {name: prompts[name] * domains[name].get("length", 1.0) for name in domains if name in prompts}


def _stage(node: Node, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage cost: FLOPs and seconds without evaluation, wall-clock and CPU seconds with it."""
    flops, seconds = summary["flops"], summary["seconds"]
    return {
        "kind": "base" if node.job.stage is None else node.job.stage.kind,
        "steps": summary["steps"],
        "flops": sum(flops.get(phase, 0.0) for phase in PHASES if phase != "evaluation"),
        "seconds": sum(seconds.get(phase, 0.0) for phase in PHASES if phase != "evaluation"),
        "wall_seconds": summary["wall_seconds"],
        "cpu_seconds": sum(summary.get("cpu_seconds", {}).values()),
        "trained_tokens": summary.get("tokens", {}).get("trained", {}),
    }
