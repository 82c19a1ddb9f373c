"""Which studies there are. Leaves out: what they ask (`studies.designs`, one file each)."""

from __future__ import annotations

from importlib import import_module

from mopdsim.base.errors import NotFoundError, did_you_mean
from studies.framework.study import Study

_FOLDERS = {
    "recipes": ("teacher_count", "rounds", "turnover", "choice", "choice_again"),
    "size": ("size", "size_again", "size_fresh", "ladder"),
}
NAMES = (
    "gain",
    "interference",
    "teacher_count",
    "cap",
    "balance",
    "cascade",
    "rounds",
    "bias",
    "synergy",
    "throughput",
    "turnover",
    "choice",
    "stability",
    "choice_again",
    "size",
    "size_again",
    "size_fresh",
    "ladder-5M",
    "ladder-25M",
    "ladder-100M",
)


def study(name: str) -> Study:
    """The study of this name, from the file of the same name; `FILE-RUNG` is one rung of the file's studies.
    NotFoundError where there is none."""
    if name not in NAMES:
        raise NotFoundError(f"study {name!r} does not exist{did_you_mean(name, NAMES)}")
    file, _, rung = name.partition("-")
    folder = next((folder for folder, files in _FOLDERS.items() if file in files), "effects")
    module = import_module(f"studies.designs.{folder}.{file}")
    found: Study = module.study_of(rung) if rung else module.STUDY
    return found
