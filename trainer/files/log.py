"""metrics.jsonl of a stage: one JSON row a line, cut back to where the checkpoint left it when the stage goes on.

Leaves out: what the rows hold (the loops) and the run's own copy of them (`trainer.runs.run`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from mopdsim.base.errors import DivergenceError, MopdError
from trainer.files.atomic import explained


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
