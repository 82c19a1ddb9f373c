"""The verb `mopd check-step`: whether one measured step is normal. Leaves out: the judgement
(`mopdsim.exchange.check_step`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mopdsim.base.errors import UsageError
from mopdsim.cli.flags import Json, emit

Seconds = float | None
FLAGS = {
    "max_tokens": "--max-tokens", "samples_per_step": "--samples", "step_s": "--step-seconds",
    "generation_s": "--generation-seconds", "logprob_s": "--logprob-seconds", "training_s": "--training-seconds",
    "gpus": "--gpus", "mean_tokens": "--mean-tokens",
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
    from mopdsim.cost.stacks import read_measured
    from mopdsim.cost.stacks import stack as known
    from mopdsim.exchange.check_step import check, text

    name, factor = (stack, None) if measured is None else read_measured(measured)
    software = known(name) if factor is None else known(name).measured(*factor)
    if data is not None:
        return _table(data, software, json_)
    needed = {
        "model": model, "gpu": gpu, "gpus": gpus, "mean_tokens": mean_tokens, "samples": samples,
        "step_seconds": step_seconds,
    }  # fmt: skip
    for key, value in needed.items():
        if value is None:
            raise UsageError(f"--{key.replace('_', '-')} is missing: give it, or a table with --data FILE")
    row = {
        "model": model, "gpu": gpu, "gpus": gpus, "mean_tokens": mean_tokens, "max_tokens": max_tokens,
        "samples_per_step": samples, "step_s": step_seconds, "mode": mode, "precision": precision,
        "generation_s": generation_seconds, "logprob_s": logprob_seconds, "training_s": training_seconds,
    }  # fmt: skip
    given = {key: "" if value is None else str(value) for key, value in row.items()}
    found = check(given, software, FLAGS.__getitem__)
    emit(found) if json_ else print(text(found))


def _table(data: Path, software: Any, json_: bool) -> None:
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
        phases = {"logprob_s": row.get("old_logprob_s", ""), "training_s": row.get("update_s", "")}
        rows.append({"line": line, **check({**row, **phases}, software, f"line {line}: {{}}".format)})
    if not rows and not lacking:
        raise UsageError(f"data file {str(data)!r} has no rows")
    if json_:
        return emit({"rows": rows, "incomplete": lacking})
    for found in rows:
        print(f"line {found['line']}: {text(found)}")
    for entry in lacking:
        print(f"line {entry['line']}: not checked without {', '.join(entry['missing'])}")
