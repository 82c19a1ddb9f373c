"""What every page is made of: a chart with its alternative text, its table and its files; a number with its grade.

Leaves out: what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app.files import csv_bytes, png_bytes, xlsx_bytes
from mopdsim.base.errors import MopdError

GRADE_COLORS = {"measured": "green", "published": "blue", "fitted": "violet", "prior": "gray"}
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
    st.markdown(f"**{plain(title)}**  \n:gray[:small[{plain(f'{says} {note}')}]]")
    st.vega_lite_chart(frame, {**spec, "padding": {"bottom": 0}}, key=key, alt=alt)
    below = st.expander("Table and files", key=f"{key}_table", on_change="rerun")
    if below.open:
        with below:
            table(frame, key=key, alt=f"Table: {title}", spec=spec)


def table(frame: pd.DataFrame, *, key: str, alt: str, spec: Mapping[str, Any] | None = None) -> None:
    """A table with its CSV, and the PNG of the chart it belongs to."""
    numbers = {name: st.column_config.NumberColumn(format="%.4g") for name in frame.select_dtypes("number")}
    st.dataframe(frame, hide_index=True, key=f"{key}_rows", alt=alt, column_config=numbers)
    with st.container(horizontal=True):
        download("CSV", partial(csv_bytes, frame), f"{key}.csv", "text/csv")
        if spec is not None:
            download("PNG", partial(png_bytes, spec, frame), f"{key}.png", "image/png")


def workbook(tables: Mapping[str, Callable[[], pd.DataFrame]], name: str) -> None:
    """All tables of a page as one XLSX file; they are made when it is asked for."""
    download(
        "XLSX, all tables",
        lambda: xlsx_bytes({sheet: made() for sheet, made in tables.items()}),
        f"{name}.xlsx",
        XLSX,
    )


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
        below = st.expander(
            f"{len(lines)} cautions about these numbers",
            icon=":material/info:",
            key="cautions",
            on_change="rerun",
        )
        if below.open:
            below.markdown("\n".join(f"- {plain(line)}" for line in lines))


def plain(text: str) -> str:
    """Text in which Markdown's signs stand for themselves."""
    for sign in "\\`*_[]<>$~#|":
        text = text.replace(sign, f"\\{sign}")
    return text
