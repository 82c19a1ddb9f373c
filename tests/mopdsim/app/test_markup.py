"""HTML of the first screen: numbers and names stand where they belong, and a name is never markup."""

from __future__ import annotations

import re

import pandas as pd

from mopdsim.app import opening


def test_a_table_keeps_its_cells_in_rows_and_escapes_them() -> None:
    frame = pd.DataFrame({"a": ["1", "<b>"], "b & c": ["3", "4"]}, index=["first", "second"])
    text = opening.html_table(frame, alt='two "rows"')
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)
    assert cells == ["", "a", "b &amp; c", "first", "1", "3", "second", "&lt;b&gt;", "4"]
    assert 'aria-label="two &quot;rows&quot;"' in text


def test_bars_share_one_scale_from_the_least_end_to_the_largest() -> None:
    frame = pd.DataFrame(
        [("<i>", 1.0, 2.0, 3.0), ("b", 2.0, 4.0, 5.0)], columns=["plan", "low", "middle", "high"]
    )
    text = opening.html_intervals(
        frame, ("low", "middle", "high"), unit=lambda value: f"{value:g}", alt="bars"
    )
    bars = re.findall(r"left:([\d.]+)%;right:calc\(100% - ([\d.]+)%\)", text)
    dots = re.findall(r"left:calc\(([\d.]+)% - 4px\)", text)
    assert [tuple(map(float, ends)) for ends in bars] == [(0, 50), (25, 100)]
    assert list(map(float, dots)) == [25, 75]
    assert "<i>" not in text and re.findall(r">([\d.]+)<", text) == ["2", "4", "1", "5"]


def test_intervals_without_width_are_drawn() -> None:
    frame = pd.DataFrame([("only", 0.5, 0.5, 0.5)], columns=["plan", "low", "middle", "high"])
    assert "left:0.00%" in opening.html_intervals(frame, ("low", "middle", "high"), unit=str, alt="one")
