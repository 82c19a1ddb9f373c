"""Which studies there are, and which are retired: what those found stays, and most are asked again.

Leaves out: what they ask (`studies.designs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from studies.framework import prediction
from studies.framework.study import Prediction, Study

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Retired:
    """A study that runs no more. successor: what asks in its place, a study or a command, if anything does. of_skills,
    released: as of a `Study`."""

    successor: str = ""
    of_skills: bool = True
    released: str = ""


_STUDIES: Mapping[str, str | Retired] = {  # those that run by their file in `studies.designs`
    "gain": Retired(),
    "interference": Retired(successor="conflict"),
    "teacher_count": Retired(successor="teachers"),
    "cap": Retired(successor="caps"),
    "balance": Retired(),
    "cascade": Retired(successor="order"),
    "rounds": Retired(),
    "bias": Retired(successor="trace_fresh", of_skills=False),
    "synergy": Retired(successor="caps"),
    "throughput": Retired(successor="mopd train pace"),
    "real_conflict": "skill.real_conflict",
    "real": "skill.real",
    "real_systems": "systems.real_systems",
    "turnover": Retired(successor="teachers"),
    "choice": Retired(
        successor="order",
        released="2026-11-23: judged once (studies/LOG.md); breaking was then modelled on it; `choice_again` judges",
    ),
    "stability": Retired(successor="breaking"),
    "choice_again": Retired(successor="order"),
    "size": Retired(
        successor="breaking",
        released="2026-11-24: judged once (studies/LOG.md); an exponent of size was then fitted to it; `size_again` "
        "judges",
    ),
    "size_again": Retired(successor="breaking"),
    "size_fresh": Retired(successor="breaking"),
    "skill_gate": "skill.gate",
    "skill_sweep": "skill.sweep",
    "order": "skill.order",
    "order_again": "skill.order",
    "order_fresh": "skill.order",
    "conflict": "skill.conflict",
    "teachers": "skill.teachers",
    "teachers_real": "skill.teachers_real",
    "breaking": "skill.breaking",
    "breaking_real": "skill.breaking_real",
    "caps": "skill.caps",
    "trace": Retired(successor="trace_fresh", of_skills=False),
    "trace_again": Retired(successor="trace_fresh", of_skills=False),
    "trace_fresh": "trace.trace",
    "trace_real": "trace.real",
}
LISTED = tuple(_STUDIES)
NAMES = tuple(name for name, known in _STUDIES.items() if isinstance(known, str))
RETIRED: Mapping[str, Retired] = {
    **{name: known for name, known in _STUDIES.items() if isinstance(known, Retired)},
    "colossal": Retired(successor="teachers"),  # this and what follows never had a prediction
    "gate": Retired(successor="skill_gate"),
    "ladder-5M": Retired(successor="real"),
}


def study(name: str) -> Study:
    """The study of this name. NotFoundError where there is none. A retired one has its question and prediction, as they
    are on record; asked for anything else, it says that it is retired (UsageError)."""
    if name in RETIRED:
        return _retired(name, RETIRED[name])
    if name not in NAMES:
        raise NotFoundError(f"study {name!r} does not exist{did_you_mean(name, NAMES)}")
    module = import_module(f"studies.designs.{_STUDIES[name]}")
    studies: tuple[Study, ...] = getattr(module, "STUDIES", None) or (module.STUDY,)
    return next(found for found in studies if found.name == name)


def _retired(name: str, known: Retired) -> Study:
    def gone(*_: object) -> NoReturn:
        remedy = (
            f"run `{known.successor}`, its successor"
            if known.successor
            else "no other study asks its question"
        )
        raise UsageError(
            f"study {name!r} is retired: {remedy}; its results stay in studies/results/{name}, and CHANGELOG.md names "
            "the last commit that could run it"
        )

    if name not in LISTED:
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
        of_skills=known.of_skills,
        released=known.released,
        retired=True,
        successor=known.successor,
    )
