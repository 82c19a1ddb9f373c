"""Logs as rows: a step and its numbers, from JSON lines, TensorBoard event files, trainer_state.json and consoles.

What cannot be read is counted by reason, never passed over in silence and never a traceback. Leaves out: what the
numbers mean (`mopdsim.exchange.logs.keymaps`), which rows count (`mopdsim.exchange.logs.steps`).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.exchange.logs.event_files import scalars

LARGEST_FILE = 2_000_000_000
EVENTS = "events.out.tfevents"
STATE = "trainer_state.json"
CONSOLE = (".log", ".txt", ".out")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RAY = re.compile(r"^\s*\((?:[^()]*\bpid=\d+[^()]*)\)\s?")
_NUMPY = re.compile(r"np\.(?:float|int)\d+\(([^()]*)\)")
_VERL = re.compile(r"\bstep:(\d+) - (.+)$")
_NEMO_STEP = re.compile(r"={5,} Step (\d+)/\d+ ={5,}")
_NEMO_VALUE = re.compile(r"^\s*•\s*([^:]+):\s*([-+0-9.eE]+|nan|inf)\s*(s?)\b")
_NEMO_WORDS = {"Avg Reward": "train/reward", "Mean Generation Length": "train/mean_gen_tokens_per_sample"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one row of a log says. step: None where the log counts none."""

    step: int | None
    values: Mapping[str, float]


@dataclass(kw_only=True)
class Log:
    """The rows of one container in the order written, and what was dropped, counted by reason."""

    path: str
    container: str
    entries: list[Entry] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def read(path: Path) -> list[Log]:
    """The logs in a file or a folder. NotFoundError where there is none, UsageError for a file of no known form."""
    if path.is_dir():
        files = found_in(path)
        if not files:
            raise NotFoundError(
                f"{path}: no log in it: give a .jsonl file, TensorBoard event files, a {STATE} or console output (.log)"
            )
        return [log for file in files for log in [read_file(file)]]
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file or folder: give a training log")
    return [read_file(path)]


def found_in(folder: Path) -> list[Path]:
    """The logs of a folder: event files in the order of their time, the last trainer_state.json alone, each other log.

    Console output counts only where nothing else is found: it says the same less exactly.
    """
    everything = sorted(file for file in folder.rglob("*") if file.is_file())
    events = [file for file in everything if EVENTS in file.name]
    states = [file for file in everything if file.name == STATE]
    lines = [file for file in everything if file.suffix == ".jsonl" and file.parent.name != "data"]
    if states:
        states = [max(states, key=lambda file: (file.stat().st_mtime, -len(file.parts)))]
    found = [*sorted(events, key=lambda file: file.name), *states, *lines]
    return found or [file for file in everything if file.suffix in CONSOLE]


def read_file(path: Path) -> Log:
    """One log file."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(
                f"{path}: larger than {LARGEST_FILE / 1e9:.0f} GB: cut the log, or give its event files"
            )
        if EVENTS in path.name:
            log = Log(path=str(path), container="TensorBoard")
            log.entries += _grouped(scalars(path, log.dropped))
            return log
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    text = raw.decode("utf-8", errors="replace")
    if path.suffix == ".json":
        return _state(path, text)
    if path.suffix == ".jsonl":
        return _json_lines(path, text)
    return _console(path, text)


def _grouped(found: Iterator[tuple[int, str, float]]) -> Iterator[Entry]:
    """Scalars that follow each other at one step, as one row."""
    step: int | None = None
    values: dict[str, float] = {}
    for at, tag, value in found:
        if at != step or tag in values:
            if values:
                yield Entry(step=step, values=values)
            step, values = at, {}
        values[tag] = value
    if values:
        yield Entry(step=step, values=values)


def _state(path: Path, text: str) -> Log:
    log = Log(path=str(path), container="trainer_state.json")
    try:
        document = json.loads(text)
        history = document["log_history"]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error}): give the file of a later checkpoint") from None
    except (KeyError, TypeError):
        raise UsageError(
            f"{path}: has no log_history: give the {STATE} that a Hugging Face trainer saved"
        ) from None
    for row in history if isinstance(history, list) else []:
        if isinstance(row, Mapping):
            _add(log, row.get("step"), row)
        else:
            log.dropped["row that is no table"] += 1
    return log


def _json_lines(path: Path, text: str) -> Log:
    log = Log(path=str(path), container="JSON lines")
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            log.dropped["line that is not JSON"] += 1
            continue
        if not isinstance(row, Mapping):
            log.dropped["row that is no table"] += 1
        elif isinstance(row.get("data"), Mapping):  # verl's file logger
            _add(log, row.get("step"), row["data"])
        else:
            _add(log, row.get("step"), row)
    return log


def _console(path: Path, text: str) -> Log:
    """verl's `step:N - key:value - ...`, NeMo-RL's blocks after `Step N/M`, Hugging Face's dictionaries."""
    log = Log(path=str(path), container="console")
    block: dict[str, float] | None = None
    step: int | None = None
    for raw in text.replace("\r", "\n").splitlines():
        line = _RAY.sub("", _ANSI.sub("", raw)).rstrip()
        line = _NUMPY.sub(r"\1", line)
        if match := _NEMO_STEP.search(line):
            if block:
                log.entries.append(Entry(step=step, values=block))
            step, block = int(match[1]), {}
        elif match := _VERL.search(line):
            _add(log, int(match[1]), _pairs(match[2], log))
        elif block is not None and (match := _NEMO_VALUE.match(line)):
            _nemo(block, match, log)
        elif line.startswith("{'") and "}" in line:
            _dictionary(log, line[: line.rindex("}") + 1])
        elif "step:" in line and " - " in line:
            log.dropped["line cut off"] += 1
    if block:
        log.entries.append(Entry(step=step, values=block))
    return log


def _nemo(block: dict[str, float], match: re.Match[str], log: Log) -> None:
    name, value = match[1].strip(), float(match[2])
    key = _NEMO_WORDS.get(name)
    if name == "Total step time":
        key = "timing/train/total_step_time"
    elif key is None and match[3]:
        key = f"timing/train/{name}"
    if key is None:
        return
    if math.isfinite(value):
        block[key] = value
    else:
        log.dropped["value that is not finite"] += 1


def _pairs(text: str, log: Log) -> dict[str, Any]:
    """`key:value - key:value`; a last pair without a value is what a cut line leaves."""
    found: dict[str, Any] = {}
    for pair in text.split(" - "):
        key, colon, value = pair.strip().rpartition(":")
        try:
            found[key] = float(value) if colon else None
        except ValueError:
            log.dropped["value that is no number"] += 1
    return found


def _dictionary(log: Log, text: str) -> None:
    try:
        row = ast.literal_eval(re.sub(r"\bnan\b", "None", text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        log.dropped["line cut off"] += 1
        return
    if isinstance(row, Mapping):
        numbers = {key: _number(value) if isinstance(value, str) else value for key, value in row.items()}
        _add(log, row.get("step"), numbers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _add(log: Log, step: Any, row: Mapping[str, Any]) -> None:
    """A row's numbers; the rest of it is no measurement, a number that is not finite is counted."""
    if step is not None and (
        isinstance(step, bool) or not isinstance(step, int | float) or step != step or step < 0
    ):
        log.dropped["row with a step that is no number"] += 1
        return
    values = {}
    for key, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            values[str(key)] = number
        else:
            log.dropped["value that is not finite"] += 1
    if values.keys() - {"step", "epoch"}:
        log.entries.append(Entry(step=None if step is None else int(step), values=values))
