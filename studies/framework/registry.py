"""Which studies there are. Leaves out: what they ask (`studies.designs`)."""

from __future__ import annotations

from importlib import import_module

from mopdsim.base.errors import NotFoundError, did_you_mean
from studies.framework.study import Study

_FILES = {  # of `studies.designs`, by the study's name
    "gain": "effects.gain",
    "interference": "effects.interference",
    "teacher_count": "recipes.teacher_count",
    "cap": "effects.cap",
    "balance": "effects.balance",
    "cascade": "effects.cascade",
    "rounds": "recipes.rounds",
    "bias": "effects.bias",
    "synergy": "effects.synergy",
    "throughput": "effects.throughput",
    "real_conflict": "effects.real_conflict",
    "turnover": "recipes.turnover",
    "choice": "recipes.choice",
    "stability": "effects.stability",
    "choice_again": "recipes.choice",
    "size": "size.size",
    "size_again": "size.size",
    "size_fresh": "size.size",
    "skill_gate": "skill.gate",
    "skill_sweep": "skill.sweep",
    "order": "skill.order",
    "order_again": "skill.order",
    "conflict": "skill.conflict",
    "teachers": "skill.teachers",
    "breaking": "skill.breaking",
    "caps": "skill.caps",
    "trace": "trace.trace",
    "trace_again": "trace.trace",
    "trace_fresh": "trace.trace",
    "ladder-5M": "size.ladder",
    "ladder-25M": "size.ladder",
    "ladder-100M": "size.ladder",
}
NAMES = tuple(_FILES)


def study(name: str) -> Study:
    """The study of this name. NotFoundError where there is none."""
    if name not in _FILES:
        raise NotFoundError(f"study {name!r} does not exist{did_you_mean(name, NAMES)}")
    module = import_module(f"studies.designs.{_FILES[name]}")
    studies: tuple[Study, ...] = getattr(module, "STUDIES", None) or (module.STUDY,)
    return next(found for found in studies if found.name == name)
