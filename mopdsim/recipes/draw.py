"""A recipe's graph as a picture: SVG text that needs no browser feature, font or colour scheme in particular.

Stages stand in layers, each after all it reads (longest path); within a layer the order that crosses least is sought
by barycentres, after Sugiyama. A link over several layers is led between the stages, links of one source and role
together. A picture runs from left to right, from top to bottom where that is narrower. Kinds differ by colour and by
the word under the name, roles of links by dashes and colour; the picture carries a title and a description in words.
Leaves out: amounts (`mopd check`), curves, interaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape

import networkx as nx

from mopdsim.recipes.recipe import Recipe

_BOX, _LANE = (148.0, 40.0), 14.0  # width and height of a stage; breadth of a link that passes a layer
_GAP = {"along": 46.0, "across": 16.0}
_MARGIN, _LEGEND_ROW = 20.0, 22.0
_SWEEPS = 12
_WIDE = 800.0  # a wider picture runs from top to bottom where that is narrower

Color = tuple[str, str]  # in a light and in a dark scheme
KINDS: Mapping[str, tuple[str, Color, Color]] = {  # words, fill, outline
    "root": ("a model to start from", ("#f3f4f6", "#1f2937"), ("#4b5563", "#9ca3af")),
    "sft": ("supervised fine-tuning", ("#dcfce7", "#14351f"), ("#15803d", "#4ade80")),
    "rl": ("reinforcement learning", ("#dbeafe", "#172a4f"), ("#1d4ed8", "#60a5fa")),
    "distill": ("distillation", ("#ede9fe", "#2e1f55"), ("#6d28d9", "#a78bfa")),
    "reward_model": ("reward model", ("#ffedd5", "#43250c"), ("#c2410c", "#fb923c")),
    "rejection_sampling": ("rejection sampling: a dataset", ("#fef9c3", "#3b3208"), ("#a16207", "#facc15")),
    "preference": ("preference optimisation", ("#fce7f3", "#47142f"), ("#be185d", "#f472b6")),
    "merge": ("merged weights", ("#ccfbf1", "#0f3733"), ("#0f766e", "#2dd4bf")),
}
ROLES: Mapping[str, tuple[str, str, Color]] = {  # words, dashes, colour
    "init": ("starts from", "", ("#374151", "#d1d5db")),
    "teacher": ("is taught by", "7 4", ("#6d28d9", "#a78bfa")),
    "data": ("trains on answers of", "2 4", ("#a16207", "#facc15")),
    "reward": ("is judged by", "9 3 2 3", ("#c2410c", "#fb923c")),
    "input": ("takes in the weights of", "14 4", ("#0f766e", "#2dd4bf")),
}


@dataclass
class _Item:
    """A stage, or a link passing its layer: where it stands. `along` the layers, `across` one."""

    layer: int
    breadth: float
    along: float = 0.0
    across: float = 0.0
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@dataclass
class _Layout:
    """Items by name, layers of names in order, and every link as the items it passes and its role."""

    items: dict[str, _Item]
    layers: list[list[str]]
    links: list[tuple[list[str], str]]
    downwards: bool


def svg(recipe: Recipe) -> str:
    """The picture of a recipe's graph, as the text of an SVG file."""
    graph = recipe.graph()
    layout = _laid_out(graph)
    _place(layout)
    kinds = {name: stage.kind if (stage := graph.nodes[name]["stage"]) else "root" for name in graph}
    roles = {role for _, role in layout.links}
    width, height = _size(layout)
    entries = _legend_entries(kinds.values(), roles)
    wide = max(width, 2 * _MARGIN + 2 * 230)
    columns = max(1, int((wide - 2 * _MARGIN) // 230))
    full = height + _LEGEND_ROW * -(-len(entries) // columns) + _MARGIN / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {full:.0f}" width="{wide:.0f}" '
        f'height="{full:.0f}" role="img" aria-labelledby="mopd-title mopd-desc" class="mopd-graph">',
        f'<title id="mopd-title">{escape(recipe.name)}: its stages</title>',
        f'<desc id="mopd-desc">{escape(described(recipe))}</desc>',
        _style(),
        *_arrows(roles),
        f'<rect class="mopd-page" width="{wide:.0f}" height="{full:.0f}" rx="8"/>',
        *(_link(layout, passed, role) for passed, role in layout.links),
        *(_box(layout, name, kind, name == recipe.output) for name, kind in kinds.items()),
        *_legend(entries, columns, height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def described(recipe: Recipe) -> str:
    """The graph in words, one clause a stage."""
    graph = recipe.graph()
    clauses = []
    for stage in recipe.stages:
        by_role: dict[str, list[str]] = {}
        for source, _, role in graph.in_edges(stage.name, data="role"):
            by_role.setdefault(role, []).append(source)
        links = ", ".join(f"{ROLES[role][0]} {', '.join(by_role[role])}" for role in ROLES if role in by_role)
        clauses.append(f"{stage.name} ({KINDS[stage.kind][0]}) {links}")
    return "; ".join(clauses) + f". The result is {recipe.output}."


def _laid_out(graph: nx.DiGraph) -> _Layout:
    """Stages by layer, and every link led through the layers between."""
    generations = [sorted(names, key=list(graph).index) for names in nx.topological_generations(graph)]
    flat = len(generations) * (_BOX[0] + _GAP["along"])
    tall = max(map(len, generations)) * (_BOX[0] + _GAP["across"])
    downwards = flat > _WIDE and tall < flat
    size = _BOX[0] if downwards else _BOX[1]
    layers = [list(names) for names in generations]
    items = {
        name: _Item(layer=place, breadth=size) for place, names in enumerate(generations) for name in names
    }
    links = []
    for source, target, role in graph.edges(data="role"):
        passed = [source]
        for place in range(items[source].layer + 1, items[target].layer):
            lane = f"{source}>{role}>{place}"
            if lane not in items:
                items[lane] = _Item(layer=place, breadth=_LANE)
                layers[place].append(lane)
            passed.append(lane)
        passed.append(target)
        links.append((passed, role))
        for one, other in pairwise(passed):
            if other not in items[one].after:
                items[one].after.append(other)
                items[other].before.append(one)
    return _Layout(items=items, layers=layers, links=links, downwards=downwards)


def _place(layout: _Layout) -> None:
    """Coordinates: the order within layers by barycentres, then positions near the neighbours' without overlap."""
    items = layout.items
    for names in layout.layers:
        _spread(items, names)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        for names in layout.layers if forward else reversed(layout.layers):
            wished = {
                name: _mean(items[n].across for n in (items[name].before if forward else items[name].after))
                for name in names
            }
            for name in names:
                if (wish := wished[name]) is not None:
                    items[name].across = wish
            names.sort(key=lambda name: items[name].across)
            _spread(items, names)
    depth = _BOX[1] if layout.downwards else _BOX[0]
    least = min(item.across - item.breadth / 2 for item in items.values())
    for item in items.values():
        item.across += _MARGIN - least
        item.along = _MARGIN + depth / 2 + item.layer * (depth + _GAP["along"])


def _spread(items: dict[str, _Item], names: list[str]) -> None:
    """Moves items of one layer apart, as little as it takes, their middle kept."""
    if not names:
        return
    wished = [items[name].across for name in names]
    reached = -float("inf")
    for name in names:
        item = items[name]
        item.across = max(item.across, reached + item.breadth / 2)
        reached = item.across + item.breadth / 2 + _GAP["across"]
    shift = sum(wished) / len(names) - sum(items[name].across for name in names) / len(names)
    for name in names:
        items[name].across += shift


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _size(layout: _Layout) -> tuple[float, float]:
    depth = _BOX[1] if layout.downwards else _BOX[0]
    along = max(item.along for item in layout.items.values()) + depth / 2 + _MARGIN
    across = max(item.across + item.breadth / 2 for item in layout.items.values()) + _MARGIN
    return (across, along) if layout.downwards else (along, across)


def _point(layout: _Layout, name: str, side: float) -> tuple[float, float]:
    """Where a link enters (-1) or leaves (1) an item."""
    item = layout.items[name]
    along = item.along + side * (_BOX[1] if layout.downwards else _BOX[0]) / 2
    return (item.across, along) if layout.downwards else (along, item.across)


def _link(layout: _Layout, passed: list[str], role: str) -> str:
    """A curve from layer to layer, straight where it passes one."""
    x, y = _point(layout, passed[0], 1)
    path = [f"M{x:.1f} {y:.1f}"]
    for name in passed[1:]:
        to_x, to_y = _point(layout, name, -1)
        if name == passed[-1]:  # room for the arrow's head
            to_x, to_y = (to_x, to_y - 5) if layout.downwards else (to_x - 5, to_y)
        bend_x, bend_y = (0.0, (to_y - y) / 2) if layout.downwards else ((to_x - x) / 2, 0.0)
        path.append(
            f"C{x + bend_x:.1f} {y + bend_y:.1f} {to_x - bend_x:.1f} {to_y - bend_y:.1f} {to_x:.1f} {to_y:.1f}"
        )
        x, y = _point(layout, name, 1)
        if name != passed[-1]:
            path.append(f"L{x:.1f} {y:.1f}")
    return f'<path class="mopd-link mopd-{role}" d="{" ".join(path)}" marker-end="url(#mopd-head-{role})"/>'


def _box(layout: _Layout, name: str, kind: str, output: bool) -> str:
    item = layout.items[name]
    x, y = (item.across, item.along) if layout.downwards else (item.along, item.across)
    thick = ' style="stroke-width:3"' if output else ""
    word = "" if kind == "root" else kind.replace("_", " ")
    below = f'<text class="mopd-kind" x="{x:.1f}" y="{y + 13:.1f}">{escape(word)}</text>' if word else ""
    return (
        f'<g><rect class="mopd-{kind}" x="{x - _BOX[0] / 2:.1f}" y="{y - _BOX[1] / 2:.1f}" width="{_BOX[0]:.0f}" '
        f'height="{_BOX[1]:.0f}" rx="7"{thick}/><text x="{x:.1f}" y="{y + (-2 if word else 4):.1f}">{escape(name)}'
        f"</text>{below}</g>"
    )


def _legend_entries(kinds: Iterable[str], roles: set[str]) -> list[tuple[str, str]]:
    """What the picture shows, as (class, words)."""
    present = set(kinds)
    return [
        *((f"mopd-{kind}", words) for kind, (words, _, _) in KINDS.items() if kind in present),
        *((f"mopd-link mopd-{role}", words) for role, (words, _, _) in ROLES.items() if role in roles),
    ]


def _legend(entries: list[tuple[str, str]], columns: int, top: float) -> Iterable[str]:
    for place, (names, words) in enumerate(entries):
        x = _MARGIN + 230 * (place % columns)
        y = top + _LEGEND_ROW * (place // columns)
        if names.startswith("mopd-link"):
            yield f'<path class="{names}" d="M{x:.0f} {y:.0f} H{x + 34:.0f}"/>'
        else:
            yield f'<rect class="{names}" x="{x:.0f}" y="{y - 7:.0f}" width="34" height="14" rx="4"/>'
        yield f'<text class="mopd-legend" x="{x + 42:.0f}" y="{y + 4:.0f}">{escape(words)}</text>'


def _arrows(roles: set[str]) -> Iterable[str]:
    for role in ROLES:
        if role in roles:
            yield (
                f'<marker id="mopd-head-{role}" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path class="mopd-head-{role}" d="M0 0 8 4 0 8z"/></marker>'
            )


def _style() -> str:
    def rules(scheme: int) -> str:
        page, ink, faint = (("#ffffff", "#0f172a"), ("#111827", "#f3f4f6"), ("#4b5563", "#9ca3af"))
        lines = [
            f".mopd-page{{fill:{page[scheme]}}}",
            f".mopd-graph text{{fill:{ink[scheme]}}}",
            f".mopd-graph .mopd-kind,.mopd-graph .mopd-legend{{fill:{faint[scheme]}}}",
        ]
        for kind, (_, fill, outline) in KINDS.items():
            lines.append(f"rect.mopd-{kind}{{fill:{fill[scheme]};stroke:{outline[scheme]}}}")
        for role, (_, _, color) in ROLES.items():
            lines.append(
                f"path.mopd-{role}{{stroke:{color[scheme]}}}.mopd-head-{role}{{fill:{color[scheme]}}}"
            )
        return "".join(lines)

    dashes = "".join(
        f"path.mopd-{role}{{stroke-dasharray:{dash}}}" for role, (_, dash, _) in ROLES.items() if dash
    )
    return (
        "<style>.mopd-graph text{font:12px system-ui,sans-serif;text-anchor:middle}"
        ".mopd-graph .mopd-kind{font-size:10px}.mopd-graph .mopd-legend{font-size:11px;text-anchor:start}"
        f".mopd-graph rect{{stroke-width:1.2}}.mopd-link{{fill:none;stroke-width:1.5}}{dashes}{rules(0)}"
        f"@media (prefers-color-scheme:dark){{{rules(1)}}}</style>"
    )
