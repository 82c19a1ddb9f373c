"""`mopd demo`: the demonstration as a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from mopdsim.cli.flags import Json, RunSeed, Workers, emit

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def demo(
    seed: RunSeed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where stages are kept [default: runs/demo-SEED, of a real model runs/demo-MODEL-SEED]."
        ),
    ] = None,
    workers: Workers = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one worker.")] = 1,
    model: Annotated[
        str, typer.Option(help="tiny, or a real model: smollm2-135m, a directory, or a hub id.")
    ] = "tiny",
    json_: Json = False,
) -> None:
    """Watch multi-teacher on-policy distillation and its rivals happen, from random weights or on a small open model.

    Trains a start, one RL specialist a domain, a student distilled from them on its own samples, and three rivals at
    matched compute. It first says how long that takes. Interrupt it at any time: the same command goes on.
    Example: mopd demo --model smollm2-135m
    """
    from studies.designs.systems.demo import run_demo
    from studies.designs.systems.side_by_side import engine
    from studies.framework.run import sizes_of

    sizes_of(model)  # whether it is there
    print(f"demo on {model}, seed {seed}", file=sys.stderr)
    name = f"demo-{seed}" if model == "tiny" else f"demo-{Path(model).name}-{seed}"
    where = engine(out or Path("runs") / name, workers)
    result = run_demo(model=model, seed=seed, threads=threads, engine=where)
    emit(result) if json_ else _print(result)


def _print(result: dict[str, Any]) -> None:
    """What was measured, the simulator's forecast beside it, and the end."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(measured(result))
    console.print(forecast(result))
    print(result["finding"])
    print(
        "TFLOP and seconds of a recipe count its specialists, which several share and which were trained once: "
        f"{result['seconds']:.0f} s in all, {result['workers']} worker(s) of {result['threads']} thread(s)."
    )


def measured(result: dict[str, Any]) -> Table:
    """Start, specialists and students: each cell temperature 1, of a real model / greedy too."""
    from studies.designs.systems.demo import LABELS

    prompts, asked = result["prompts"], f"{result['prompts']['t1']} x {result['samples_per_prompt']}"
    greedy = bool(prompts["greedy"])
    shown = f"temperature {result['temperature']:g}" + " / greedy" * greedy
    counts = f"{asked}, {prompts['greedy']}" if greedy else asked
    title = f"{result['model']}, seed {result['seed']}: {shown} ({counts} answers to test prompts)"
    table = _table(
        title, result, "greedy gains recovered" if greedy else "gains recovered", "TFLOP", "seconds"
    )

    def cells(scores: dict[str, Any], side: str) -> list[str]:
        found = (_figures(row[side]) for row in scores.values())
        return [" / ".join(f"{row[key]:.2f}" for key in ("t1", "greedy") if key in row) for row in found]

    scores = result["recipes"]["mopd"]["scores"]
    table.add_row("start", *cells(scores, "start"), "", "", f"{result['start_seconds']:.0f}")
    table.add_row("own specialist", *cells(scores, "teacher"))
    for name, row in result["recipes"].items():
        flops = f"{row['flops'] / 1e12:.{1 if greedy else 3}f}"
        costs = (f"{row['recovery']:.0%} ±{row['recovery_se']:.0%}", flops, f"{row['seconds']:.0f}")
        table.add_row(LABELS[name], *cells(row["scores"], "student"), *costs)
    return table


def forecast(result: dict[str, Any]) -> Table:
    """What the simulator says of a recipe whose base nobody scored, what was measured beside it, and of the seconds
    where it was asked."""
    from studies.designs.systems.demo import LABELS

    timed = "seconds" in result["recipes"]["mopd"]["forecast"]
    title = "forecast P10 to P90 (measured) at temperature 1, told nothing of this run"
    table = _table(title, result, *(["seconds"] if timed else []))
    for name, row in result["recipes"].items():
        told = row["forecast"]
        cells = [
            f"{told['scores'][d]['p10']:.2f} to {told['scores'][d]['p90']:.2f} ({_figures(found['student'])['t1']:.2f})"
            for d, found in row["scores"].items()
        ]
        if timed:
            seconds = told["seconds"]
            cells.append(f"{seconds['p10']:.0f} to {seconds['p90']:.0f} ({row['seconds']:.0f})")
        table.add_row(LABELS[name], *cells)
    return table


def _figures(score: dict[str, float] | float) -> dict[str, float]:
    """By name; a number alone is at temperature 1."""
    return score if isinstance(score, dict) else {"t1": score}


def _table(title: str, result: dict[str, Any], *more: str) -> Table:
    """Whole names, in a narrow window on several lines."""
    table = Table(Column("", overflow="fold"), title=title)
    for heading in (*result["domains"], *more):
        table.add_column(heading, justify="right", overflow="fold")
    return table
