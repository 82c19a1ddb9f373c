"""A table and a chart of intervals as HTML, which the browser draws at once.

Streamlit's own table and chart first load 2 MB of libraries, half of what the first screen took. So the first screen
is drawn with these, and whatever is asked for after it with those. Leaves out: axes, legends, tooltips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import pandas as pd

_LINE, _FAINT = "1px solid rgba(128,128,128,.25)", "opacity:.7"
_BAR, _DOT = "#5c9fd0", "#2f7fba"  # readable on light and dark


def table(frame: pd.DataFrame, *, alt: str) -> str:
    """Text cells under their columns' names, the index before them. alt: what a screen reader says first."""
    edge = f"padding:.3rem .5rem;text-align:left;font-weight:400;border-bottom:{_LINE}"
    head = "".join(
        f'<th scope="col" style="{edge};{_FAINT}">{escape(name)}</th>' for name in ("", *frame.columns)
    )
    body = "".join(
        f'<tr><th scope="row" style="{edge};{_FAINT}">{escape(str(name))}</th>'
        + "".join(f'<td style="{edge}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for name, row in zip(frame.index, frame.to_numpy(), strict=True)
    )
    return (
        f'<table aria-label="{escape(alt)}" style="width:100%;border-collapse:collapse;font-size:.875rem">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def intervals(frame: pd.DataFrame, columns: Sequence[str], *, unit: Callable[[float], str], alt: str) -> str:
    """A row for each of the frame's first column: a bar from the first of three columns to the last, a dot and its
    number at the middle one; under the rows the ends of the common scale, which is as wide as all bars."""
    low, middle, high = (frame[name] for name in columns)
    least, width = low.min(), max(high.max() - low.min(), 1e-12)

    def at(value: float) -> str:
        return f"{100 * (value - least) / width:.2f}%"

    row = "display:flex;align-items:center;gap:.6rem;height:1.55rem"
    name, track, number = (
        "flex:0 0 38%;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap",
        ("position:relative;flex:1;height:100%"),
        "flex:0 0 2.2rem",
    )
    rows = "".join(
        f'<div style="{row}"><span style="{name}" title="{escape(label)}">{escape(label)}</span>'
        f'<span style="{track}"><span style="position:absolute;top:25%;height:50%;left:{at(start)};'
        f'right:calc(100% - {at(end)});background:{_BAR};opacity:.5;border-radius:2px"></span>'
        f'<span style="position:absolute;top:calc(50% - 4px);left:calc({at(dot)} - 4px);width:8px;height:8px;'
        f'border-radius:50%;background:{_DOT}"></span></span><span style="{number}">{escape(unit(dot))}</span></div>'
        for label, start, dot, end in zip(frame.iloc[:, 0], low, middle, high, strict=True)
    )
    ends = (
        f'<span style="{track};display:flex;justify-content:space-between;border-top:{_LINE};{_FAINT}"><span>'
    )
    scale = f"{ends}{escape(unit(least))}</span><span>{escape(unit(high.max()))}</span></span>"
    foot = f'<div style="{row}"><span style="{name}"></span>{scale}<span style="{number}"></span></div>'
    return f'<div role="img" aria-label="{escape(alt)}" style="font-size:.8rem;padding-top:.4rem">{rows}{foot}</div>'
