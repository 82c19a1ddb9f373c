"""Vega-Lite specifications of the app's charts, as plain data over the tables that pages make.

A specification depends on what is shown, not on its numbers, so that a redraw only swaps rows. Colours come from the
theme (`.streamlit/config.toml`); meaning never hangs on colour alone. Leaves out: the tables, the alternative texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
GAIN, LOSS, LEVEL = "#2f8f6f", "#d0632a", "#75828f"  # readable on light and dark
PLAN = "#2f7fba"
ROW = 26  # pixels of a horizontal bar
LABEL = 150  # pixels of a row's label at most
FIT = {"type": "fit-x", "contains": "padding"}  # as wide as the page, as high as the rows
_RATES = {"scale": {"zero": False, "nice": True}}
_INTERVAL = {"height": {"band": 0.55}, "opacity": 0.4, "cornerRadius": 2}
_DOLLARS = {"USD P10": "$,.0f", "USD": "$,.0f", "USD P90": "$,.0f"}


def at(field: str, **more: Any) -> dict[str, Any]:
    """A quantity on an axis."""
    return {"field": field, "type": "quantitative", **more}


def names(field: str, **more: Any) -> dict[str, Any]:
    """A row for each name, in the table's order."""
    plain = {"field": field, "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": LABEL}}
    return {**plain, **more}


def nominal(field: str, *, legend: bool = True, **more: Any) -> dict[str, Any]:
    """A colour by name, with a legend under the chart, its marks as full as in the chart, or none."""
    solid = {"symbolOpacity": 1, "symbolSize": 80, "symbolStrokeWidth": 0}
    below = {"orient": "bottom", "columns": 3, "title": None, **solid} if legend else None
    return {"field": field, "type": "nominal", "title": None, "legend": below, **more}


def hover(*names: str, **formats: str) -> list[Mapping[str, Any]]:
    """What a tooltip shows: names, then numbers in their formats."""
    return [
        *({"field": name, "type": "nominal"} for name in names),
        *({"field": name, "type": "quantitative", "format": form} for name, form in formats.items()),
    ]


def layer(kind: str, style: Mapping[str, Any], *, where: str = "", **encoding: Any) -> Spec:
    """Marks of one kind in a style, of the rows for which an expression holds."""
    drawn = {"mark": {"type": kind, **style}, "encoding": encoding}
    return {"transform": [{"filter": where}], **drawn} if where else drawn


def chart(height: Any, *layers: Spec, **more: Any) -> Spec:
    """One layer alone, or several over each other, as wide as the page."""
    return {
        "autosize": FIT,
        "height": height,
        **more,
        **(layers[0] if len(layers) == 1 else {"layer": [*layers]}),
    }


def intervals(
    row: str, columns: tuple[str, str, str], color: Any, tips: Sequence[Mapping[str, Any]], **x: Any
) -> Spec:
    """A bar from the first column to the last and a dot at the middle one, for each row."""
    low, middle, high = columns
    y, x = names(row), {**_RATES, **x}
    dot = {"filled": True, "size": 60, "opacity": 1, "strokeWidth": 2}
    return chart(
        {"step": ROW},
        layer("bar", _INTERVAL, y=y, x=at(low, **x), x2={"field": high}, color=color, tooltip=tips),
        layer("point", dot, y=y, x=at(middle, **x), color=color, tooltip=tips),
    )


def scores(scenarios: Sequence[str]) -> Spec:
    """Intervals of the final score by domain and scenario: bar P10 to P90, point P50, tick where the base starts."""
    several, x = len(scenarios) > 1, {"title": "pass rate", **_RATES}
    color = nominal("scenario", scale={"domain": list(scenarios)}, legend=several)
    base: Spec = {
        "y": names("domain"),
        "yOffset": {"field": "scenario", "type": "nominal", "sort": list(scenarios)},
        "tooltip": hover("scenario", "domain", "grade", start=".3f", P10=".3f", P50=".3f", P90=".3f"),
    }
    return chart(
        {"step": 12 if several else ROW},
        layer("bar", _INTERVAL, **base, x=at("P10", **x), x2={"field": "P90"}, color=color),
        layer("point", {"filled": True, "size": 55, "opacity": 1}, **base, x=at("P50", **x), color=color),
        layer("tick", {"thickness": 2, "color": LEVEL}, **base, x=at("start", **x)),
    )


def waterfall() -> Spec:
    """From the base's score through causes to the final one: bars that hang where the last one ended."""
    x = {"title": "pass rate", "scale": {**_RATES["scale"], "padding": 40}}
    kinds = {"domain": ["level", "gain", "loss"], "range": [LEVEL, GAIN, LOSS]}
    y = names("cause", sort={"field": "place"})
    color = {"field": "kind", "type": "nominal", "scale": kinds, "legend": None}
    number = layer(
        "text", {"align": "left", "dx": 6, "color": LEVEL}, y=y, x=at("end", **x), text={"field": "label"}
    )
    end = "datum.kind == 'level' ? datum.to : max(datum.from, datum.to)"
    label = "format(datum.change, datum.kind == 'level' ? '.3f' : '+.3f')"
    number["transform"] = [{"calculate": end, "as": "end"}, {"calculate": label, "as": "label"}]
    return chart(
        {"step": ROW},
        layer(
            "bar", {"height": {"band": 0.6}, "cornerRadius": 2}, where="datum.kind != 'level'", y=y,
            x=at("from", **x), x2={"field": "to"}, color=color, tooltip=hover("cause", change="+.4f", to=".4f"),
        ),
        layer(
            "tick", {"thickness": 4, "band": 0.8, "color": LEVEL}, where="datum.kind == 'level'", y=y,
            x=at("to", **x), tooltip=hover("cause", to=".4f"),
        ),
        number,
    )  # fmt: skip


def stage_costs(scenarios: Sequence[str]) -> Spec:
    """Dollars by scenario, stacked by the kind of stage."""
    bar = layer(
        "bar", {"height": {"band": 0.6}, "stroke": "white", "strokeWidth": 0.6},
        y=names("scenario", sort=list(scenarios)), x=at("USD", title="cost, P50", axis={"format": "$~s"}),
        color=nominal("kind"), order={"field": "start day"}, tooltip=hover("scenario", "stage", "kind", **_DOLLARS),
    )  # fmt: skip
    return chart({"step": ROW + 8}, bar)


def gantt(by_pool: bool) -> Spec:
    """When each stage runs at P50, with a line to where its end is at P90; coloured by kind, or by pool."""
    days = {"start day": ".2f", "end day": ".2f", "end day P90": ".2f"}
    base: Spec = {
        "y": names("stage", sort={"field": "start day"}),
        "tooltip": hover("stage", "kind", "pool", "GPUs", **days),
    }
    x, color = {"title": "days from the start"}, nominal("pool" if by_pool else "kind")
    bar, line = {"height": {"band": 0.6}, "cornerRadius": 2}, {"strokeWidth": 2, "color": LEVEL}
    return chart(
        {"step": 22},
        layer("bar", bar, **base, x=at("start day", **x), x2={"field": "end day"}, color=color),
        layer("rule", line, **base, x=at("end day", **x), x2={"field": "end day P90"}),
    )


def cost_per_stage() -> Spec:
    """Dollars of each stage: bar P10 to P90, dot P50."""
    low, middle, high = _DOLLARS
    tips = hover("stage", "kind", **_DOLLARS, **{"GPU-hours": ",.0f"})
    return intervals("stage", (low, middle, high), nominal("kind"), tips, title="USD", axis={"format": "$~s"})


def ranking() -> Spec:
    """Mean score of each recipe: bar P10 to P90, dot P50, hollow where the budget was not met."""
    columns = ("mean P10", "mean P50", "mean P90")
    tips = hover(
        "recipe", "sort", **dict.fromkeys((*columns, "worst P50", "cap P50"), ".3f"), **{"below start": ".0%"}
    )
    spec = intervals("recipe", columns, nominal("sort"), tips, title="mean pass rate")
    met = {"field": "within budget", "type": "nominal", "legend": None}
    spec["layer"][1]["encoding"]["fillOpacity"] = {**met, "scale": {"domain": [True, False], "range": [1, 0]}}
    return spec


def domain_scores() -> Spec:
    """Scores of one plan: bar P10 to P90, dot P50."""
    tips = hover("domain", P10=".3f", P50=".3f", P90=".3f")
    return intervals("domain", ("P10", "P50", "P90"), {"value": PLAN}, tips, title="pass rate")


def plans() -> Spec:
    """Score of each plan: bar P10 to P90, dot mean."""
    tips = hover("plan", P10=".3f", mean=".3f", P90=".3f", USD=",.0f", days=".1f")
    return intervals("plan", ("P10", "mean", "P90"), {"value": PLAN}, tips, title="score")


def frontier(*, budget: bool) -> Spec:
    """Value against cost, coloured and shaped by family, sized by days; points can be picked. budget: a line at it."""
    x = {"scale": {"type": "log"}, "axis": {"format": "$~s"}, "title": "cost, P50"}
    points = layer(
        "point", {"filled": True, "cursor": "pointer", "opacity": 0.9},
        x=at("USD", **x), y=at("value", scale={"zero": False}, title="score"),
        color=nominal("family"), shape=nominal("family"),
        size=at("days", scale={"range": [40, 260]}, legend=None),
        opacity={"condition": {"param": "point", "value": 1}, "value": 0.35},
        tooltip=hover("plan", value=".3f", USD="$,.0f", days=".1f"),
    )  # fmt: skip
    points["params"] = [{"name": "point", "select": {"type": "point", "fields": ["place"]}}]
    line = layer("rule", {"strokeDash": [5, 4], "color": LOSS}, x={**at("budget", **x), "aggregate": "max"})
    return {"autosize": FIT, "height": 260, "layer": [points, *([line] if budget else [])]}


def gpus_in_use() -> Spec:
    """GPUs used and idle over the days, one band on the other."""
    order = {"domain": ["used", "idle"], "range": [PLAN, "#c9d1d9"]}
    band = layer(
        "rect", {}, x=at("from", title="days from the start"), x2={"field": "to"}, y=at("low", title="GPUs"),
        y2={"field": "high"}, color=nominal("GPUs are", scale=order),
        tooltip=hover("GPUs are", **{"GPUs": ",.0f", "from": ".1f", "to": ".1f"}),
    )  # fmt: skip
    return chart(70, band)


def sobol() -> Spec:
    """Share of the variance that each input accounts for: bar total, tick first order."""
    base: Spec = {
        "y": names("input", sort={"field": "total", "order": "descending"}, axis={"labelLimit": 3 * LABEL}),
        "tooltip": hover("input", first=".3f", total=".3f"),
    }
    bar = {"height": {"band": 0.6}, "color": PLAN, "opacity": 0.7}
    return chart(
        {"step": ROW},
        layer("bar", bar, **base, x=at("total", title="share of variance")),
        layer("tick", {"thickness": 3, "color": LEVEL}, **base, x=at("first")),
    )


def pass_rates() -> Spec:
    """Pass rate by step of one stage, a line a domain."""
    return _lines("pass rate", "domain", scale={"domain": [0, 1]})


def training(quantity: str) -> Spec:
    """One quantity of training by step, a line a stage."""
    return _lines("value", "stage", title=quantity)


def _lines(y: str, color: str, **more: Any) -> Spec:
    tips = [*hover(color), *hover(**{"step": ".0f", y: ".3f"})]
    x = at("step", axis={"tickMinStep": 1})
    return chart(
        220, layer("line", {"point": {"size": 30}}, x=x, y=at(y, **more), color=nominal(color), tooltip=tips)
    )


def cost_split() -> Spec:
    """Seconds by stage, stacked by phase."""
    bar = layer(
        "bar", {"height": {"band": 0.6}}, y=names("stage"), x=at("seconds", title="seconds"),
        color=nominal("phase"), tooltip=hover("stage", "phase", seconds=".1f"),
    )  # fmt: skip
    return chart({"step": ROW}, bar)


def predicted(ratio: bool) -> Spec:
    """Predictions with their 80% interval against measurements, and the diagonal of exact ones."""
    scale = {"type": "log", "nice": False, "padding": 12} if ratio else {"zero": False}
    shapes = {"domain": ["inside", "outside"]}
    x, y = at("measured", scale=scale), at("P50", scale=scale, title="predicted")
    tips = hover("what", "80% interval", **dict.fromkeys(("measured", "P10", "P50", "P90"), ".4g"))
    color = nominal("80% interval", scale={**shapes, "range": [GAIN, LOSS]})
    exact, end = at("measured", scale=scale, title="predicted"), at("P10", scale=scale)
    return chart(
        340,
        layer("line", {"strokeDash": [4, 4], "color": LEVEL}, x=x, y=exact),
        layer("rule", {"opacity": 0.45}, x=x, y=end, y2={"field": "P90"}, color=color),
        layer(
            "point", {"filled": True, "size": 45, "opacity": 0.9}, x=x, y=y, color=color,
            shape=nominal("80% interval", scale=shapes), tooltip=tips,
        ),
    )  # fmt: skip


def residuals(column: str) -> Spec:
    """How many predictions miss by how much."""
    x = at(column, bin={"maxbins": 30}, title=column)
    return chart(
        160,
        layer("bar", {"color": LEVEL}, x=x, y={"aggregate": "count", "title": "predictions"}),
        layer("rule", {"color": LOSS, "strokeDash": [4, 4]}, x={"datum": 0}),
    )


def heat_map(domains: Sequence[str]) -> Spec:
    """K as coloured cells, its P50 written where it is not nothing: source down, target across."""
    order = list(domains)
    labels = {"labelLimit": 110, "labelOverlap": False}
    color = at("P50", title="K", scale={"domain": [-0.5, 0.5], "range": "diverging", "clamp": True})
    below = {"orient": "bottom", "gradientLength": 160}
    faint = {"condition": {"test": "abs(datum.P50) < 0.3", "value": LEVEL}, "value": "white"}
    base: Spec = {
        "x": {"field": "target", "type": "nominal", "sort": order, "axis": {"labelAngle": -60, **labels}},
        "y": {"field": "source", "type": "nominal", "sort": order, "axis": labels},
        "tooltip": hover("source", "target", "grade", P10="+.2f", P50="+.2f", P90="+.2f"),
    }
    written, number = "abs(datum.P50) >= 0.005", at("P50", format="+.2f")
    return chart(
        {"step": 34},
        layer("rect", {}, **base, color={**color, "legend": below}),
        layer("text", {"fontSize": 10}, where=written, **base, text=number, color=faint),
    )


def signed_graph() -> Spec:
    """Domains on a circle, coloured by teacher; half lines by sign (dashed hurts) and size."""
    plain = {"axis": None, "scale": {"domain": [-1.3, 1.3]}}
    signs = {"domain": ["helps", "hurts"]}
    widths = {"domain": [0, 0.5], "range": [0.5, 6], "clamp": True}
    spot = {"x": at("x", **plain), "y": at("y", **plain)}
    sign = {"field": "sign", "type": "nominal", "legend": None}
    link, node = "datum.part == 'link'", "datum.part == 'node'"
    return chart(
        320,
        layer(
            "rule", {"opacity": 0.85}, where=link, **spot, x2={"field": "x2"}, y2={"field": "y2"},
            color={**sign, "scale": {**signs, "range": [GAIN, LOSS]}},
            strokeDash={**sign, "scale": {**signs, "range": [[1, 0], [4, 3]]}},
            strokeWidth=at("size", scale=widths, legend=None),
            tooltip=hover("source", "target", "sign", K="+.2f"),
        ),
        layer(
            "circle", {"size": 420, "opacity": 1}, where=node, **spot, color=nominal("teacher"),
            tooltip=hover("domain", "teacher"),
        ),
        layer("text", {"color": LEVEL, "fontSize": 12, "dy": 22}, where=node, **spot, text={"field": "domain"}),
        view={"stroke": None}, resolve={"scale": {"color": "independent"}},
    )  # fmt: skip
