"""Uploaded files: bytes from anywhere become TOML or CSV text, or one sentence of what is wrong.

Names of files are never used. Leaves out: what a scenario may say (`mopdsim.forecast.scenario`), what a table must hold
(`mopdsim.validate.cost`).
"""

from __future__ import annotations

import csv
import io
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.recipes.recipe_file import parse_toml

MAX_OWN = 200_000  # letters of a scenario or question
MAX_LINE = 4000  # letters of one of its lines
MAX_CSV = 2_000_000  # bytes
MAX_ROWS, MAX_COLUMNS, MAX_CELL = 20_000, 100, 2000


def scenario_text(data: bytes) -> str:
    """An own scenario's text. UsageError for what is too large or no text."""
    if len(data) > MAX_OWN:
        raise UsageError(
            f"file: {len(data):,} bytes: a scenario file has at most {MAX_OWN:,}; leave data out of it"
        )
    return _decoded(data, "a TOML file")


def toml_document(text: str, *, source: str) -> dict[str, Any]:
    """TOML text as a document. UsageError, one sentence."""
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > MAX_LINE:
            raise UsageError(
                f"{source}: line {number} has {len(line):,} letters: at most {MAX_LINE:,} are read"
            )
    try:
        return parse_toml(text, source=source)
    except ValueError as error:  # a number of more digits than Python reads
        raise UsageError(f"{source}: not valid TOML: {error}") from None


def csv_text(data: bytes) -> str:
    """A CSV table's text, its shape checked. UsageError, one sentence."""
    if len(data) > MAX_CSV:
        raise UsageError(f"file: {len(data):,} bytes: a table has at most {MAX_CSV:,}; send fewer rows")
    text = _decoded(data, "a CSV table")
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise UsageError(f"file: not a CSV table: {error}") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise UsageError("file: holds no row: it needs a line of column names and at least one row")
    if len(rows) > MAX_ROWS:
        raise UsageError(f"file: {len(rows):,} rows: at most {MAX_ROWS:,} are read; send fewer")
    for number, row in enumerate(rows, start=1):
        if len(row) > MAX_COLUMNS:
            raise UsageError(f"file: row {number} has {len(row)} cells: at most {MAX_COLUMNS} are read")
        if any(len(cell) > MAX_CELL for cell in row):
            raise UsageError(f"file: row {number} has a cell of more than {MAX_CELL} letters: shorten it")
    return text


def _decoded(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"file: byte {error.start} is no UTF-8 text: {what} is plain text") from None
    if "\0" in text:
        raise UsageError(f"file: holds a zero byte: {what} is plain text")
    if not text.strip():
        raise UsageError(f"file: is empty: {what} is needed")
    return text
