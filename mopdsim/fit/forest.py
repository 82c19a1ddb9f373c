"""What runs did, as a fit reads it: for each base a tree of stages, what each spent, and what it scored.

A stage that several runs share stands once, under its key. Read from the tables that a study leaves: a row for each
point of evaluation and domain, and a manifest beside it with the recipe and the stages' keys of each run.
Leaves out: held-out runs, runs that failed, runs with a model of a second size.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.answers import samples_count
from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import checked_manifest
from mopdsim.facts.domains import Domain, Scope, domain, scope_of
from mopdsim.facts.model import model
from mopdsim.forecast.stage_draws import STUDIED
from mopdsim.quality.step import Effort
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import from_document
from mopdsim.recipes.stage import BASE, SMALLER, AnyStage, Merge, renamed

RESULTS = (
    Path(__file__).resolve().parents[2] / "studies" / "results"
)  # where studies leave what they observed
_NEEDED = ("key", "split", "step", "domain", "pass_rate", "n", "flops", "gradient_tokens", "kl_parent")


@dataclass(frozen=True, kw_only=True)
class Score:
    """`passed` of `n` answers of a domain, each to a prompt of its own; several samples of a prompt count as fewer."""

    domain: str
    passed: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of a stage (BASE: of the model that the recipes are run on). effort: what the stage had spent by
    then, None at its end. kl: mean nats a token from its parent over the domains
    trained, of RL where it was measured."""

    stage: str
    effort: Effort | None
    scores: tuple[Score, ...]
    kl: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All stages that grew from one base, under their keys. recipe: the stages, each after its parents, without a last
    word; runs: names of the runs they belong to; relative_size: parameters over those of `STUDIED`."""

    base: str
    domains: Mapping[str, Domain]
    recipe: Recipe
    efforts: Mapping[str, Effort]
    points: tuple[Point, ...]
    runs: tuple[str, ...]
    relative_size: float = 1.0


def forest_recipe(
    domains: tuple[str, ...], stages: tuple[AnyStage, ...], amounts: Mapping[str, Any]
) -> Recipe:
    """The stages as a recipe that has no common output. A walk needs only the stages, so the checks of a
    recipe are skipped."""
    return Recipe.model_construct(
        name="forest",
        domains=domains,
        amounts_name="tiny",
        stages=stages,
        amounts=dict(amounts),
        output=stages[-1].name if stages else BASE,
        side_outputs=(),
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its recipe, the keys of its stages, the base's among them, and the name of its model."""

    name: str
    recipe: Recipe
    keys: Mapping[str, str]
    model: str = STUDIED


def scope_of_trees(trees: Iterable[Tree]) -> Scope:
    """The widest scope of all domains."""
    return scope_of({name: row for tree in trees for name, row in tree.domains.items()})


def trees_of(
    runs: Iterable[Run],
    efforts: Mapping[str, Effort],
    points: Mapping[str, tuple[Point, ...]],
    sizes: Mapping[str, float] | None = None,
) -> tuple[Tree, ...]:
    """Runs gathered by base and domains. efforts, points: by a stage's key (in a point, BASE for a base's); sizes: of
    bases, by their keys, relative to `STUDIED` (absent: its size)."""
    groups: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.keys[BASE], run.recipe.domains), []).append(run)
    found = (_tree(base, names, own, efforts, points) for (base, names), own in groups.items())
    return tuple(replace(tree, relative_size=(sizes or {}).get(tree.base, 1.0)) for tree in found)


def _tree(
    base: str,
    names: tuple[str, ...],
    runs: list[Run],
    efforts: Mapping[str, Effort],
    points: Mapping[str, tuple[Point, ...]],
) -> Tree:
    stages: dict[str, AnyStage] = {}
    amounts: dict[str, Any] = {}
    for run in runs:
        keys = {**run.keys, BASE: BASE}  # the base goes by its own name in every recipe
        for stage in run.recipe.stages:
            key = run.keys[stage.name]
            stages.setdefault(key, renamed(stage, keys))
            if stage.name in run.recipe.amounts:
                amounts[key] = run.recipe.amounts[stage.name]
    return Tree(
        base=base,
        domains={name: domain(name) for name in names},
        recipe=forest_recipe(names, tuple(stages.values()), amounts),
        efforts={key: efforts[key] for key, stage in stages.items() if not isinstance(stage, Merge)},
        points=tuple(_of(names, point) for key in (base, *stages) for point in points.get(key, ())),
        runs=tuple(run.name for run in runs),
    )


def _of(names: tuple[str, ...], point: Point) -> Point:
    """The point without scores of probes, which are no domains of the recipe."""
    return replace(point, scores=tuple(score for score in point.scores if score.domain in names))


def load(
    data: Sequence[Path], *, calm: bool = False, chosen: Collection[str] | None = None
) -> tuple[tuple[Tree, ...], tuple[str, ...]]:
    """The forest of some observations files, a manifest beside each, and the dates of the studies. calm: without runs
    at bold rates, whose RL may have broken. chosen: the runs that enter, as STUDY/RUN (None: all that were not held
    out). NotFoundError, UsageError."""
    runs: list[Run] = []
    efforts: dict[str, Effort] = {}
    points: dict[str, tuple[Point, ...]] = {}
    sizes: dict[str, float] = {}
    dates = []
    for path in data:
        rows, manifest = _read(path)
        source = str(path.with_name("manifest.json"))
        own = [run for run in _runs(manifest, source, chosen) if not (calm and run.recipe.bold)]
        active = {key: _active(run.model, source) for run in own for key in run.keys.values()}
        bases = {run.keys[BASE]: BASE for run in own}
        sizes |= {base: active[base] / model(STUDIED).active_parameters for base in bases}
        stages = {key: row for key, row in manifest["stages"].items() if key in active}
        efforts |= {
            key: spent(row["flops"] / active[key], sum(row["trained_tokens"].values()))
            for key, row in stages.items()
        }
        points |= _points(rows, {key: row["kind"] for key, row in stages.items()} | bases, active)
        runs += own
        dates.append(str(manifest["date"]))
    if not runs:
        raise UsageError(f"{data[0]}: no finished run that is not held out: there is nothing to fit")
    return trees_of(runs, efforts, points, sizes), tuple(dates)


def _read(data: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows of an observations file, and the manifest beside it."""
    try:
        rows = list(csv.DictReader(data.read_text(encoding="utf-8").splitlines()))
        manifest = json.loads(data.with_name("manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{error.filename}: no such file: give a study's observations.csv, its manifest.json beside it"
        ) from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(
            f"{data}: the observations cannot be read ({error}): restore or collect them"
        ) from None
    for column in _NEEDED:
        if not rows or column not in rows[0]:
            raise UsageError(f"{data}: no rows with a column {column!r}: give a study's observations.csv")
    return rows, checked_manifest(manifest, data.with_name("manifest.json"), of_study=False)


def spent(compute: float, tokens: float) -> Effort:
    """What a stage spends, as one number each: FLOPs per active parameter, gradient tokens."""
    return Effort(compute_N=np.array([compute]), tokens_N=np.array([tokens], dtype=float))


def _runs(manifest: Mapping[str, Any], source: str, chosen: Collection[str] | None) -> Iterator[Run]:
    """The runs that enter."""
    for name, row in manifest["runs"].items():
        whole = f"{manifest['study']}/{name}"
        left_out = row["held_out"] if chosen is None else whole not in chosen
        if row["failure"] is not None or left_out:
            continue
        recipe = from_document(row["document"], source=f"{source}: {name}")
        if SMALLER not in recipe.roots:
            yield Run(name=whole, recipe=recipe, keys=row["keys"], model=row["model"])


def _active(name: str, source: str) -> int:
    try:
        return model(name).active_parameters
    except NotFoundError as error:
        raise UsageError(
            f"{source}: model {name!r} is not in the table, so its compute is unknown: {error}"
        ) from None


def _points(
    rows: list[dict[str, str]], kinds: Mapping[str, str], active: Mapping[str, float]
) -> dict[str, tuple[Point, ...]]:
    """By key. Left out: the start of a stage, which is its parent's end, and how a base came about. The test at
    the end has no effort of its own."""
    groups: dict[tuple[str, str, float], list[dict[str, str]]] = {}
    for row in rows:
        if row["key"] in active and row["pass_rate"] and not math.isnan(float(row["pass_rate"])):
            groups.setdefault((row["key"], row["split"], float(row["step"])), []).append(row)
    found: dict[str, list[Point]] = {}
    more = samples_count([row for own in groups.values() for row in own if row["split"] == "test"])
    for (key, split, step), own in groups.items():
        is_base, is_end = kinds[key] == BASE, split == "test"
        if not is_end and (is_base or step == 0):
            continue
        tokens = sum(float(row["gradient_tokens"]) for row in own)
        trained = [float(row["kl_parent"]) for row in own if row["trained"] == "True" and row["kl_parent"]]
        point = Point(
            stage=BASE if is_base else key,
            effort=None if is_end else spent(float(own[0]["flops"]) / active[key], tokens),
            scores=tuple(
                Score(domain=row["domain"], passed=float(row["pass_rate"]) * n, n=n)
                for row in own
                for n in [round(int(row["n"]) * (more if is_end else 1.0))]
            ),
            kl=sum(trained) / len(trained) if trained and is_end and kinds[key] == "rl" else None,
        )
        found.setdefault(key, []).append(point)
    return {key: tuple(points) for key, points in found.items()}
