"""Published figures of the systems: one TOML file each in `data/systems`, every figure with its grade and source.

A figure is [value, "published", source], or [[P10, P90], "assumed", why] where the report is silent; the central value
of a range is its geometric middle. A table of a stage is called by the stage, by the stage without a round's prefix
("student_2", "r2_teacher_1" after "teacher_1"), by all numbered ones ("sft_*"), or by what is left ("teacher").
Leaves out: structures (`mopdsim.recipes.catalogue`), the scenario at published scale
(`mopdsim.forecast.scenario`).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from mopdsim.base.documents import DATA
from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from mopdsim.recipes.stage import Amounts

Evidence = Literal["published", "assumed"]
NAMES = tuple(sorted(path.stem for path in (DATA / "systems").glob("*.toml")))  # the systems with a file
_TABLES = ("machine", "options", "domains", "stages", "structure", "beyond", "measured")
_WORDS = ("title", "date", "report", "reading", "added_after_first_comparison")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: where it stands ("stages.rl.steps"), its value or [P10, P90], and what it rests on."""

    path: str
    value: Any
    grade: Evidence
    source: str

    @property
    def ends(self) -> tuple[float, float] | None:
        """P10 and P90 of a range."""
        if not isinstance(self.value, list) or not all(_is_number(end) for end in self.value):
            return None
        low, high = self.value
        return float(low), float(high)

    @property
    def middle(self) -> Any:
        """The value, or the geometric middle of a range."""
        return self.value if self.ends is None else math.sqrt(self.ends[0] * self.ends[1])

    @property
    def pair(self) -> list[float]:
        """P10 and P90, equal where the value is one number."""
        return [self.value, self.value] if self.ends is None else list(self.ends)


@dataclass(frozen=True, kw_only=True)
class System:
    """A system's file: its words, and its figures by path."""

    name: str
    title: str
    date: str
    report: str
    reading: tuple[str, ...]
    added_after_first_comparison: tuple[str, ...]
    like: Mapping[str, str]
    figures: Mapping[str, Figure]

    def under(self, path: str) -> dict[str, Figure]:
        """The figures of a table, by the rest of their path."""
        start = f"{path}."
        return {key.removeprefix(start): row for key, row in self.figures.items() if key.startswith(start)}

    def of_stage(self, table: str, stage: str) -> dict[str, Figure]:
        """The figures of the first table that is called after the stage; empty where none is."""
        return next((found for role in roles(stage) if (found := self.under(f"{table}.{role}"))), {})


def system(name: str) -> System:
    """A system's figures. NotFoundError for a name without a file."""
    if name not in NAMES:
        raise NotFoundError(f"no published figures of {name!r}{did_you_mean(name, NAMES)}")
    return _load(name)


def amounts(name: str, stage: str) -> Amounts:
    """The central amounts of a system's stage at its published scale. UsageError where the file has none."""
    rows = {
        key: row for key, row in system(name).of_stage("stages", stage).items() if key in Amounts.model_fields
    }
    if not rows:
        raise UsageError(
            f"system {name!r} has no published amounts of stage {stage!r}: add [stages.{roles(stage)[-1]}] to "
            f"data/systems/{name}.toml"
        )
    central = {key: row.middle if key == "learning_rate" else round(row.middle) for key, row in rows.items()}
    return Amounts(**{"learning_rate": 0.0, **central})


def roles(stage: str) -> tuple[str, ...]:
    """What a table of this stage may be called, most exact first."""
    bare = re.sub(r"^r\d+_", "", stage)
    role = re.sub(r"_\d+$", "", bare)
    numbered = () if role == bare else (f"{role}_*",)
    return tuple(dict.fromkeys((stage, bare, *numbered, role)))


@cache
def _load(name: str) -> System:
    tables = tomllib.loads((DATA / "systems" / f"{name}.toml").read_text(encoding="utf-8"))
    for key in tables:
        if key not in (*_TABLES, *_WORDS):
            raise UsageError(f"data/systems/{name}.toml: unknown table {key!r}{did_you_mean(key, _TABLES)}")
    rows = tables.get("domains", {})
    return System(
        name=name,
        title=tables["title"],
        date=tables["date"],
        report=tables["report"],
        reading=tuple(tables.get("reading", ())),
        added_after_first_comparison=tuple(tables.get("added_after_first_comparison", ())),
        like={domain: row["like"] for domain, row in rows.items() if "like" in row},
        figures={
            figure.path: figure
            for key in _TABLES
            for figure in _figures(tables.get(key, {}), key, f"data/systems/{name}.toml")
        },
    )


def _figures(table: Mapping[str, Any], path: str, source: str) -> Iterator[Figure]:
    for key, row in table.items():
        where = f"{path}.{key}"
        if isinstance(row, Mapping):
            yield from _figures(row, where, source)
        elif key != "like":
            yield figure_of(row, where, source)


def figure_of(row: Any, path: str, source: str = "figure") -> Figure:
    """A figure from its row in a file. UsageError where it lacks grade or source, or its range is none."""
    if not isinstance(row, list) or len(row) != 3 or row[1] not in get_args(Evidence) or not row[2]:
        raise UsageError(
            f'{source}: {path} = {row!r}: must be [value, "published", source] or [[P10, P90], "assumed", why]'
        )
    figure = Figure(path=path, value=row[0], grade=row[1], source=row[2])
    if figure.ends is not None and (len(row[0]) != 2 or not 0 < figure.ends[0] <= figure.ends[1]):
        raise UsageError(f"{source}: {path} = {row[0]!r}: must be two numbers above 0, the smaller first")
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
