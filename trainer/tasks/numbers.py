"""Numbers in text, read exactly: as people write them, as a fraction of integers, never as a float.

Read: signs (also U+2212), thousands separated by a comma, a space, `{,}` or `\\,`, decimals, exponents, percentages
(50% is 1/2), quotients (1/2) and LaTeX fractions. Leaves out: words, roots, constants such as pi, units.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

LONGEST: Final = 1000  # characters, or exponent, of a number that is still read
_SIGN: Final = r"[-+\u2212]"
_GROUP: Final = r"(?:,|\{,\}|\\,|[\u00a0\u2009\u202f ])"
_PLAIN: Final = rf"(?:\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)|\d+)"
_DECIMAL: Final = rf"(?:{_PLAIN}(?:\.\d*)?|\.\d+)(?:[eE]{_SIGN}?\d+)?"
_FRACTION: Final = rf"\\[dt]?frac\{{({_SIGN}?\d+)\}}\{{({_SIGN}?\d+)\}}"
NUMBER: Final = re.compile(
    rf"(?<![\d.])(?P<sign>(?<![\d)]){_SIGN}\s?)?"
    rf"(?:{_FRACTION}|(?P<decimal>{_DECIMAL})(?:\s?/\s?(?P<under>\d+)(?![\d.]))?(?P<percent>\s?\\?%)?)"
)


def numbers_in(text: str) -> list[Fraction]:
    """Every number of `text` in order. What is too long to be meant (LONGEST) or divides by zero is left out."""
    found = (_value(match) for match in NUMBER.finditer(text))
    return [value for value in found if value is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > LONGEST:
        return None
    over, under = match.group(2), match.group(3)
    if over is not None:
        if int(_ascii(under)) == 0:
            return None
        value = Fraction(int(_ascii(over)), int(_ascii(under)))
    else:
        text = re.sub(_GROUP, "", match.group("decimal"))
        mantissa, _, exponent = _ascii(text).lower().partition("e")
        if abs(int(exponent or 0)) > LONGEST:
            return None
        value = Fraction(mantissa.removesuffix(".")) * Fraction(10) ** int(exponent or 0)
        if match.group("under"):
            if int(match.group("under")) == 0:
                return None
            value /= int(match.group("under"))
        if match.group("percent"):
            value /= 100
    return -value if _ascii(match.group("sign") or "").strip() == "-" else value


def _ascii(text: str) -> str:
    return text.replace("\u2212", "-")
