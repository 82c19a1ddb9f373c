"""`mopd study timing | ladder`: what wants a GPU, in calls of a few minutes that go on where the last one ended.

Leaves out: what is measured (`studies.designs.size.timing`) and run (`studies.designs.size.ladder`).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from mopdsim.cli.flags import Device, Workers


def timing(
    shape: Annotated[str, typer.Option(help="tiny, 5M, 25M, 100M, 0.6B, 1.7B or 4B.")] = "tiny",
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="The measurements (CSV); what it holds is not repeated.")] = Path(
        "runs/timing.csv"
    ),
    seconds: Annotated[float, typer.Option(min=0, help="Begin no measurement after so many seconds.")] = 420,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be measured.")] = False,
) -> None:
    """Time a GRPO step of a model shape, phase by phase. Example: mopd study timing --shape 0.6B --device cuda

    The file can be read by `mopd calibrate cost --data FILE`.
    """
    from studies.designs.size.timing import cells, measure_cells

    if dry_run:
        for cell in cells(shape):
            print(
                f"{shape}: {cell.samples} samples of {cell.tokens} tokens, {cell.flops / 1e12:.3g} TFLOP a step, at "
                f"least {cell.least_bytes / 1e9:.3g} GB"
            )
        return
    dtype = "float32" if device == "cpu" else "bfloat16"
    left = measure_cells(shape, out=out, device=device, dtype=dtype, seconds=seconds)
    print(f"{out}: {left} measurements of {shape} left" + ("; the same command goes on" if left else ""))


def ladder(
    rung: Annotated[str, typer.Option(help="5M, 25M, 100M or 0.6B.")] = "5M",
    device: Device = "cpu",
    scale: Annotated[float, typer.Option(help="Factor on every stage's steps and FLOPs.")] = 1.0,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so long [default: when done].")
    ] = None,
    workers: Workers = None,
    out: Annotated[Path, typer.Option(help="Where stages are kept, shared by all studies.")] = Path(
        "runs/studies"
    ),
) -> None:
    """Make the base of a rung and run it. Example: mopd study ladder --rung 25M --device cuda --minutes 9

    The same command goes on where it was stopped (it then exits 75). plan, status, fit and report know a rung that is
    more than two steps as the study ladder-RUNG.
    """
    from studies.designs.size.ladder import model_directory, study_of
    from studies.designs.size.shapes import write
    from studies.framework import conduct
    from trainer.runs.execute import default_workers

    study, base = study_of(rung), Path(model_directory(rung))
    if not (base / "config.json").is_file():
        print(f"{base}: random weights of {rung}", file=sys.stderr)
        write(rung, base)
    work = conduct.Work(study=study, out=out, scale=scale, device=device)
    if minutes is not None:
        signal.signal(signal.SIGALRM, lambda signum, frame: signal.raise_signal(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        outcome = conduct.run(work, executor="local", workers=workers or default_workers(device))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    failed = conduct.failures(work, outcome)
    for name, why in failed.items():
        print(f"failed: {name}: {why.strip().splitlines()[-1]}", file=sys.stderr)
    print(f"{len(work.runs) - len(failed)} of {len(work.runs)} runs finished; observations in {work.folder}")
    raise typer.Exit(1 if failed else 0)


MEASURING = (timing, ladder)
