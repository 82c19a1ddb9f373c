"""`mopd study ...`: questions with predictions, answered by real runs; the frozen validation; and what stands apart:
recipes side by side, and how far a reward model carries.

Leaves out: what the verbs do (`studies.framework.conduct`, `studies.honest.validation`, `studies.designs.systems`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mopdsim.cli.flags import Device, Json, RunSeed, Workers, emit, group, listed, options_of

if TYPE_CHECKING:
    from studies.framework.conduct import Work
    from studies.framework.ledger import Ledger
    from studies.framework.study import Study
else:
    Work = Any  # read at run time by the command line; the module behind it is loaded when a verb runs

Name = Annotated[str, typer.Argument(help="A name of `mopd study list`.")]
Out = Annotated[Path, typer.Option(help="Where stages are kept, shared by all studies.")]
Stages = Annotated[Path, typer.Option(help="Where stages are kept.")]
Scale = Annotated[
    float, typer.Option(help="Factor on every stage's steps; other than 1 it is a rehearsal, kept below OUT.")
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="A rehearsal of minutes: one seed, a hundredth of the steps, kept below OUT."
    ),
]
OUT = Path("runs/studies")
STATES = {"reported": "report.md", "run": "observations.csv"}  # by the file that says so

app = group("Studies that run recipes for real.")


def work_of(
    name: Name, out: Out = OUT, scale: Scale = 1.0, quick: Quick = False, device: Device = "cpu"
) -> Work:
    """The study that a verb is about."""
    from studies.framework.conduct import named

    return named(name, out=out, scale=scale, device=device, quick=quick)


@app.command("list")
def list_(json_: Json = False) -> None:
    """List the studies, what their worlds measure and what they ask. Example: mopd study list --json"""
    from studies.framework.conduct import files, named
    from studies.framework.registry import LISTED
    from studies.framework.study import SUITES

    works = [named(name, out=OUT) for name in LISTED]
    if json_:
        return emit(
            [
                {
                    "name": w.study.name,
                    "suite": w.study.suite,
                    "question": w.study.question,
                    "retired": w.study.retired,
                    "successor": w.study.successor,
                    "files": files(w),
                }
                for w in works
            ]
        )
    for suite, words in SUITES.items():
        print(f"{suite}: {words}")
        for work in works:
            there = files(work)
            state = next((word for word, file in STATES.items() if there[file]), "not run")
            if work.study.retired:
                state += "; retired" + (f", run {work.study.successor}" if work.study.successor else "")
            if work.study.suite == suite:
                print(f"  {work.study.name:<14} {work.study.question}  [{state}]")


@app.command()
@options_of(work_of, "work")
def plan(work: Work, workers: Workers = None, json_: Json = False) -> None:
    """Record the prediction and print the ledger: runs, shared stages, seconds, what to drop first.

    Seconds are those of one worker: this trainer's pace on two CPU cores for the run's model, times how much slower
    this machine was on the finished stages in the store. Example: mopd study plan order
    """
    record, found = work.record(), work.ledger
    count = _workers(workers, work.device)
    if json_:
        about = {"study": work.study.name, "scale": work.factor, "workers": count, "prediction": record}
        return emit({**about, **found.as_json()})
    print(ledger_text(work.study, record, found, count))


@app.command()
@options_of(work_of, "work")
def run(
    work: Work,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes here, or a Ray cluster.")
    ] = "local",
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Run what is missing and write the observations; resumes. Example: mopd study run order

    Missing is what neither the store nor the observations beside the code hold, whichever machine made them: to repeat
    a study, move its observations away first. A run that fails is reported and the others go on; the command then
    exits 1. A study that foretells runs its starts and specialists, puts the forecasts of the rest on record, and
    goes on.
    """
    from studies.framework import conduct

    name, count = work.study.name, _workers(workers, work.device)
    foretold = None
    if work.study.foretells:
        from studies.honest.prospective import foreteller

        foretold = foreteller()
    print(f"study {name}: {len(work.runs)} runs on {count} workers; stages as they end:", file=sys.stderr)
    outcome = conduct.run(work, executor=executor, workers=count, foreteller=foretold)
    failed = conduct.failures(work, outcome)
    document = {"study": name, "folder": str(work.folder), "runs": len(work.runs), "failed": dict(failed)}
    emit(document) if json_ else print(run_text(document))
    raise typer.Exit(1 if failed else 0)


@app.command()
@options_of(work_of, "work")
def status(work: Work, json_: Json = False) -> None:
    """Show which runs are finished and which results there are. Example: mopd study status order"""
    from studies.framework import conduct

    found = conduct.status(work)
    emit(found) if json_ else print(status_text(found))


@app.command()
def fit(
    name: Annotated[str | None, typer.Argument(help="A name of `mopd study list`.")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Every study that was run, one calibration, and the held-out test.")
    ] = False,
    ship: Annotated[
        bool, typer.Option("--ship", help="Make the calibration of --all the one that forecasts use.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the held-out test of --all to studies/results/held_out.")
    ] = False,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out", help="With --report: refit without each strategy, and without each contest."
        ),
    ] = False,
    as_shipped: Annotated[
        bool, typer.Option("--as-shipped", help="With --all: judge the calibration that ships, fit nothing.")
    ] = False,
    out: Out = OUT,
    scale: Scale = 1.0,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Analyse committed observations and write calibration.json. Example: mopd study fit --all --json

    --all also fits one calibration to all runs that were not held out and judges it on those that were. It writes the
    studies' calibration.json only with --ship.
    """
    from mopdsim.base.errors import UsageError
    from studies.framework import conduct
    from studies.framework.registry import LISTED

    if (name is None) != all_:
        raise UsageError("fit: name one study, or give --all")
    if (not all_ and (ship or report)) or (leave_out and not report):
        raise UsageError("fit: --ship and --report go with --all, --leave-out with --report")
    if as_shipped and (not all_ or ship or leave_out):
        raise UsageError(
            "fit: --as-shipped goes with --all, and fits nothing that --ship or --leave-out could use"
        )
    names = LISTED if name is None else (name,)
    works = [conduct.named(each, out=out, scale=scale, quick=quick) for each in names]
    fitted = {
        work.study.name: conduct.fit(work, write=ship or not all_)
        for work in works
        if name or conduct.files(work)["observations.csv"]
    }
    document: dict[str, Any] = {"studies": fitted}
    if all_:
        from studies.honest.report import fit_all

        folders = {work.study.name: work.folder for work in works}
        place = works[0].folder.parent / "held_out" if report else None
        document |= fit_all(folders, ship=ship, folder=place, leave_out=leave_out, anew=not as_shipped)
    emit(document) if json_ else print(fit_text(document))


@app.command()
@options_of(work_of, "work", without=["device"])
def report(work: Work, json_: Json = False) -> None:
    """Write the report and its charts from the observations; of a retired study name those that there are.

    Example: mopd study report order
    """
    from studies.framework import conduct

    judge: conduct.Judge | None = None
    if work.study.foretells:
        from studies.honest.prospective import judged

        judge = partial(judged, failures_count=work.study.failures_count)
    files = [str(path) for path in conduct.write_report(work, judge=judge)]
    emit({"files": files}) if json_ else print("\n".join(files))


@app.command()
def validation(
    decode: Annotated[Path | None, typer.Option(help="Decode measurements (CSV); they do not ship.")] = None,
    json_: Json = False,
) -> None:
    """Validate every model of the simulator and write studies/results/validation. Example: mopd study validation"""
    from studies.honest.validation import freeze

    files = [str(path) for path in freeze(decode=decode)]
    emit({"files": files}) if json_ else print("\n".join(files))


def _workers(workers: int | None, device: str) -> int:
    from trainer.runs.execute import default_workers

    return workers or default_workers(device)


@app.command()
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
    out: Stages = Path("runs/compare"),
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Run recipes for real, at one common budget of training FLOPs, and print the forecast beside what was measured.

    Resumes. Writes OUT/compare.json. Example: mopd study compare --all --model tiny --scale 0.1
    """
    from mopdsim.base.errors import UsageError
    from mopdsim.forecast.compare import DOMAINS, RECIPES
    from studies.designs.systems.compare import comparable, compare_text, run_compare
    from studies.designs.systems.side_by_side import engine
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


@app.command()
def overoptimisation(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    scale: Annotated[float, typer.Option(help="Factor on PPO's steps.")] = 1.0,
    out: Stages = Path("runs/overoptimisation"),
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """True reward against the square root of KL, for PPO and best-of-n against one reward model. About ten minutes.

    Writes OUT/overoptimisation.json. Example: mopd study overoptimisation
    """
    from studies.designs.systems.overoptimisation import PPO, overoptimisation_text, run_overoptimisation
    from studies.designs.systems.side_by_side import engine

    result = run_overoptimisation(seeds=range(seeds), ppo=PPO.scaled(scale), engine=engine(out, workers))
    _told(result, out / "overoptimisation.json", overoptimisation_text, json_)


def _told(result: dict[str, Any], path: Path, text: Callable[[Mapping[str, Any]], str], json_: bool) -> None:
    """Keep the document and print it, or its text."""
    from trainer.files.atomic import write_json

    write_json(path, result)
    emit(result) if json_ else print(text(result))


def ledger_text(study: Study, record: Mapping[str, Any], found: Ledger, workers: int) -> str:
    """The prediction on record and the ledger in cut order."""
    began = f", first run {record['first_run']}" if record["first_run"] else ""
    shared = found.stages_in_all - found.distinct_stages
    lines = [
        f"{study.name}: {study.question}",
        f"prediction of {record['written']}{began}, sha256 {record['sha256'][:16]}: {study.prediction.text}",
        f"observed: {study.observed}",
        f"held out: {study.held_out}",
        "",
        f"{'run, first to drop first':<44} {'stages':>6} {'own':>4} {'seconds':>8} {'saves':>7}",
    ]
    for row in found.rows:
        mark = "  held out" if row.held_out else ""
        lines.append(
            f"{row.run:<44} {row.stages:>6} {row.own_stages:>4} {row.seconds:8.1f} {row.saves:7.1f}{mark}"
        )
    lines += [
        "",
        f"{len(found.rows)} runs, {found.stages_in_all} stages, {found.distinct_stages} distinct ({shared} shared), "
        f"{found.finished_stages} finished",
        f"{found.seconds:.0f} s of one worker in all, {found.left_seconds:.0f} s left: about "
        f"{found.left_seconds / workers / 60:.1f} min on {workers} workers",
    ]
    if found.by_rule:
        lines.append(
            f"no stage in the store yet, so at the pace of another machine: {', '.join(found.by_rule)}"
        )
    return "\n".join(lines)


def run_text(document: Mapping[str, Any]) -> str:
    """What a run of a study came to."""
    failed = document["failed"]
    lines = [
        f"{document['runs'] - len(failed)} of {document['runs']} runs finished; observations in {document['folder']}"
    ]
    lines += [f"failed: {name}: {why.strip().splitlines()[-1]}" for name, why in failed.items()]
    return "\n".join(lines)


def status_text(found: Mapping[str, Any]) -> str:
    """Each run's stages, and the files there are."""
    lines = [
        f"{name:<44} {row['finished']:>3}/{row['stages']:<3}{'  held out' if row['held_out'] else ''}"
        for name, row in found["runs"].items()
    ]
    there = [name for name, exists in found["files"].items() if exists]
    lines.append(
        f"{found['finished']} of {len(found['runs'])} runs finished, {found['left_seconds']:.0f} s of one worker left; "
        f"there are: {', '.join(there) or 'no results'}"
    )
    return "\n".join(lines)


def fit_text(document: Mapping[str, Any]) -> str:
    """Quantities of the studies; of all together the fit and the honest test."""
    lines = [
        f"{study:<14} {quantity:<40} {row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        for study, found in document["studies"].items()
        for quantity, row in found["quantities"].items()
    ]
    if "fit" in document:
        about = document["fit"]
        seconds = "" if about["seconds"] is None else f", {about['seconds']:.1f} s"
        lines += [
            f"fitted: {about['runs']} runs, {about['observations']} observations{seconds}; "
            f"{'the calibration that ships' if about['is_shipped'] else 'not the calibration that ships'}",
            *(f"not fitted: {study}: {why}" for study, why in about["left_out"].items()),
        ]
    for key, value in document.get("held_out", {}).items():
        if isinstance(value, Mapping):
            shown = ", ".join(f"{name} {_short(found)}" for name, found in value.items())
            lines.append(f"held out: {key}: {shown}")
        else:
            lines.append(f"held out: {key:<36} {_short(value)}")
    return "\n".join([*lines, *document.get("files", ())])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_short(found)}" for name, found in value.items()) + ")"
    if isinstance(value, list):
        return " to ".join(map(_short, value))
    return str(value)
