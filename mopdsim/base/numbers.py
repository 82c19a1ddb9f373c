"""Numbers as people read them: 130K, $1.3M, 52 min, .691. Every command and page prints with these.

At most three significant digits, trailing zeros left out, never `1.303e+05`. Leaves out: numbers for programs (JSON,
CSV), which stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

_LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_DAY = 86_400.0
_UNITS = (("days", _DAY), ("h", 3600.0), ("min", 60.0))


def count(value: float) -> str:
    """Three significant digits: 130K, 1.06M, 3,595, 0.25, 2.1e23, 1e-6."""
    if not math.isfinite(value):
        return f"{value:g}"
    size = abs(float(f"{value:.3g}"))
    if size >= 1e15 or 0 < size < 1e-3:
        digits, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    for limit, letter in _LETTERS:
        if size >= limit and size >= 1e4:
            return f"{value / limit:.3g}{letter}"
    return f"{value:,.0f}" if size >= 1000 else f"{float(f'{value:.3g}'):g}"


def usd(value: float) -> str:
    """Dollars: $1.3M."""
    return f"-${count(-value)}" if value < 0 else f"${count(value)}"


def duration(days: float) -> str:
    """Days, or the unit in which it is at least one: 14.2 days, 6 h, 52 min, 31 s."""
    seconds = days * _DAY
    for unit, many in _UNITS:
        if float(f"{seconds / many:.3g}") >= 1:
            number = count(seconds / many)
            return f"{number} {'day' if (unit, number) == ('days', '1') else unit}"
    return f"{count(seconds)} s"


def score(value: float) -> str:
    """A pass rate: .691."""
    text = f"{value:.3f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def share(value: float) -> str:
    """A probability or part of a whole: 83%."""
    return f"{value:.0%}"


def points(value: float) -> str:
    """A difference of scores in hundredths: +1.9 points."""
    return f"{100 * value:+.1f} points"


def signed(value: float, unit: Callable[[float], str]) -> str:
    """A difference with its sign before the unit: -$42.9K."""
    return ("-" if value < 0 else "+") + unit(abs(value))


def interval(row: Mapping[str, float], unit: Callable[[float], str]) -> str:
    """P10 to P90 in a unit's words, the unit said once where both have it."""
    return " to ".join(_once([unit(row["p10"]), unit(row["p90"])]))


def with_interval(row: Mapping[str, float], unit: Callable[[float], str]) -> str:
    """P50, and P10 to P90 behind it: .691 (.514 to .711)."""
    return f"{unit(row['p50'])} ({interval(row, unit)})"


def three(row: Mapping[str, float], unit: Callable[[float], str] = count) -> str:
    """P10, P50 and P90 in a unit's words, likewise: 3,595 / 6,335 / 10.7K."""
    return " / ".join(_once([unit(row[name]) for name in ("p10", "p50", "p90")]))


def _once(texts: list[str]) -> list[str]:
    """The texts with a unit that all have kept at the last alone."""
    if len({text.partition(" ")[2] for text in texts}) > 1:
        return texts
    return [*(text.partition(" ")[0] for text in texts[:-1]), texts[-1]]
