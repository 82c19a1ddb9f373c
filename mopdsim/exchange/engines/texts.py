"""Texts of exported files: plain values as YAML that every reader understands alike, and scripts carried as they are.

Numbers carry a point where YAML 1.1 would take them for text (`1.0e-06`, not `1e-06`); text is always quoted. Scripts
of `mopdsim/data/exchange`, and a module of the trainer's tasks, read the configuration that lies beside them, so that
nothing is filled in here. Leaves out: reading YAML, anchors, text of several lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from mopdsim.base.documents import DATA


def dump(value: Mapping[str, Any], *, indent: int = 0) -> str:
    """A mapping as a block of YAML."""
    lines = []
    for key, found in value.items():
        pad = " " * indent
        if isinstance(found, Mapping) and found:
            lines.append(f"{pad}{key}:\n{dump(found, indent=indent + 2)}")
        elif isinstance(found, Sequence) and not isinstance(found, str) and found:
            lines.append(f"{pad}{key}:\n" + "".join(_item(each, indent) for each in found))
        else:
            lines.append(f"{pad}{key}: {scalar(found)}\n")
    return "".join(lines)


def _item(value: Any, indent: int) -> str:
    pad = " " * indent
    if not isinstance(value, Mapping):
        return f"{pad}- {scalar(value)}\n"
    body = dump(value, indent=indent + 2)
    return f"{pad}- {body[indent + 2 :]}"


def scalar(value: Any) -> str:
    """A number, text, truth value or nothing."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a configuration")
        mantissa, e, power = repr(value).partition("e")
        return repr(value) if not e or "." in mantissa else f"{mantissa}.0e{power}"
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(str(value), ensure_ascii=False)


def template(name: str) -> str:
    """The text of an exported script."""
    return (DATA / "exchange" / f"{name}.txt").read_text(encoding="utf-8")


def carried(name: str) -> str:
    """A module of the trainer's tasks that needs the standard library alone: read as text, not imported, so that the
    exported verifier is the trainer's own."""
    return files("trainer").joinpath("tasks", name).read_text(encoding="utf-8")
