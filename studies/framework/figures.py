"""A report's charts as SVG, the same from the same numbers. Leaves out: what they show
(`studies.framework.analysis`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.framework.analysis import Chart

WIDTH, HEIGHT, COLUMNS = 260, 180, 3


def draw(chart: Chart, folder: Path) -> Path:
    """Write FOLDER/NAME.svg."""
    import altair as alt

    base = alt.Chart(chart.frame).encode(x=_axis(chart, chart.x))
    y = _axis(chart, chart.y, up=True)
    layers = []
    if chart.diagonal:
        dashed = base.mark_line(strokeDash=[4, 4], color="grey")
        layers.append(dashed.encode(y=alt.Y(f"{chart.x}:Q", title=chart.y.replace("_", " "))))
    if chart.colour is not None:
        base = base.encode(color=alt.Color(f"{chart.colour}:N"))
    marks = base.mark_line(point=True) if chart.mark == "line" else base.mark_point(filled=True)
    layers.append(marks.encode(y=y))
    if chart.low is not None and chart.high is not None:
        layers.append(
            base.mark_rule(opacity=0.5).encode(y=alt.Y(f"{chart.low}:Q"), y2=alt.Y2(f"{chart.high}:Q"))
        )
    picture: Any = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    if chart.panel is not None:
        picture = picture.facet(facet=alt.Facet(f"{chart.panel}:N", title=None), columns=COLUMNS)
    path = folder / f"{chart.name}.svg"
    picture.save(path)
    return path


def _axis(chart: Chart, name: str, *, up: bool = False) -> Any:
    """A quantitative axis that need not start at zero where the column holds numbers, names otherwise."""
    import altair as alt
    import pandas as pd

    kind = "Q" if pd.api.types.is_numeric_dtype(chart.frame[name]) else "N"
    axis = (alt.Y if up else alt.X)(f"{name}:{kind}", title=name.replace("_", " "))
    return axis.scale(zero=False) if kind == "Q" else axis
