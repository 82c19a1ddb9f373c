"""The verbs `mopd export`, `mopd import` and `mopd check-step`, which says whether one measured step is normal. Leaves
out: all of the work (`mopdsim.exchange`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mopdsim.base.errors import UsageError
from mopdsim.cli.flags import (
    Json,
    Keys,
    emit,
    listed,
    new_file,
    published_scenario,
    scenario_flags,
    scenario_of,
)

if TYPE_CHECKING:
    from mopdsim.exchange.engines.parts import Job, Request
    from mopdsim.forecast.scenario import Scenario


@scenario_flags(without=["teams", "budget", "deadline", "draws", "stack", "measured"])
def export(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|PLAN", help="A name of `mopd recipes`, a recipe file or a plan.")
    ],
    to: Annotated[
        str, typer.Option(help="Engines, comma-separated; a stage goes to the first that has its kind.")
    ] = "verl,mergekit",
    out: Annotated[Path | None, typer.Option(help="A new folder [default: nothing is written].")] = None,
    *,
    keys: Keys,
    weights: Annotated[
        str | None,
        typer.Option(
            help="What the engine loads: a directory or a Hub name [default: --model, if a directory]."
        ),
    ] = None,
    smaller_weights: Annotated[
        str | None, typer.Option(help="Likewise for the smaller model, of a recipe that has one.")
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(help="A TOML file: each domain's data, reward and agent, where they are yours."),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Where a loss is missing take the engine's nearest, and say so."),
    ] = False,
    stages: Annotated[str | None, typer.Option(help="Only these stages, comma-separated.")] = None,
    changed: Annotated[
        str | None, typer.Option(help="Print what must run again when this domain or stage changes.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write a recipe or a plan as configurations, scripts and data specifications of other engines.

    Engines: verl, trl, nemo-rl, mergekit. What an engine cannot say is refused by name; what differs is printed.

    Example: mopd export mopd --domains sort,reverse --to trl,mergekit --model models/tiny --out exported
    """
    from mopdsim.exchange import export as exchange

    scenario = published_scenario(recipe, keys) or scenario_of(recipe, keys)
    if changed is not None:
        names = exchange.changed(scenario.recipe, changed)
        if json_:
            return emit({"changed": changed, "rerun": list(names)})
        print(f"{changed} changed: {len(names)} of {len(scenario.recipe.stages)} stages must run again")
        for line in exchange.to_rerun(scenario.recipe, changed):
            print(f"  {line}")
        return None
    engines = exchange.known_engines(listed(to, "to"))
    request = replace(
        request_of(scenario, weights or _directory(keys.get("model")), smaller_weights, tasks),
        seed=keys.get("seed", 0),
        approximate=approximate,
    )
    jobs = exchange.jobs_of(request, engines, listed(stages, "stages"))
    if out is not None:
        exchange.write(out, request, jobs)
    if json_:
        return emit(
            {"out": None if out is None else str(out), "jobs": [exchange.described(job) for job in jobs]}
        )
    print(_exported(request, jobs, out))
    return None


def request_of(
    scenario: Scenario, weights: str | None, smaller_weights: str | None, tasks: Path | None
) -> Request:
    """The request that flags describe. UsageError where no weights are named."""
    from mopdsim.exchange.engines.parts import Request
    from mopdsim.exchange.tasks import read_tasks, tasks_of
    from mopdsim.recipes.stage import BASE, SMALLER

    named = {BASE: ("--weights", weights), SMALLER: ("--smaller-weights", smaller_weights)}
    found = {}
    for root in scenario.recipe.roots:
        flag, value = named[root]
        if value is None:
            raise UsageError(
                f"{flag} is missing: {scenario.model_of(root)!r} is a name of our table, and an engine loads weights: "
                f"give a directory or a Hub name"
            )
        found[root] = str(Path(value).resolve()) if Path(value).is_dir() else value
    return Request(scenario=scenario, weights=found, tasks=tasks_of(scenario.domains, read_tasks(tasks)))


def _directory(model: str | None) -> str | None:
    return model if model is not None and Path(model).is_dir() else None


def _exported(request: Request, jobs: list[Job], out: Path | None) -> str:
    """What was written, for people: a line a stage, then what differs, each sentence once with its stages."""
    where = "checked, nothing written (give --out)" if out is None else f"written to {out}"
    lines = [f"{request.recipe.name}: {len(jobs)} stages, {where}"]
    differs: dict[str, list[str]] = {}
    for job in jobs:
        size = f"{job.gpus} GPUs" if job.gpus > 1 else "one process"
        lines.append(f"  {job.stage:<20} {request.recipe.stage[job.stage].kind:<10} {job.engine:<9} {size}")
        for sentence in job.differs:
            differs.setdefault(sentence, []).append(job.stage)
    for sentence, names in differs.items():
        who = ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
        lines.append(f"differs ({who}): {sentence}")
    return "\n".join(lines)


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A log, a folder of logs, or an export that was run.")
    ],
    manifest: Annotated[
        Path | None, typer.Option(help="Of the export that made the log [default: the one around PATH].")
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option(help="A scenario (TOML), where there is no manifest.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="The stage that the log is of.")] = None,
    engine: Annotated[
        str, typer.Option(help="verl, nemo-rl, trl, tinker or prime-rl [default: told by the keys].")
    ] = "auto",
    out: Annotated[
        Path | None,
        new_file("A CSV for `mopd calibrate cost`; steps and scores go beside it."),
    ] = None,
    json_: Json = False,
) -> None:
    """Read the logs of another engine: steps, phases, lengths, scores, beside what the forecast says.

    Reads JSON lines, TensorBoard event files, trainer_state.json and console output. What is left out is counted.

    Example: mopd import exported --out observations.csv
    """
    from mopdsim.exchange import importing

    context = importing.context_of(path, manifest, scenario)
    runs = importing.imported(path, context, engine=engine, stage=stage)
    totals = importing.totals_of(runs, context.scenario)
    written = [] if out is None else importing.write(out, runs, context)
    if json_:
        shown = [run.to_document() for run in runs]
        return emit({"runs": shown, "totals": totals, "written": [str(file) for file in written]})
    print(importing.text_of(runs, totals))
    for file in written:
        print(f"written: {file}")
    return None


Seconds = float | None
FLAGS = {
    "model": "--model", "gpu": "--gpu", "gpus": "--gpus", "mean_tokens": "--mean-tokens",
    "max_tokens": "--max-tokens", "samples_per_step": "--samples", "step_s": "--step-seconds",
    "generation_s": "--generation-seconds", "old_logprob_s": "--logprob-seconds", "update_s": "--training-seconds",
    "mode": "--mode", "precision": "--precision",
}  # fmt: skip


def check_step(
    model: Annotated[str | None, typer.Option(help="A name of `mopd models`, or a config.json.")] = None,
    gpu: Annotated[str | None, typer.Option(help="A name of `mopd gpus`.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of the run.")] = None,
    mean_tokens: Annotated[Seconds, typer.Option(help="Mean response length.")] = None,
    samples: Annotated[Seconds, typer.Option(help="Samples of one step.")] = None,
    step_seconds: Annotated[Seconds, typer.Option(help="What one step took.")] = None,
    max_tokens: Annotated[
        Seconds, typer.Option(help="Longest response [default: three times the mean].")
    ] = None,
    generation_seconds: Annotated[Seconds, typer.Option(help="Of which generation.")] = None,
    logprob_seconds: Annotated[Seconds, typer.Option(help="Of which log-probabilities.")] = None,
    training_seconds: Annotated[Seconds, typer.Option(help="Of which the update.")] = None,
    mode: Annotated[str, typer.Option(help="On policy, 1-step off, fully async 16:16.")] = "On policy",
    precision: Annotated[str, typer.Option(help="bf16 or fp8.")] = "bf16",
    stack: Annotated[str, typer.Option(help="megatron, verl, fsdp, hugging_face or unknown.")] = "unknown",
    measured: Annotated[Path | None, typer.Option(help="Your own stack, from `mopd calibrate cost`.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A CSV with the columns of rl_steps.csv: every row is checked.")
    ] = None,
    json_: Json = False,
) -> None:
    """Say whether a step of reinforcement learning takes as long as it should, and which phase does not.

    Example: mopd check-step --model Qwen3-8B --gpu H100 --gpus 32 --mean-tokens 3000 --samples 1024 --step-seconds 231
    """  # fmt: skip
    from mopdsim.cost.constants import read_measured
    from mopdsim.cost.constants import stack as known
    from mopdsim.exchange.check_step import check, text

    name, factor = (stack, None) if measured is None else read_measured(measured)
    software = known(name) if factor is None else known(name).measured(*factor)
    if data is not None:
        return _checked_table(data, software, json_)
    row = {
        "model": model, "gpu": gpu, "gpus": gpus, "mean_tokens": mean_tokens, "max_tokens": max_tokens,
        "samples_per_step": samples, "step_s": step_seconds, "mode": mode, "precision": precision,
        "generation_s": generation_seconds, "old_logprob_s": logprob_seconds, "update_s": training_seconds,
    }  # fmt: skip
    for key in ("model", "gpu", "gpus", "mean_tokens", "samples_per_step", "step_s"):
        if row[key] is None:
            raise UsageError(f"{FLAGS[key]} is missing: give it, or a table with --data FILE")
    given = {key: "" if value is None else str(value) for key, value in row.items()}
    found = check(given, software, FLAGS.__getitem__)
    emit(found) if json_ else print(text(found))


def _checked_table(data: Path, software: Any, json_: bool) -> None:
    """Checks every complete row of a table; the others are named with what they lack."""
    from mopdsim.exchange.check_step import check, text
    from mopdsim.validate.rl_rows import COLUMNS, NEEDED, OPTIONAL_COLUMNS
    from mopdsim.validate.tables import read_rows

    rows: list[dict[str, Any]] = []
    lacking: list[dict[str, Any]] = []
    for line, row in read_rows(data, COLUMNS, OPTIONAL_COLUMNS):
        missing = [name for name in NEEDED if not row[name]]
        if missing:
            lacking.append({"line": line, "missing": missing})
            continue
        rows.append({"line": line, **check(row, software, f"line {line}: {{}}".format)})
    if not rows and not lacking:
        raise UsageError(f"data file {str(data)!r} has no rows")
    if json_:
        return emit({"rows": rows, "incomplete": lacking})
    for found in rows:
        print(f"line {found['line']}: {text(found)}")
    for entry in lacking:
        print(f"line {entry['line']}: not checked without {', '.join(entry['missing'])}")
