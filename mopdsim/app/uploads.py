"""Uploaded files: bytes from anywhere become TOML, CSV or JSON text, step times become a factor on seconds, or one
sentence says what is wrong.

Names of files are never used. What reads step times is loaded when there are some, since the app opens sooner without.
Leaves out: what a scenario may say (`mopdsim.forecast.scenario`), what a table must hold
(`mopdsim.validate.cost`), what a log says (`mopdsim.exchange.importing`).
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopdsim.base.documents import parse_toml
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.cost.constants import stack
from mopdsim.facts.model import model
from mopdsim.forecast.scenario import Scenario

MAX_OWN = 200_000  # letters of a scenario or question
MAX_LINE = 4000  # letters of one of its lines
MAX_CSV = 2_000_000  # bytes
MAX_CONFIG, MAX_LOG = 60_000, 4_000_000  # bytes
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
    return parse_toml(text, source=source)


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


def config_text(data: bytes) -> str:
    """A config.json's text, which a model can be made of. UsageError, one sentence, for any other file."""
    if len(data) > MAX_CONFIG:
        raise UsageError(f"file: {len(data):,} bytes: a config.json has at most {MAX_CONFIG:,}")
    text = _decoded(data, "a config.json").strip()
    if not text.startswith("{"):
        raise UsageError("file: no JSON object: give the config.json that lies beside a model's weights")
    model(text)
    return text


def factor_of_steps(data: bytes, stack: str) -> tuple[float, float]:
    """Mean and spread of the log factor that a table of step times shows. UsageError, one sentence, for any other."""
    return _factor(csv_text(data), stack)


def factor_of_step(scenario: Scenario, *, seconds: float, samples: int, tokens: int) -> tuple[float, float]:
    """The same of one RL step: samples of that mean length on the scenario's whole pool took so many seconds."""
    row = {
        "framework": scenario.stack, "model": scenario.model, "gpu": scenario.gpu, "precision": "BF16",
        "gpus": sum(scenario.pools.values()), "mode": "On policy", "max_tokens": 3 * tokens, "mean_tokens": tokens,
        "samples_per_step": samples, "step_s": seconds,
    }  # fmt: skip
    return _factor(_table([row]), scenario.stack)


def factor_of_log(data: bytes, name: str, scenario: Scenario, stage: str) -> tuple[float, float]:
    """The same of an engine's own log of a stage. name: of the file, whose ending says which kind of log it is."""
    from mopdsim.exchange.importing import Context, imported

    if len(data) > MAX_LOG:
        raise UsageError(
            f"file: {len(data):,} bytes: a log has at most {MAX_LOG:,}; send the part with some steps"
        )
    with tempfile.TemporaryDirectory() as place:
        ending = Path(name).suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,9}", Path(name).suffix) else ""
        path = Path(place) / ("events.out.tfevents.1" if "tfevents" in name else f"log{ending}")
        path.write_bytes(data)
        try:
            runs = imported(path, Context(scenario=scenario, recipe="scenario"), stage=stage)
        except MopdError as error:
            raise UsageError(str(error).replace(str(path), "file")) from None
        rows = [row for run in runs if (row := run.row()) is not None and row["step_s"]]
    if not rows:
        raise UsageError(f"file: holds no seconds of a whole step of {stage}: send a log that does")
    return _factor(_table(rows), scenario.stack)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    from mopdsim.exchange.curves import csv_of
    from mopdsim.validate.rl_rows import COLUMNS

    return csv_of(COLUMNS, rows)


def _factor(table: str, name: str) -> tuple[float, float]:
    from mopdsim.validate.measured import factor, rows_of

    return factor(rows_of("rl_steps", table), stack(name))


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
