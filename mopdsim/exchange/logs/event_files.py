"""Scalars of TensorBoard event files, read without TensorBoard: TFRecord framing, and the protobuf fields that matter.

A record is length (8 bytes), its checksum (4), data, its checksum (4), checksums masked CRC-32C. An Event has a step
(field 2) and a Summary (5) of Values (1): tag (1) and simple_value (2) or a tensor (8) with float_val (5) or
tensor_content (4). Leaves out: everything that is not a scalar.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

Scalar = tuple[int, str, float]  # step, tag, value
LARGEST_CHECKED = (
    1 << 16
)  # bytes of a record; larger ones are pictures and texts, slow to check and no scalars
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
                    values += _value(value)
    yield from ((step, tag, value) for tag, value in values)


def _value(data: bytes) -> list[tuple[str, float]]:
    tag, number = "", math.nan
    scalar = False
    for field, found in _fields(data):
        if field == 1 and isinstance(found, bytes):
            tag = found.decode()
        elif field == 2 and isinstance(found, bytes):
            number, scalar = struct.unpack("<f", found)[0], True
        elif field == 8 and isinstance(found, bytes):
            number, scalar = _tensor(found)
    return [(tag, number)] if scalar and tag else []


def _tensor(data: bytes) -> tuple[float, bool]:
    """A tensor of one float32."""
    kind, content = 0, b""
    for field, found in _fields(data):
        if field == 1 and isinstance(found, int):
            kind = found
        elif field in (4, 5) and isinstance(found, bytes):
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


def _table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


_CRC = _table()


def _masked(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord does."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
