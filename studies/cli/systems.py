"""`mopd study compare | overoptimisation`: recipes side by side, and how far a reward model carries. Leaves out: what
they do (`studies.designs.systems`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mopdsim.base.errors import UsageError
from mopdsim.cli.flags import Json, RunSeed, Workers, emit, listed

if TYPE_CHECKING:
    from studies.designs.systems.side_by_side import Engine

Out = Annotated[Path, typer.Option(help="Where stages are kept.")]


def compare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE ...", help="Names of `mopd recipes`.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All published systems and the plain rivals.")] = False,
    own: Annotated[
        bool, typer.Option("--own", help="Each with its own amounts instead of one common budget of FLOPs.")
    ] = False,
    model: Annotated[str, typer.Option(help="tiny, a model directory, or a hub id.")] = "tiny",
    domains: Annotated[
        str | None, typer.Option(help="Comma-separated [default: six tiny ones, as `mopd compare --all`].")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Factor on the budget, or with --own on every stage's steps.")
    ] = 1.0,
    seed: RunSeed = 0,
    out: Out = Path("runs/compare"),
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Run recipes for real, at one common budget of training FLOPs, and print the forecast beside what was measured.

    Resumes. Writes OUT/compare.json. Example: mopd study compare --all --model tiny --scale 0.1
    """
    from mopdsim.forecast.compare import DOMAINS, RECIPES
    from studies.designs.systems.compare import comparable, compare_text, run_compare
    from studies.framework.run import Run
    from trainer.files.settings import Settings

    if all_ == bool(names):
        raise UsageError("recipes: name some, or give --all, but not both")
    chosen = tuple(listed(domains, "domains")) or DOMAINS
    made = comparable(RECIPES if all_ else tuple(names or ()), chosen, model=model, scale=scale, own=own)
    settings = Settings(seed=seed, validation_items=100, test_items=400, evaluate_every=1000)
    runs = [Run(name=name, recipe=recipe, settings=settings, model=model) for name, recipe in made.items()]
    result = run_compare(runs, engine(out, workers))
    _told(result, out / "compare.json", compare_text, json_)


def overoptimisation(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    scale: Annotated[float, typer.Option(help="Factor on PPO's steps.")] = 1.0,
    out: Out = Path("runs/overoptimisation"),
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """True reward against the square root of KL, for PPO and best-of-n against one reward model. About ten minutes.

    Writes OUT/overoptimisation.json. Example: mopd study overoptimisation
    """
    from studies.designs.systems.overoptimisation import PPO, overoptimisation_text, run_overoptimisation

    result = run_overoptimisation(seeds=range(seeds), ppo=PPO.scaled(scale), engine=engine(out, workers))
    _told(result, out / "overoptimisation.json", overoptimisation_text, json_)


def engine(out: Path, workers: int | None) -> Engine:
    """Runs stages into OUT/store; a line for each as it finishes."""
    from studies.designs.systems.side_by_side import Engine
    from trainer.runs.execute import default_workers
    from trainer.runs.progress import Progress
    from trainer.runs.store import Store

    print(f"into {out}; stages as they finish:", file=sys.stderr)
    count = workers or default_workers("cpu")
    return Engine(store=Store(root=out / "store"), workers=count, progress=Progress())


def _told(result: dict[str, Any], path: Path, text: Callable[[Mapping[str, Any]], str], json_: bool) -> None:
    """Keep the document and print it, or its text."""
    from trainer.files.atomic import write_json

    write_json(path, result)
    emit(result) if json_ else print(text(result))


COMMANDS = (compare, overoptimisation)
