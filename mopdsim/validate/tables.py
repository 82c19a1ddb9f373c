"""Tables of published measurements: CSV files with `#` comments, read into rows the time models can
predict."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mopdsim.base.documents import DATA
from mopdsim.base.errors import InfeasibleError, NotFoundError, UsageError
from mopdsim.facts.hardware import Gpu, gpu
from mopdsim.facts.layers import Model
from mopdsim.facts.model import model

LARGEST = 1e15


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement and the work that made it. `keys` names what may be left out: model, gpu, family,
    group. `extra_log_sd` widens the interval for what the fit never saw (a framework). missing: columns that an
    incomplete row lacks; its payload is draws of what it may have been (None where it lacks too much), and its
    measurement may be no number.
    """

    line: int
    label: str = ""
    measured: float
    moe: bool
    keys: dict[str, str]
    configuration: str = ""
    payload: Any
    extra_log_sd: float = 0.0
    missing: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, line: int, model: Model, gpu: Gpu, *, keys: Mapping[str, str] | None = None, **more: Any
    ) -> Row:
        """A row on this model and GPU. keys: others than these two."""
        known = {"model": model.name, "gpu": gpu.name, **(keys or {})}
        return cls(line=line, moe=model.is_moe, keys=known, **more)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Complete rows, rows that lack an input (`incomplete`, predicted as a distribution, each with its names there),
    and what was put aside with the reason: `unknown` (model or GPU not in the catalogue), `refused` (breaks its own
    identity), `left_out` (outside what the model is about).
    """

    rows: list[Row] = field(default_factory=list)
    incomplete: list[tuple[dict[str, Any], Row]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)


def published(kind: str) -> Path:
    """The table of this kind that ships with the package; decode measurements do not ship."""
    path = DATA / "published" / f"{kind}.csv"
    if not path.is_file():
        raise NotFoundError(f"no {kind} table ships with the package; give your own with --data FILE.")
    return path


def read_rows(
    data: Path | str, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file, or of its text, that has these columns; NotFoundError or UsageError otherwise.

    Optional columns read as empty where the file has none.
    """
    where, text = called(data), data if isinstance(data, str) else _text(data)
    lines = [
        (n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")
    ]
    reader = csv.DictReader([line for _, line in lines])
    found = []
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(
                f"{where} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
                f"it must have {', '.join(columns)}."
            )
        for row in reader:
            n = lines[reader.line_num - 1][0]
            if None in row:
                raise UsageError(
                    f"{where}: line {n} has more cells than there are columns: put quotes around a cell that "
                    "holds a comma"
                )
            found.append((n, dict.fromkeys(optional, "") | {key: (row[key] or "").strip() for key in row}))
    except csv.Error as error:
        raise UsageError(f"{where} is not a CSV table ({error}); give a CSV file.") from None
    return found


def called(data: Path | str) -> str:
    """What messages call a table: by its file, or `file` where only its text is at hand."""
    return "file" if isinstance(data, str) else f"data file {str(data)!r}"


def _text(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"{called(path)} is a directory; give a CSV file with --data.")
    if not path.is_file():
        raise NotFoundError(f"{called(path)} does not exist; give a CSV file with --data.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{called(path)} is not UTF-8 text ({error}); give a CSV file.") from error


def number(
    row: dict[str, str], column: str, line: int, *, default: float | None = None, zero: bool = False
) -> float:
    """`quantity` of a cell."""
    return quantity(row.get(column, ""), f"line {line}: {column}", default=default, zero=zero)


def quantity(text: str, name: str, *, default: float | None = None, zero: bool = False) -> float:
    """A positive number ('1 (2)' reads 1), or zero where that means something; the default for an empty text or n/a.
    UsageError, which calls the value `name`, otherwise: a unit is no part of a number.
    """
    if text.lower() in ("", "n/a", "-", "nan"):
        if default is None:
            raise UsageError(f"{name} is {repr(text) if text else 'empty'}; it must be a positive number.")
        return default
    first, _, remark = text.partition(" ")
    try:
        value = float(first.replace(",", "")) if not remark or remark.lstrip().startswith("(") else math.nan
    except ValueError:
        value = math.nan
    if not (0 < value < LARGEST or (zero and value == 0)):
        raise UsageError(f"{name} is {text!r}; it must be a positive number below 1e15.")
    return value


def resolve(model_name: str, gpu_name: str) -> tuple[Model, Gpu]:
    """Model and GPU of a row; bracketed remarks and '2-node' are no part of a model's name. NotFoundError."""
    bare = re.sub(r"\s*\([^)]*\)|\s+\d+-node$", "", model_name).strip()
    return model(bare or model_name), gpu(gpu_name)


def sort_rows(
    rows: list[tuple[int, dict[str, str]]],
    gpu_column: str,
    place: Callable[[int, dict[str, str], Model, Gpu], Row | str],
) -> Table:
    """The table of these rows: `place` gives the row, or says why it is left out; one that it cannot make sense of
    (UsageError, InfeasibleError) is refused with the reason, one of an unknown model or GPU is listed as such.
    """
    table = Table()
    for line, row in rows:
        known = {"line": line, "model": row["model"], "gpu": row[gpu_column]}
        try:
            found = place(line, row, *resolve(row["model"], row[gpu_column]))
        except NotFoundError as error:
            table.unknown.append({**known, "reason": str(error)})
            continue
        except (UsageError, InfeasibleError) as error:
            table.refused.append({**known, "reason": str(error)})
            continue
        if isinstance(found, str):
            table.left_out.append({**known, "reason": found})
        elif found.missing:
            table.incomplete.append((known, found))
        else:
            table.rows.append(found)
    return table


def family(name: str) -> str:
    """Models of one maker and line: Qwen/Qwen3-32B and Qwen/Qwen3-30B-A3B are one family."""
    bare = name.rsplit("/", 1)[-1].lower().removeprefix("meta-").removeprefix("nvidia-")
    return re.split(r"[-_ .]", bare)[0]
