"""Charts of the planner's answer: scores, frontier, sensitivity. Leaves out: the tables they draw."""

from __future__ import annotations

from mopdsim.app.charts.forecasts import intervals
from mopdsim.app.charts.parts import FIT, LEVEL, ROW, Spec, at, hover, legend, names, nominal


def domain_scores() -> Spec:
    """Scores of one plan: bar P10 to P90, dot P50."""
    tips = hover("domain", P10=".3f", P50=".3f", P90=".3f")
    return intervals("domain", ("P10", "P50", "P90"), {"value": "#2f7fba"}, tips, title="pass rate")


def frontier() -> Spec:
    """Value against cost, coloured and shaped by family, sized by days; points can be picked."""
    family = {**nominal("family"), "legend": legend(True)}
    return {
        "autosize": FIT,
        "height": 320,
        "params": [{"name": "point", "select": {"type": "point", "fields": ["place"]}}],
        "mark": {"type": "point", "filled": True, "cursor": "pointer", "opacity": 0.9},
        "encoding": {
            "x": at("USD", scale={"type": "log"}, axis={"format": "~s"}, title="cost, USD, P50"),
            "y": at("value", scale={"zero": False}, title="what counts"),
            "color": family,
            "shape": family,
            "size": at("days", scale={"range": [40, 260]}, legend=None),
            "opacity": {"condition": {"param": "point", "value": 1}, "value": 0.35},
            "tooltip": hover("plan", value=".3f", USD=",.0f", days=".1f"),
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
