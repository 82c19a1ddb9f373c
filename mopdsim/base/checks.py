"""Checks of values that come from a user's file: each raises UsageError with the field, the value and the
rule.

Leaves out: values that pydantic validates (`mopdsim.recipes.recipe_file`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mopdsim.base.errors import UsageError, did_you_mean


def table(value: Any, where: str) -> Mapping[str, Any]:
    """A table of keys."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} = {value!r}: must be a table")
    return value


def known_keys(given: Collection[str], known: Collection[str], where: str) -> None:
    """Keys that somebody reads."""
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")


def keys(document: Mapping[str, Any], known: Collection[str], version: int, source: str) -> None:
    """A file's keys are known, and its schema_version, where it has one, is `version`."""
    known_keys(document, known, source)
    given = document.get("schema_version", version)
    if given != version:
        raise UsageError(f"{source}: schema_version {given!r}: this mopd reads version {version}")


def whole(value: Any, where: str, *, most: int = 10_000_000) -> None:
    """A whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{where} = {value!r}: must be a whole number from 1 to {most}")


def number(
    value: Any, where: str, *, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> None:
    """A finite number from `least` to `most`, or `above` the least."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not numeric or not least <= value <= most or (above and value == least):
        rule = f"above {least:g}" if above else f"from {least:g} to {most:g}"
        raise UsageError(f"{where} = {value!r}: must be a finite number {rule}")


def pair_of(
    value: Any, where: str, *, least: float, most: float = math.inf, above: bool = False
) -> tuple[float, float]:
    """P10 and P90 from a list of two numbers, or one number for both."""
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    for end in (low, high):
        number(end, where, least=least, most=most, above=above)
    if low > high:
        raise UsageError(f"{where} = {value!r}: P10 is above P90; give the smaller first")
    return float(low), float(high)
