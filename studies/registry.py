"""Which studies there are. Leaves out: what they ask (`studies.designs`, one file each)."""

from __future__ import annotations

from importlib import import_module

from mopdsim.errors import NotFoundError, did_you_mean
from studies.study import Study

NAMES = ("gain", "interference", "teacher_count", "cap", "balance", "cascade", "rounds")


def study(name: str) -> Study:
    """The study of this name, from the file of the same name. NotFoundError where there is none."""
    if name not in NAMES:
        raise NotFoundError(f"study {name!r} does not exist{did_you_mean(name, NAMES)}")
    found: Study = import_module(f"studies.designs.{name}").STUDY
    return found
