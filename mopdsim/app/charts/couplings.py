"""Charts of interference: K as cells, and as a signed graph. Leaves out: the tables they draw."""

from __future__ import annotations

from collections.abc import Sequence

from mopdsim.app.charts.parts import FIT, GAIN, LEVEL, LOSS, Spec, at, hover, legend, nominal


def heat_map(domains: Sequence[str]) -> Spec:
    """K as coloured cells, its P50 written where it is not nothing: source down, target across."""
    order = list(domains)
    labels = {"labelLimit": 110, "labelOverlap": False}
    x = {"field": "target", "type": "nominal", "sort": order, "axis": {"labelAngle": -60, **labels}}
    y = {"field": "source", "type": "nominal", "sort": order, "axis": labels}
    color = at("P50", title="K", scale={"domain": [-0.5, 0.5], "range": "diverging", "clamp": True})
    below = {"orient": "bottom", "gradientLength": 160}
    tips = hover("source", "target", "grade", P10="+.2f", P50="+.2f", P90="+.2f")
    faint = {"condition": {"test": "abs(datum.P50) < 0.3", "value": LEVEL}, "value": "white"}
    return {
        "autosize": FIT,
        "height": {"step": 34},
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {"x": x, "y": y, "color": {**color, "legend": below}, "tooltip": tips},
            },
            {
                "transform": [{"filter": "abs(datum.P50) >= 0.005"}],
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "x": x,
                    "y": y,
                    "text": at("P50", format="+.2f"),
                    "color": faint,
                    "tooltip": tips,
                },
            },
        ],
    }


def signed_graph() -> Spec:
    """Domains on a circle, coloured by teacher; half lines by sign (dashed hurts) and size."""
    plain = {"axis": None, "scale": {"domain": [-1.3, 1.3]}}
    signs = {"domain": ["helps", "hurts"]}
    widths = {"domain": [0, 0.5], "range": [0.5, 6], "clamp": True}
    spot = {"x": at("x", **plain), "y": at("y", **plain)}
    sign = {"field": "sign", "type": "nominal", "legend": None}
    color = {**nominal("teacher"), "legend": legend(True)}
    return {
        "autosize": FIT,
        "height": 320,
        "view": {"stroke": None},
        "resolve": {"scale": {"color": "independent"}},
        "layer": [
            {
                "transform": [{"filter": "datum.part == 'link'"}],
                "mark": {"type": "rule", "opacity": 0.85},
                "encoding": {
                    **spot,
                    "x2": {"field": "x2"},
                    "y2": {"field": "y2"},
                    "color": {**sign, "scale": {**signs, "range": [GAIN, LOSS]}},
                    "strokeDash": {**sign, "scale": {**signs, "range": [[1, 0], [4, 3]]}},
                    "strokeWidth": at("size", scale=widths, legend=None),
                    "tooltip": hover("source", "target", "sign", K="+.2f"),
                },
            },
            {
                "transform": [{"filter": "datum.part == 'node'"}],
                "mark": {"type": "circle", "size": 420, "opacity": 1},
                "encoding": {**spot, "color": color, "tooltip": hover("domain", "teacher")},
            },
            {
                "transform": [{"filter": "datum.part == 'node'"}],
                "mark": {"type": "text", "color": LEVEL, "fontSize": 12, "dy": 22},
                "encoding": {**spot, "text": {"field": "domain"}},
            },
        ],
    }
