"""What a training loop goes on from: checkpoints, and metrics.jsonl cut back to where the checkpoint left it.

A checkpoint is the model, the optimizer and a small JSON state, atomic and verified. All randomness of a loop is
derived from (stage key, step), so no generator state has to be saved: the step, the data cursors and the loop's own
memory are the whole of it. `load_latest` takes the newest checkpoint that verifies. Leaves out: what the rows of the
log hold (the loops) and the run's own copy of them (`trainer.runs.run`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mopdsim.base.errors import DivergenceError, MopdError
from trainer.files.atomic import atomic_directory, explained, sweep, verified

KEEP = 2


def save(
    directory: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write checkpoint `step` below `directory` and drop all but the newest two."""
    with atomic_directory(directory / f"step_{step:08d}") as partial:
        save_file(_tensors(model), partial / "model.safetensors")
        _save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "state.json").write_text(json.dumps({**state, "step": step}, sort_keys=True))
    for old in _newest_first(directory)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def load_latest(
    directory: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put the newest sound checkpoint into model and optimizer and return its state; None where there is none."""
    sweep(directory)
    for checkpoint in _newest_first(directory):
        if verified(checkpoint):
            model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
            optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
            state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
            return state
    return None


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # how its file writer says that the disk is full
        raise OSError(str(error)) from error


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step_*"), reverse=True)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are trained, tied ones once (a loaded model has them tied again), and the buffers that are
    saved."""
    named = {
        id(tensor): (name, tensor)
        for name, tensor in reversed(list(model.state_dict(keep_vars=True).items()))
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }
    return {name: tensor.detach().contiguous().cpu() for name, tensor in named.values()}


class Log:
    """An open metrics.jsonl of which the first `keep` bytes are kept; one of a process that `writes` not is empty."""

    def __init__(self, path: Path, *, keep: int = 0, writes: bool = True) -> None:
        self.path = path
        with explained(path):
            if not writes:
                self.file: IO[bytes] = BytesIO()
                return
            self.file = path.open("r+b" if path.exists() else "w+b")
            found = self.file.seek(0, os.SEEK_END)
            if found < keep:
                self.file.close()
                raise MopdError(
                    f"{path}: holds {found} bytes where the checkpoint left {keep}: it was changed; "
                    f"remove {path.parent} to run the stage again"
                )
            self.file.truncate(keep)
            self.file.seek(keep)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row. DivergenceError where it holds a number that is not finite."""
        try:
            line = json.dumps(row, allow_nan=False)
        except ValueError as error:
            raise DivergenceError(
                f"{self.path}: step {row.get('step')}, {row.get('kind')}: a metric is not finite ({error}): "
                "the last good checkpoint is kept; lower learning_rate and run again"
            ) from None
        with explained(self.path):
            self.file.write(line.encode() + b"\n")
            self.file.flush()

    def size(self) -> int:
        """Bytes written, all of them on disk."""
        with explained(self.path):
            if not isinstance(self.file, BytesIO):
                os.fsync(self.file.fileno())
        return self.file.tell()
