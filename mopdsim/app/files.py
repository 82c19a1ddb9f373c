"""Tables and charts as files: CSV, XLSX, PNG. A cell that a spreadsheet would run as a formula is made harmless.

Leaves out: buttons (`mopdsim.app.views`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

_RISKY = ("=", "+", "-", "@", "\t", "\r")
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


def png_bytes(spec: Mapping[str, Any], frame: pd.DataFrame) -> bytes:
    """A Vega-Lite chart of the table as PNG, on white, without a browser and without a network."""
    import vl_convert

    width = spec.get("width", 640)
    whole = {
        **spec,
        "width": width if isinstance(width, int) else 640,
        "data": {"values": frame.to_dict("records")},
        "background": "white",
    }
    return bytes(vl_convert.vegalite_to_png(whole, scale=2))
