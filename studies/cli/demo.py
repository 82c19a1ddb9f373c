"""`mopd demo`: the demonstration as a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mopdsim.cli.flags import Json, RunSeed, Workers, emit

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def demo(
    seed: RunSeed = 0,
    out: Annotated[Path | None, typer.Option(help="Where stages are kept [default: runs/demo-SEED].")] = None,
    workers: Workers = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one worker.")] = 1,
    model: Annotated[
        str | None,
        typer.Option(help="A real model in tiny's place: smollm2-135m, a directory, or a hub id."),
    ] = None,
    json_: Json = False,
) -> None:
    """Watch multi-teacher on-policy distillation and its rivals happen, from random weights.

    Trains a base, one RL specialist a domain, a student distilled from them on its own samples, and three rivals at
    matched compute. Interrupt it at any time: the same command goes on. Examples: mopd demo --seed 1
    mopd demo --model smollm2-135m
    """
    from studies.designs.systems.demo import run_demo
    from studies.designs.systems.real_demo import run_real_demo
    from studies.designs.systems.side_by_side import engine

    print(f"demo (seed {seed})", file=sys.stderr)
    name = f"demo-{seed}" if model is None else f"demo-{Path(model).name}-{seed}"
    where = engine(out or Path("runs") / name, workers)
    if model is None:
        result = run_demo(seed=seed, threads=threads, engine=where)
    else:
        result = run_real_demo(model=model, seed=seed, threads=threads, engine=where)
    if json_:
        emit(result)
    elif model is None:
        _print(result)
    else:
        _print_tables(real_table(result), _forecast(result, lambda row: row["student"]["t1"]))
        _print_end(result)


def real_table(result: dict[str, Any]) -> Table:
    """A real model's start, specialists and students: each cell temperature 1 / greedy / pass@8."""
    from studies.designs.systems.demo import LABELS

    prompts, samples = result["prompts"], result["samples_per_prompt"]
    title = (
        f"{result['model']}, seed {result['seed']}: temperature {result['temperature']:g} / greedy / pass@8 "
        f"({prompts['t1']} x {samples}, {prompts['greedy']}, {prompts['t1']} x {samples} answers to test prompts)"
    )
    table = _table(title, "", result, "greedy gains recovered", *COSTS)

    def cells(scores: dict[str, Any], side: str) -> list[str]:
        return ["{t1:.2f} / {greedy:.2f} / {pass8:.2f}".format(**row[side]) for row in scores.values()]

    scores = result["recipes"]["mopd"]["scores"]
    table.add_row("start", *cells(scores, "start"), "", "", "", f"{result['start_seconds']:.0f}")
    table.add_row("own specialist", *cells(scores, "teacher"))
    for name, row in result["recipes"].items():
        table.add_row(LABELS[name], *cells(row["scores"], "student"), *_costs(row, digits=1))
    return table


COSTS = ("TFLOP in all", "student alone", "seconds")


def _table(title: str, first: str, result: dict[str, Any], *more: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for heading in (*result["domains"], *more):
        table.add_column(heading, justify="right")
    return table


def _costs(row: dict[str, Any], *, digits: int) -> tuple[str, ...]:
    """What was recovered, and the columns of `COSTS`."""
    flops = (f"{row[key] / 1e12:.{digits}f}" for key in ("flops", "flops_student_alone"))
    return (f"{row['recovery']:.0%} ±{row['recovery_se']:.0%}", *flops, f"{row['seconds']:.0f}")


def _print(result: dict[str, Any]) -> None:
    """What was measured, the simulator's forecast beside it, and the end."""
    from studies.designs.systems.demo import LABELS

    title = f"start / own teacher / student, pass rate on {result['test_items']} test prompts a domain"
    measured = _table(title, "recipe", result, "headroom recovered", *COSTS)
    for name, row in result["recipes"].items():
        cells = [
            f"{side['start']:.2f} / {side['teacher']:.2f} / {side['student']:.2f}"
            for side in row["scores"].values()
        ]
        measured.add_row(LABELS[name], *cells, *_costs(row, digits=3))
    _print_tables(measured, _forecast(result, lambda row: row["student"]))
    _print_end(result)


def _forecast(result: dict[str, Any], measured: Callable[[dict[str, Any]], float]) -> Table:
    """What the simulator says of a recipe whose base nobody scored, `measured` of a domain's row beside it, and of
    the seconds where it was asked."""
    from studies.designs.systems.demo import LABELS

    timed = "seconds" in result["recipes"]["mopd"]["forecast"]
    table = _table("forecast P10 to P90 (measured)", "recipe", result, *(["seconds"] if timed else []))
    for name, row in result["recipes"].items():
        told = row["forecast"]
        cells = [
            f"{told['scores'][d]['p10']:.2f} to {told['scores'][d]['p90']:.2f} ({measured(found):.2f})"
            for d, found in row["scores"].items()
        ]
        if timed:
            seconds = told["seconds"]
            cells.append(f"{seconds['p10']:.0f} to {seconds['p90']:.0f} ({row['seconds']:.0f})")
        table.add_row(LABELS[name], *cells)
    return table


def _print_tables(*tables: Table) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables:
        console.print(table)


def _print_end(result: dict[str, Any]) -> None:
    print(result["finding"])
    print(f"{result['seconds']:.0f} s on {result['workers']} workers of {result['threads']} thread(s).")
