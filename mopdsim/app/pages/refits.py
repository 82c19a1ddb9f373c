"""A refit of cost constants to an uploaded table: the table is checked here, `mopd calibrate` fits it.

Leaves out: the fit (`mopdsim.fit.cost`), the page (`mopdsim.app.pages.calibration`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mopdsim.app.background import Work, unplaced
from mopdsim.app.background import start as begin
from mopdsim.app.uploads import csv_text
from mopdsim.base.errors import UsageError
from mopdsim.validate.cost import LOADERS

FILE = "data.csv"
NAMES = {"rl_steps": "RL step times", "train_throughput": "Training throughput", "decode": "Decoding speed"}


def columns(kind: str) -> tuple[str, ...]:
    """The columns that a table of this kind must have."""
    return tuple(LOADERS[kind].COLUMNS)


def check(kind: str, data: bytes) -> int:
    """The number of rows that the kind can be fitted to. UsageError, one sentence, for any other file."""
    if kind not in LOADERS:
        raise UsageError(f"kind = {kind!r}: must be one of {', '.join(LOADERS)}")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE
        path.write_text(csv_text(data), encoding="utf-8")
        try:
            rows = len(LOADERS[kind].load(path).rows)
        except UsageError as error:
            raise UsageError(unplaced(path.parent, str(error))) from None
    if not rows:
        raise UsageError(
            "file: none of its rows has every number that the fit needs: compare it with the example"
        )
    return rows


def start(kind: str, data: bytes) -> Work:
    """Begin a refit to a table that passes `check`."""
    check(kind, data)
    return begin(["calibrate", kind, "--data", FILE], {FILE: csv_text(data)})
