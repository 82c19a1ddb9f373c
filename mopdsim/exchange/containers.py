"""Logs as rows: a step and its numbers, from JSON lines, TensorBoard event files, trainer_state.json and consoles.

What cannot be read is counted by reason, never passed over in silence and never a traceback. Leaves out: what the
numbers mean and which rows count (`mopdsim.exchange.steps`); in event files whatever is no scalar.

Event files are read without TensorBoard. A record is length (8 bytes), its checksum (4), data, its checksum (4),
checksums masked CRC-32C. An Event has a step (field 2) and a Summary (5) of Values (1): tag (1) and simple_value (2) or
a tensor (8) with float_val (5) or tensor_content (4).
"""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, UsageError

Scalar = tuple[int, str, float]  # step, tag, value
# bytes of a record; larger ones are pictures and texts, slow to check and no scalars
LARGEST_CHECKED = 1 << 16
_FLOAT = 1  # DataType DT_FLOAT


def scalars(path: Path, dropped: Counter[str]) -> Iterator[Scalar]:
    """Every scalar in the order written; damage is counted in `dropped`, and reading ends at a broken frame."""
    for data in _records(path.read_bytes(), dropped):
        try:
            yield from _event(data)
        except (ValueError, struct.error, IndexError, UnicodeDecodeError):
            dropped["event not readable"] += 1


def _records(raw: bytes, dropped: Counter[str]) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        if place + 12 > len(raw):
            dropped["file ends within a record"] += 1
            return
        (length,), (check,) = struct.unpack_from("<Q", raw, place), struct.unpack_from("<I", raw, place + 8)
        if check != _masked(raw[place : place + 8]):
            dropped["record with a broken length; the rest of the file is lost"] += 1
            return
        start, place = place + 12, place + 16 + length
        if place > len(raw):
            dropped["file ends within a record"] += 1
            return
        data = raw[start : start + length]
        told = struct.unpack_from("<I", raw, start + length)[0]
        if length <= LARGEST_CHECKED and told != _masked(data):
            dropped["record with a broken checksum"] += 1
            continue
        yield data


def _event(data: bytes) -> Iterator[Scalar]:
    step = 0
    values: list[tuple[str, float]] = []
    for number, found in _fields(data):
        if number == 2 and isinstance(found, int):
            step = found
        elif number == 5 and isinstance(found, bytes):
            for inner, value in _fields(found):
                if inner == 1 and isinstance(value, bytes):
                    values += _event_value(value)
    yield from ((step, tag, value) for tag, value in values)


def _event_value(data: bytes) -> list[tuple[str, float]]:
    tag, number = "", math.nan
    scalar = False
    for part, found in _fields(data):
        if part == 1 and isinstance(found, bytes):
            tag = found.decode()
        elif part == 2 and isinstance(found, bytes):
            number, scalar = struct.unpack("<f", found)[0], True
        elif part == 8 and isinstance(found, bytes):
            number, scalar = _tensor(found)
    return [(tag, number)] if scalar and tag else []


def _tensor(data: bytes) -> tuple[float, bool]:
    """A tensor of one float32."""
    kind, content = 0, b""
    for number, found in _fields(data):
        if number == 1 and isinstance(found, int):
            kind = found
        elif number in (4, 5) and isinstance(found, bytes):
            content = found
    if kind != _FLOAT or len(content) != 4:
        return math.nan, False
    return struct.unpack("<f", content)[0], True


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message: integers of varints, bytes of everything else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(data, place)
        else:
            length = {1: 8, 5: 4}.get(kind, -1)
        if length < 0 or place + length > len(data):
            raise ValueError("no protobuf message")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("no varint")


def _crc_table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


_CRC = _crc_table()


def _masked(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord does."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


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
        return [read_file(file) for file in files]
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
