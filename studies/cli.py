"""`mopd study ...`: the world gate (the calibration studies are to come)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Studies that run recipes for real.",
)


@app.callback()
def study() -> None:
    """Studies that run recipes for real."""


@app.command()
def gate(
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds.")] = 3,
    out: Annotated[Path, typer.Option(help="Where stages are kept.")] = Path("runs/gate"),
    workers: Annotated[int | None, typer.Option(help="Stages side by side [default: one a core].")] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Check that the tiny suite can tell recipes apart (about half an hour; resumes). Example: mopd study gate

    Writes OUT/gate.json; exits 1 where a check fails.
    """
    from mopdsim.commands import emit
    from studies.gate import run_gate
    from trainer.atomic import write_json
    from trainer.execute import Progress, default_workers
    from trainer.store import Store

    print(f"gate on {seeds} seeds into {out}; stages as they finish:", file=sys.stderr)
    result = run_gate(
        seeds=range(seeds),
        store=Store(root=out / "store"),
        workers=workers or default_workers("cpu"),
        progress=Progress(),
    )
    write_json(out / "gate.json", result)
    emit(result) if json_ else _print(result)
    raise typer.Exit(0 if result["passed"] else 1)


@app.command()
def validation(
    decode: Annotated[Path | None, typer.Option(help="Decode measurements (CSV); they do not ship.")] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Validate every model of the simulator and write studies/results/validation. Example: mopd study validation"""
    from mopdsim.commands import emit
    from studies.validation import freeze

    files = [str(path) for path in freeze(decode=decode)]
    emit({"files": files}) if json_ else print("\n".join(files))


def _print(result: dict[str, Any]) -> None:
    for domain, row in result["suite"].items():
        verdict = "ok" if row["passed"] else "MISSED"
        print(f"{domain:<12} start {row['start']:.2f}  teacher {row['teacher']:.2f}  {verdict}")
    for name, row in result["interference"].items():
        print(f"{name:<12} K {row['mean']:+.2f} ±{row['se']:.2f}")
    for factor, row in result["mean_score_by_budget"].items():
        shown = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"budget x{factor:<5} {shown}  spread {result['spread'][factor]:.3f}")
    for name, passed in result["checks"].items():
        print(f"{name:<20} {'passed' if passed else 'FAILED'}")
