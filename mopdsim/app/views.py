"""What every page is made of: a chart with its alternative text, its table and its files; a number with its grade.

Tables and charts are files too: CSV, XLSX, PNG. A cell that a spreadsheet would run as a formula is made harmless.
Leaves out: what is shown.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from mopdsim.app import charts
from mopdsim.base.errors import MopdError
from mopdsim.base.numbers import count, duration, usd

_RISKY = ("=", "+", "-", "@", "\t", "\r")
_WIDTH, _LETTERS = 640, 125  # of a picture, and of a line of its notes
_SHEET_NAME = 31  # letters that XLSX allows
_STYLED = 50_000  # cells, of a longer table numbers are as they come: half a second


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
    found = {
        **spec,
        "width": _WIDTH,
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


GRADE_COLORS = {"measured": "green", "published": "blue", "fitted": "violet", "prior": "gray"}
_CAUTIONS = 2  # on a picture; a workbook has all
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@contextmanager
def said() -> Iterator[None]:
    """A user's error inside is one sentence on the page, and the page goes on after it."""
    try:
        yield
    except MopdError as error:
        st.error(str(error))


def grade(name: str) -> str:
    """A grade as a small coloured word."""
    return f":{GRADE_COLORS[name]}-badge[{name}]"


def figure(
    title: str, frame: pd.DataFrame, spec: Mapping[str, Any], *, key: str, says: str, note: str = ""
) -> None:
    """A title, what the chart says in a sentence and how to read it; the chart; folded, its table with CSV and PNG.

    The chart's alternative text is its title and note: one that held numbers would have the browser build the chart
    anew at every change. The numbers are in the sentence and in the table.
    """
    alt = f"{title}. {note}".strip()
    heading(title, f"{says} {note}")
    st.vega_lite_chart(frame, {**spec, "padding": {"bottom": 0}}, key=key, alt=alt)
    below(title, frame, spec, key=key)


def calendar(
    title: str, stages: pd.DataFrame, document: Mapping[str, Any], *, key: str, by_pool: bool = False
) -> None:
    """When each stage of a forecast runs. stages: `frames.stages` of the document."""
    figure(
        title, stages, charts.gantt(by_pool), key=key,
        says=f"{len(stages)} stages; the last ends after {duration(document['days']['p50'])} at P50.",
        note="Bar: P50. Line: to the P90 of its end.",
    )  # fmt: skip


def heading(title: str, says: str) -> None:
    """A chart's title, and small under it what it says and how to read it."""
    st.markdown(f"**{plain(title)}**  \n:gray[:small[{plain(says)}]]")


def below(title: str, frame: pd.DataFrame, spec: Mapping[str, Any], *, key: str) -> None:
    """Folded under a chart: its table with CSV, and its PNG."""
    fold("Table and files", f"{key}_table", lambda: table(frame, key=key, alt=f"Table: {title}", spec=spec))


def fold(title: str, key: str, draw: Callable[[], object], **look: Any) -> None:
    """Folded under a title: drawn when it is opened."""
    opened(st.expander(title, key=key, on_change="rerun", **look), draw)


def tabs(parts: Mapping[str, Callable[[], object]], *, key: str) -> None:
    """Tabs by title, of which only the open one is drawn."""
    for tab, draw in zip(st.tabs(list(parts), key=key, on_change="rerun"), parts.values(), strict=True):
        opened(tab, draw)


def opened(box: Any, draw: Callable[[], object]) -> None:
    """Draw inside a container where it is open."""
    if box.open:
        with box:
            draw()


def table(
    frame: pd.DataFrame,
    *,
    key: str,
    alt: str,
    spec: Mapping[str, Any] | None = None,
    shown_as: Mapping[str, Callable[[float], str]] | None = None,
) -> None:
    """A table with its CSV, and the PNG of the chart it belongs to. Numbers are as people read them, by default three
    digits or dollars; shown_as: the columns that are read otherwise. The CSV has them whole."""
    words: dict[Any, Any] = {
        name: usd if "USD" in str(name) else count for name in frame.select_dtypes("number")
    }
    small = frame.size <= _STYLED and frame.columns.is_unique
    rows = frame.style.format(words | dict(shown_as or {}), na_rep="") if small else frame
    st.dataframe(rows, hide_index=True, key=f"{key}_rows", alt=alt)
    with st.container(horizontal=True):
        download("CSV", partial(csv_bytes, frame), f"{key}.csv", "text/csv")
        if spec is not None:
            download("PNG", partial(png_bytes, spec, frame), f"{key}.png", "image/png")


Cells = Sequence[tuple[str, str, float | None]]  # row, column and value of what was typed over; None: emptied


def editor(name: str, table: pd.DataFrame, take: Callable[[Cells], None], **settings: Any) -> None:
    """A table of numbers that can be typed over. take: puts what was typed into the choice, of which the table is then
    laid out anew under a key of its own, so that nothing typed outlives what it was typed over."""
    key = f"{name}_{abs(hash(table.to_json()))}"
    st.data_editor(table, key=key, on_change=_typed, args=(key, table, take), placeholder="", **settings)


def _typed(key: str, table: pd.DataFrame, take: Callable[[Cells], None]) -> None:
    rows = st.session_state[key]["edited_rows"].items()
    take(
        [
            (str(table.index[int(row)]), column, value)
            for row, cells in rows
            for column, value in cells.items()
        ]
    )


def workbook(tables: Mapping[str, Callable[[], pd.DataFrame]], name: str) -> None:
    """All tables of a page as one XLSX file; they are made when it is asked for."""
    download(
        "XLSX, all tables",
        lambda: xlsx_bytes({sheet: made() for sheet, made in tables.items()}),
        f"{name}.xlsx",
        XLSX,
    )


def export(
    name: str,
    *,
    title: str,
    inputs: str,
    cautions: Sequence[str],
    picture: tuple[Mapping[str, Any], pd.DataFrame],
    tables: Mapping[str, Callable[[], pd.DataFrame]],
    texts: Mapping[str, str | Callable[[], bytes]],
) -> None:
    """One menu: the chart with title, inputs and cautions (PNG), all tables with the inputs (XLSX), files, the link."""
    menu = st.popover("Export", icon=":material/download:", key=f"export_{name}", on_change="rerun")
    if not menu.open:
        return
    with menu:
        notes = on_a_picture(inputs, cautions)
        download(
            "Slide, PNG", lambda: png_bytes(*picture, title=title, notes=notes), f"{name}.png", "image/png"
        )
        about = pd.DataFrame(
            [("verdict", title), ("inputs", inputs), *(("caution", line) for line in cautions)],
            columns=["what", "says"],
        )
        workbook({"inputs": lambda: about, **tables}, name)
        for file, text in texts.items():
            download(file, text, f"{name}_{file}", "application/toml")
        st.caption("Link to this page:")
        st.code(_address(), language=None, wrap_lines=True)


def on_a_picture(inputs: str, cautions: Sequence[str]) -> list[str]:
    """What stands above a picture's chart: the inputs, the first cautions, and how many more there are."""
    more = len(cautions) - _CAUTIONS
    last = [f"{more} more caution{'s' * (more > 1)}: on the page and in the workbook."] if more > 0 else []
    return [inputs, *cautions[:_CAUTIONS], *last]


def _address() -> str:
    """The page's address with its parameters as they are now."""
    found = urlencode(dict(st.query_params))
    return (st.context.url or "").partition("?")[0] + (f"?{found}" if found else "")


def download(label: str, data: Callable[[], bytes] | str, name: str, mime: str) -> None:
    """A file, made when its button is pressed; the page is not drawn again."""
    st.download_button(
        label,
        data,
        file_name=name,
        mime=mime,
        key=f"get_{name}",
        on_click="ignore",
        icon=":material/download:",
    )


def warnings(lines: tuple[str, ...] | list[str]) -> None:
    """What to know before the numbers are used."""
    if lines:
        text = "\n".join(f"- {plain(line)}" for line in lines)
        title = f"{len(lines)} cautions about these numbers"
        fold(title, "cautions", lambda: st.markdown(text), icon=":material/info:")


def caption(text: str) -> None:
    """Small text in which Markdown's signs stand for themselves."""
    st.caption(plain(text))


def plain(text: str) -> str:
    """Text in which Markdown's signs stand for themselves."""
    for sign in "\\`*_[]<>$~#|":
        text = text.replace(sign, f"\\{sign}")
    return text
