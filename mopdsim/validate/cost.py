"""Predicted against measured: `validate(kind, path)` for decode, train_throughput and rl_steps tables.

Headline numbers are out of sample: a row of a model the constants were fitted on is predicted by constants
fitted without it (training, RL steps) or without half of the model x GPU x backend groups, its own included
(decode). All leave-out schemes and the in-sample figure stand under `schemes`. Seconds per output token
(decode), seconds per token and GPU (training), seconds per step (RL).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from mopdsim.base.documents import DATA
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.cost.constants import Fitted, shipped
from mopdsim.validate import decode_rows, rl_rows, train_rows
from mopdsim.validate.report import build

LOADERS: dict[str, ModuleType] = {"decode": decode_rows, "train_throughput": train_rows, "rl_steps": rl_rows}


def published(kind: str) -> Path:
    """The table of this kind that ships with the package; decode measurements do not ship."""
    path = DATA / "published" / f"{kind}.csv"
    if not path.is_file():
        raise NotFoundError(f"no {kind} table ships with the package; give your own with --data FILE.")
    return path


def validate(kind: str, data: str | Path | None = None, *, fitted: Fitted | None = None) -> dict[str, Any]:
    """Report of a table (the shipped one without `data`) against the fitted constants (the shipped ones)."""
    if kind not in LOADERS:
        raise UsageError(
            f"validation kind is {kind!r}; it must be one of "
            f"{', '.join(LOADERS)}{did_you_mean(kind, LOADERS)}."
        )
    loader = LOADERS[kind]
    table = loader.load(published(kind) if data is None else data)
    return build(table, fitted or shipped()[kind], loader)
