"""Charts of what was measured: runs as they go, predictions against measurements. Leaves out: the tables they draw."""

from __future__ import annotations

from typing import Any

from mopdsim.app.charts.parts import FIT, GAIN, LEVEL, LOSS, ROW, Spec, at, hover, legend, names, nominal


def pass_rates() -> Spec:
    """Pass rate by step of one stage, a line a domain."""
    return _lines("pass rate", "domain", scale={"domain": [0, 1]})


def training(quantity: str) -> Spec:
    """One quantity of training by step, a line a stage."""
    return _lines("value", "stage", title=quantity)


def cost_split() -> Spec:
    """Seconds by stage, stacked by phase."""
    return {
        "autosize": FIT,
        "height": {"step": ROW},
        "mark": {"type": "bar", "height": {"band": 0.6}},
        "encoding": {
            "y": names("stage"),
            "x": at("seconds", title="seconds"),
            "color": {**nominal("phase"), "legend": legend(True)},
            "tooltip": hover("stage", "phase", seconds=".1f"),
        },
    }


def _lines(y: str, color: str, **more: Any) -> Spec:
    tips = [*hover(color), *hover(**{"step": ".0f", y: ".3f"})]
    return {
        "autosize": FIT,
        "height": 220,
        "mark": {"type": "line", "point": {"size": 30}},
        "encoding": {
            "x": at("step", axis={"tickMinStep": 1}),
            "y": at(y, **more),
            "color": {**nominal(color), "legend": legend(True)},
            "tooltip": tips,
        },
    }


def predicted(ratio: bool) -> Spec:
    """Predictions with their 80% interval against measurements, and the diagonal of exact ones."""
    scale = {"type": "log", "nice": False, "padding": 12} if ratio else {"zero": False}
    shapes = {"domain": ["inside", "outside"]}
    x, y = at("measured", scale=scale), at("P50", scale=scale, title="predicted")
    tips = hover("what", "80% interval", **dict.fromkeys(("measured", "P10", "P50", "P90"), ".4g"))
    inside = {"field": "80% interval", "type": "nominal", "title": None, "legend": legend(True)}
    colored = {**inside, "scale": {**shapes, "range": [GAIN, LOSS]}}
    return {
        "autosize": FIT,
        "height": 340,
        "layer": [
            {
                "mark": {"type": "line", "strokeDash": [4, 4], "color": LEVEL},
                "encoding": {"x": x, "y": at("measured", scale=scale, title="predicted")},
            },
            {
                "mark": {"type": "rule", "opacity": 0.45},
                "encoding": {"x": x, "y": at("P10", scale=scale), "y2": {"field": "P90"}, "color": colored},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.9},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colored,
                    "shape": {**inside, "scale": shapes},
                    "tooltip": tips,
                },
            },
        ],
    }


def residuals(column: str) -> Spec:
    """How many predictions miss by how much."""
    return {
        "autosize": FIT,
        "height": 160,
        "layer": [
            {
                "mark": {"type": "bar", "color": LEVEL},
                "encoding": {
                    "x": at(column, bin={"maxbins": 30}, title=column),
                    "y": {"aggregate": "count", "title": "predictions"},
                },
            },
            {"mark": {"type": "rule", "color": LOSS, "strokeDash": [4, 4]}, "encoding": {"x": {"datum": 0}}},
        ],
    }
