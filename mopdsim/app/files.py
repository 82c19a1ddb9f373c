"""Tables and charts as files: CSV, XLSX, PNG. A cell that a spreadsheet would run as a formula is made harmless.

Leaves out: buttons (`mopdsim.app.views`).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_RISKY = ("=", "+", "-", "@", "\t", "\r")
_WIDTH, _LETTERS = 640, 125  # of a picture, and of a line of its notes
_SHEET_NAME = 31  # letters that XLSX allows


def harmless(value: Any) -> Any:
    """Text that starts like a formula gets an apostrophe before it; everything else stays."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_RISKY) else value


def harmless_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with every cell and column name harmless."""
    return frame.map(harmless).rename(columns=harmless)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """The table as CSV, UTF-8."""
    return harmless_table(frame).to_csv(index=False).encode()


def xlsx_bytes(frames: Mapping[str, pd.DataFrame]) -> bytes:
    """The tables as sheets of one workbook; text is never read as a formula or a link."""
    buffer = io.BytesIO()
    options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with pd.ExcelWriter(buffer, engine="xlsxwriter", engine_kwargs=options) as writer:
        for name, frame in frames.items():
            harmless_table(frame).to_excel(writer, sheet_name=name[:_SHEET_NAME], index=False)
    return buffer.getvalue()


def png_bytes(
    spec: Mapping[str, Any], frame: pd.DataFrame, *, title: str = "", notes: Sequence[str] = ()
) -> bytes:
    """A Vega-Lite chart of the table as PNG, on white, without a browser and without a network. title and notes stand
    above the chart, so that it can be shown alone."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(whole(spec, frame, title=title, notes=notes), scale=2))


def whole(
    spec: Mapping[str, Any], frame: pd.DataFrame, *, title: str, notes: Sequence[str]
) -> dict[str, Any]:
    """The chart with its rows, a width of its own, and what stands above it."""
    width = spec.get("width", _WIDTH)
    found = {
        **spec,
        "width": width if isinstance(width, int) else _WIDTH,
        "data": {"values": frame.to_dict("records")},
        "background": "white",
        "padding": 16,
    }
    if title:
        found["title"] = {
            "text": textwrap.wrap(title, _LETTERS - 25), "fontSize": 16, "anchor": "start", "frame": "bounds",
            "subtitle": [line for note in notes for line in textwrap.wrap(note, _LETTERS)], "offset": 14,
            "subtitleFontSize": 11, "subtitleColor": "#52606d",
        }  # fmt: skip
    return found
