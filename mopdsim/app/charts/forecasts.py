"""Charts of forecasts: scores, what caps them, cost, calendar, ranking. Leaves out: the tables they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.app.charts.parts import FIT, GAIN, LEVEL, LOSS, ROW, Spec, at, hover, legend, names, nominal


def scores(scenarios: Sequence[str]) -> Spec:
    """Intervals of the final score by domain and scenario: bar P10 to P90, point P50, tick where the base starts."""
    y = names("domain")
    offset = {"field": "scenario", "type": "nominal", "sort": list(scenarios)}
    color = {**nominal("scenario", list(scenarios)), "legend": legend(len(scenarios) > 1)}
    x = {"title": "pass rate", "scale": {"zero": False, "nice": True}}
    base = {"y": y, "yOffset": offset}
    tips = hover("scenario", "domain", "grade", start=".3f", P10=".3f", P50=".3f", P90=".3f")
    return {
        "autosize": FIT,
        "height": {"step": 12 if len(scenarios) > 1 else ROW},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.55}, "opacity": 0.4, "cornerRadius": 2},
                "encoding": {
                    **base,
                    "x": at("P10", **x),
                    "x2": {"field": "P90"},
                    "color": color,
                    "tooltip": tips,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {**base, "x": at("P50", **x), "color": color, "tooltip": tips},
            },
            {
                "mark": {"type": "tick", "thickness": 2, "color": LEVEL},
                "encoding": {**base, "x": at("start", **x), "tooltip": tips},
            },
        ],
    }


def waterfall() -> Spec:
    """From the base's score through causes to the final one: bars that hang where the last one ended."""
    x = {"title": "pass rate", "scale": {"zero": False, "nice": True, "padding": 40}}
    kinds = {"domain": ["level", "gain", "loss"], "range": [LEVEL, GAIN, LOSS]}
    y = {**names("cause"), "sort": {"field": "place"}}
    return {
        "autosize": FIT,
        "height": {"step": ROW},
        "layer": [
            {
                "transform": [{"filter": "datum.kind != 'level'"}],
                "mark": {"type": "bar", "height": {"band": 0.6}, "cornerRadius": 2},
                "encoding": {
                    "y": y,
                    "x": at("from", **x),
                    "x2": {"field": "to"},
                    "color": {"field": "kind", "type": "nominal", "scale": kinds, "legend": None},
                    "tooltip": hover("cause", change="+.4f", to=".4f"),
                },
            },
            {
                "transform": [{"filter": "datum.kind == 'level'"}],
                "mark": {"type": "tick", "thickness": 4, "band": 0.8, "color": LEVEL},
                "encoding": {"y": y, "x": at("to", **x), "tooltip": hover("cause", to=".4f")},
            },
            {
                "transform": [
                    {
                        "calculate": "datum.kind == 'level' ? datum.to : max(datum.from, datum.to)",
                        "as": "end",
                    },
                    {
                        "calculate": "format(datum.change, datum.kind == 'level' ? '.3f' : '+.3f')",
                        "as": "label",
                    },
                ],
                "mark": {"type": "text", "align": "left", "dx": 6, "color": LEVEL},
                "encoding": {"y": y, "x": at("end", **x), "text": {"field": "label"}},
            },
        ],
    }


def stage_costs(scenarios: Sequence[str]) -> Spec:
    """Dollars by scenario, stacked by the kind of stage."""
    return {
        "autosize": FIT,
        "height": {"step": ROW + 8},
        "mark": {"type": "bar", "height": {"band": 0.6}, "stroke": "white", "strokeWidth": 0.6},
        "encoding": {
            "y": {**names("scenario"), "sort": list(scenarios)},
            "x": at("USD", title="cost, P50", axis={"format": "$~s"}),
            "color": {**nominal("kind"), "legend": legend(True)},
            "order": {"field": "start day"},
            "tooltip": hover(
                "scenario", "stage", "kind", **{"USD P10": "$,.0f", "USD": "$,.0f", "USD P90": "$,.0f"}
            ),
        },
    }


def gantt(by_pool: bool = False) -> Spec:
    """When each stage runs at P50, with a line to where its end is at P90; coloured by kind, or by pool."""
    y = {**names("stage"), "sort": {"field": "start day"}}
    tips = hover(
        "stage", "kind", "pool", "GPUs", **{"start day": ".2f", "end day": ".2f", "end day P90": ".2f"}
    )
    x = {"title": "days from the start"}
    return {
        "autosize": FIT,
        "height": {"step": 22},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.6}, "cornerRadius": 2},
                "encoding": {
                    "y": y,
                    "x": at("start day", **x),
                    "x2": {"field": "end day"},
                    "color": {**nominal("pool" if by_pool else "kind"), "legend": legend(True)},
                    "tooltip": tips,
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2, "color": LEVEL},
                "encoding": {
                    "y": y,
                    "x": at("end day", **x),
                    "x2": {"field": "end day P90"},
                    "tooltip": tips,
                },
            },
        ],
    }


def cost_per_stage() -> Spec:
    """Dollars of each stage: bar P10 to P90, dot P50."""
    tips = hover(
        "stage", "kind", **{"USD P10": "$,.0f", "USD": "$,.0f", "USD P90": "$,.0f", "GPU-hours": ",.0f"}
    )
    color = {**nominal("kind"), "legend": legend(True)}
    return intervals("stage", ("USD P10", "USD", "USD P90"), color, tips, title="USD", axis={"format": "$~s"})


def ranking() -> Spec:
    """Mean score of each recipe: bar P10 to P90, dot P50, hollow where the budget was not met."""
    columns = ("mean P10", "mean P50", "mean P90")
    tips = hover(
        "recipe", "sort", **dict.fromkeys((*columns, "worst P50", "cap P50"), ".3f"), **{"below start": ".0%"}
    )
    color = {**nominal("sort"), "legend": legend(True)}
    spec = intervals("recipe", columns, color, tips, title="mean pass rate")
    met = {"field": "within budget", "type": "nominal", "legend": None}
    spec["layer"][1]["encoding"]["fillOpacity"] = {**met, "scale": {"domain": [True, False], "range": [1, 0]}}
    return spec


def intervals(
    row: str,
    columns: tuple[str, str, str],
    color: Mapping[str, Any],
    tips: Sequence[Mapping[str, Any]],
    **x: Any,
) -> Spec:
    """A bar from the first column to the last and a dot at the middle one, for each row."""
    low, middle, high = columns
    y, x = names(row), {"scale": {"zero": False, "nice": True}, **x}
    return {
        "autosize": FIT,
        "height": {"step": ROW},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.55}, "opacity": 0.4, "cornerRadius": 2},
                "encoding": {
                    "y": y,
                    "x": at(low, **x),
                    "x2": {"field": high},
                    "color": color,
                    "tooltip": tips,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "strokeWidth": 2},
                "encoding": {"y": y, "x": at(middle, **x), "color": color, "tooltip": tips},
            },
        ],
    }
