"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.numbers import count, duration, interval, score, signed, three, usd


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (130_300, "130K"), (1_303_000, "1.3M"), (3_595.4, "3,595"), (9_999.6, "10K"), (999_700, "1M"),
        (0.25, "0.25"), (0, "0"), (42, "42"), (1.2e9, "1.2B"), (2.13e23, "2.13e23"), (1e-6, "1e-6"),
        (-2.5e-5, "-2.5e-5"),
        (1e14, "100T"), (-12_345, "-12.3K"), (0.001, "0.001"),
        (math.inf, "inf"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_a_count_has_three_digits_and_a_letter(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (usd(1_299_000), "$1.3M"), (usd(-42_900), "-$42.9K"), (usd(0.0034), "$0.0034"),
        (duration(14.23), "14.2 days"), (duration(0.25), "6 h"), (duration(52 / 1440), "52 min"),
        (duration(31 / 86_400), "31 s"), (duration(0.99999), "1 day"),
        (score(0.6914), ".691"), (score(1.0), "1.000"), (score(0.0), ".000"), (score(-0.01), "-0.010"),
        (signed(-42_900, usd), "-$42.9K"), (signed(3.0, usd), "+$3"),
        (interval({"p10": 2.3, "p90": 7.0}, duration), "2.3 to 7 days"),
        (interval({"p10": 0.3, "p90": 7.0}, duration), "7.2 h to 7 days"),
        (three({"p10": 2.34, "p50": 4.12, "p90": 6.99}, duration), "2.34 / 4.12 / 6.99 days"),
        (three({"p10": 3595.0, "p50": 6335.0, "p90": 10_730.0}), "3,595 / 6,335 / 10.7K"),
    ],
)  # fmt: skip
def test_units(shown: str, text: str) -> None:
    assert shown == text


@given(st.floats(1e-4, 1e30))
def test_what_is_printed_is_the_number_to_three_digits(value: float) -> None:
    letters = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    text = count(value).replace(",", "")
    read = float(text[:-1]) * letters[text[-1]] if text[-1] in letters else float(text)
    assert read == pytest.approx(value, rel=6e-3)
    assert len(text) <= 8 and "+" not in text


@pytest.mark.parametrize("unit", [count, usd, duration, score])
def test_no_unit_prints_an_exponent_for_ordinary_numbers(unit: Callable[[float], str]) -> None:
    assert not any("e" in unit(value) for value in (0.001, 0.5, 1.0, 130_300.0, 1e9) if unit is not duration)
