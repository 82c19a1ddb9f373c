"""What the charts have in common: colours, encodings, legends, tooltips. Leaves out: the charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Spec = dict[str, Any]
GAIN, LOSS, LEVEL = "#2f8f6f", "#d0632a", "#75828f"  # readable on light and dark
ROW = 26  # pixels of a horizontal bar
LABEL = 150  # pixels of a row's label at most
FIT = {"type": "fit-x", "contains": "padding"}  # as wide as the page, as high as the rows


def at(field: str, **more: Any) -> dict[str, Any]:
    """A quantity on an axis."""
    return {"field": field, "type": "quantitative", **more}


def names(field: str) -> dict[str, Any]:
    """A row for each name, in the table's order."""
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": LABEL}}


def nominal(field: str, names: list[str] | None = None) -> dict[str, Any]:
    """A colour by name; the names in order where they are fixed."""
    found: dict[str, Any] = {"field": field, "type": "nominal", "title": None}
    return found if names is None else {**found, "scale": {"domain": names}}


def legend(shown: bool) -> dict[str, Any] | None:
    """Under the chart, its marks as full as in the chart, or none."""
    solid = {"symbolOpacity": 1, "symbolSize": 80, "symbolStrokeWidth": 0}
    return {"orient": "bottom", "columns": 3, "title": None, **solid} if shown else None


def hover(*names: str, **formats: str) -> list[Mapping[str, Any]]:
    """What a tooltip shows: names, then numbers in their formats."""
    return [
        *({"field": name, "type": "nominal"} for name in names),
        *({"field": name, "type": "quantitative", "format": form} for name, form in formats.items()),
    ]
