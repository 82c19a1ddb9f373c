"""Which studies there are, and which are retired: what those found stays, and most are asked again.

Leaves out: what they ask (`studies.designs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from studies.framework import prediction
from studies.framework.study import Prediction, Study

RESULTS = Path(__file__).parents[1] / "results"
# Studies that run no more, and who asks in their place: nobody where that is empty.
RETIRED: Mapping[str, str] = {
    "teacher_count": "teachers",
    "turnover": "teachers",
    "colossal": "teachers",
    "cap": "caps",
    "synergy": "caps",
    "stability": "breaking",
    "gate": "skill_gate",
    "interference": "conflict",
    "cascade": "order",
    "bias": "trace",
    "choice": "order",
    "choice_again": "order",
    "size": "breaking",
    "size_again": "breaking",
    "size_fresh": "breaking",
    "ladder-5M": "real",
    "gain": "",
    "balance": "",
    "rounds": "",
}
RELEASED: Mapping[str, str] = {  # of retired studies those whose held-out runs the fit was given, and when
    "choice": "2026-11-23: judged once (studies/LOG.md); breaking was then modelled on it; `choice_again` judges",
    "size": "2026-11-24: judged once (studies/LOG.md); an exponent of size was then fitted to it; `size_again` judges",
}
PLANTED = ("bias",)  # retired, and of no skill: it enters neither the fit nor the honest test
_FILES = {  # of `studies.designs`, by the study's name; none of one that is retired
    "gain": "",
    "interference": "",
    "teacher_count": "",
    "cap": "",
    "balance": "",
    "cascade": "",
    "rounds": "",
    "bias": "",
    "synergy": "",
    "throughput": "effects.throughput",
    "real_conflict": "effects.real_conflict",
    "real": "skill.real",
    "real_systems": "systems.real_systems",
    "turnover": "",
    "choice": "",
    "stability": "",
    "choice_again": "",
    "size": "",
    "size_again": "",
    "size_fresh": "",
    "skill_gate": "skill.gate",
    "skill_sweep": "skill.sweep",
    "order": "skill.order",
    "order_again": "skill.order",
    "order_fresh": "skill.order",
    "conflict": "skill.conflict",
    "teachers": "skill.teachers",
    "breaking": "skill.breaking",
    "breaking_real": "skill.breaking_real",
    "caps": "skill.caps",
    "trace": "trace.trace",
    "trace_again": "trace.trace",
    "trace_fresh": "trace.trace",
    "trace_real": "trace.real",
}
LISTED = tuple(_FILES)
NAMES = tuple(name for name in LISTED if name not in RETIRED)


def study(name: str) -> Study:
    """The study of this name. NotFoundError where there is none. A retired one has its question and prediction, as they
    are on record; asked for anything else, it says that it is retired (UsageError)."""
    if name in RETIRED:
        return _retired(name)
    if name not in _FILES:
        raise NotFoundError(f"study {name!r} does not exist{did_you_mean(name, NAMES)}")
    module = import_module(f"studies.designs.{_FILES[name]}")
    studies: tuple[Study, ...] = getattr(module, "STUDIES", None) or (module.STUDY,)
    return next(found for found in studies if found.name == name)


def _retired(name: str) -> Study:
    successor = RETIRED[name]

    def gone(*_: object) -> NoReturn:
        remedy = f"run `{successor}`, its successor" if successor else "no other study asks its question"
        raise UsageError(
            f"study {name!r} is retired: {remedy}; its results stay in studies/results/{name}, and CHANGELOG.md names "
            "the last commit that could run it"
        )

    if name not in _FILES:
        gone()
    record = prediction.read(RESULTS / name)
    return Study(
        name=name,
        question=record["question"],
        prediction=Prediction(text=record["text"], claims=record["claims"]),
        observed="",
        held_out="",
        design=gone,
        analyse=gone,
        of_skills=name not in PLANTED,
        released=RELEASED.get(name, ""),
        retired=True,
        successor=successor,
    )
