"""Charts of the planner's answer: plans, scores, frontier, GPUs in use, sensitivity. Leaves out: their tables."""

from __future__ import annotations

from mopdsim.app.charts.forecasts import intervals
from mopdsim.app.charts.parts import FIT, LEVEL, LOSS, ROW, Spec, at, hover, legend, names, nominal


def domain_scores() -> Spec:
    """Scores of one plan: bar P10 to P90, dot P50."""
    tips = hover("domain", P10=".3f", P50=".3f", P90=".3f")
    return intervals("domain", ("P10", "P50", "P90"), {"value": "#2f7fba"}, tips, title="pass rate")


def plans() -> Spec:
    """Score of each plan: bar P10 to P90, dot mean."""
    tips = hover("plan", P10=".3f", mean=".3f", P90=".3f", USD=",.0f", days=".1f")
    return intervals("plan", ("P10", "mean", "P90"), {"value": "#2f7fba"}, tips, title="score")


def frontier(*, budget: bool) -> Spec:
    """Value against cost, coloured and shaped by family, sized by days; points can be picked. budget: a line at it."""
    family = {**nominal("family"), "legend": legend(True)}
    x = {"scale": {"type": "log"}, "axis": {"format": "$~s"}, "title": "cost, P50"}
    points = {
        "params": [{"name": "point", "select": {"type": "point", "fields": ["place"]}}],
        "mark": {"type": "point", "filled": True, "cursor": "pointer", "opacity": 0.9},
        "encoding": {
            "x": at("USD", **x),
            "y": at("value", scale={"zero": False}, title="score"),
            "color": family,
            "shape": family,
            "size": at("days", scale={"range": [40, 260]}, legend=None),
            "opacity": {"condition": {"param": "point", "value": 1}, "value": 0.35},
            "tooltip": hover("plan", value=".3f", USD="$,.0f", days=".1f"),
        },
    }
    line = {
        "mark": {"type": "rule", "strokeDash": [5, 4], "color": LOSS},
        "encoding": {"x": {**at("budget", **x), "aggregate": "max"}},
    }
    return {"autosize": FIT, "height": 260, "layer": [points, *([line] if budget else [])]}


def gpus_in_use() -> Spec:
    """GPUs used and idle over the days, one band on the other."""
    order = {"domain": ["used", "idle"], "range": ["#2f7fba", "#c9d1d9"]}
    return {
        "autosize": FIT,
        "height": 70,
        "mark": {"type": "rect"},
        "encoding": {
            "x": at("from", title="days from the start"),
            "x2": {"field": "to"},
            "y": at("low", title="GPUs"),
            "y2": {"field": "high"},
            "color": {
                "field": "GPUs are",
                "type": "nominal",
                "scale": order,
                "title": None,
                "legend": legend(True),
            },
            "tooltip": hover("GPUs are", **{"GPUs": ",.0f", "from": ".1f", "to": ".1f"}),
        },
    }


def sobol() -> Spec:
    """Share of the variance that each input accounts for: bar total, tick first order."""
    tips = hover("input", first=".3f", total=".3f")
    y = {**names("input"), "sort": {"field": "total", "order": "descending"}}
    return {
        "autosize": FIT,
        "height": {"step": ROW},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.6}, "color": "#2f7fba", "opacity": 0.7},
                "encoding": {"y": y, "x": at("total", title="share of variance"), "tooltip": tips},
            },
            {
                "mark": {"type": "tick", "thickness": 3, "color": LEVEL},
                "encoding": {"y": y, "x": at("first"), "tooltip": tips},
            },
        ],
    }
