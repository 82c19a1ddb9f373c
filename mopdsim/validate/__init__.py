"""Predicted against measured, one file for each kind of table."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError

_FILES = {"quality": "quality", "published": "totals", "scenarios": "scenarios", "project_totals": "projects"}


def report_of(kind: str, data: Path | None = None) -> dict[str, Any]:
    """The report of `mopd validate KIND --json`; the kinds of the time model are those of `mopdsim.validate.cost`."""
    if kind == "published" and data is not None:
        raise UsageError(
            f"data = {str(data)!r}: the published totals stand in the systems' files: leave it out"
        )
    own = import_module(f"mopdsim.validate.{_FILES.get(kind, 'cost')}")
    found: dict[str, Any]
    if kind in _FILES:
        found = own.validate() if data is None else own.validate(data)
        return found
    found = own.validate(kind, data)
    if data is not None and kind in ("rl_steps", "train_throughput"):
        found["own_measurements"] = import_module("mopdsim.validate.measured").before_and_after_of(kind, data)
    return found
