"""The files that an export carries as they are: scripts of `mopdsim/data/exchange`, a module of the trainer's tasks.

They read the configuration that lies beside them, so that nothing is filled in here.
"""

from __future__ import annotations

from importlib.resources import files


def template(name: str) -> str:
    """The text of an exported script."""
    return files("mopdsim").joinpath("data", "exchange", f"{name}.txt").read_text(encoding="utf-8")


def carried(name: str) -> str:
    """A module of the trainer's tasks that needs the standard library alone: read as text, not imported, so that the
    exported verifier is the trainer's own."""
    return files("trainer").joinpath("tasks", name).read_text(encoding="utf-8")
