"""The interference of domains as tables: K by pair, a drawing of the signed graph, gradients beside K.

Leaves out: what K means (`mopdsim.quality.interference`), the page (`mopdsim.app.pages.interference`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mopdsim.facts.domains import P90, Estimate

VISIBLE = 0.02  # |K| below it is not drawn as a link
Groups = Sequence[Sequence[str]]


def pairs(known: Mapping[str, Estimate]) -> pd.DataFrame:
    """A row a pair: source, target, P10, P50, P90, grade and source of the number."""
    return pd.DataFrame(
        [
            (*pair.split(">"), k.value - P90 * k.sd, k.value, k.value + P90 * k.sd, k.grade, k.source)
            for pair, k in known.items()
        ],
        columns=["source", "target", "P10", "P50", "P90", "grade", "rests on"],
    )


def square(known: Mapping[str, Estimate], domains: Sequence[str]) -> pd.DataFrame:
    """P50 of K with sources as rows and targets as columns; a domain on itself is empty."""
    rows = [
        [known[f"{source}>{target}"].value if source != target else math.nan for target in domains]
        for source in domains
    ]
    return pd.DataFrame(rows, index=pd.Index(domains, name="source"), columns=list(domains))


def nodes(domains: Sequence[str], groups: Groups) -> dict[str, tuple[str, float, float]]:
    """Domains on a circle, those of one teacher side by side: teacher, x and y by domain."""
    turn = 2 * math.pi / max(1, len(domains))
    order = [(name, f"teacher {number}") for number, group in enumerate(groups, start=1) for name in group]
    return {
        name: (teacher, math.sin(place * turn), math.cos(place * turn))
        for place, (name, teacher) in enumerate(order)
    }


def drawing(known: Mapping[str, Estimate], domains: Sequence[str], groups: Groups) -> pd.DataFrame:
    """Domains and effects in one table, as a chart with one source of rows takes it.

    An effect is half a line, at the target's end: what the source does to it.
    """
    placed = nodes(domains, groups)
    rows: list[dict[str, Any]] = [
        {"part": "node", "domain": name, "teacher": teacher, "x": x, "y": y}
        for name, (teacher, x, y) in placed.items()
    ]
    for pair, k in known.items():
        source, target = pair.split(">")
        if abs(k.value) < VISIBLE:
            continue
        (_, x, y), (_, far_x, far_y) = placed[target], placed[source]
        rows.append({
            "part": "link", "source": source, "target": target, "K": k.value, "size": abs(k.value),
            "sign": "helps" if k.value > 0 else "hurts", "x": x, "y": y,
            "x2": (x + far_x) / 2, "y2": (y + far_y) / 2,
        })  # fmt: skip
    columns = ["part", "domain", "teacher", "source", "target", "sign", "K", "size", "x", "y", "x2", "y2"]
    return pd.DataFrame(rows, columns=columns)


def beside(known: Mapping[str, Estimate], cosines: Mapping[str, float]) -> pd.DataFrame:
    """K of both directions of a pair beside the cosine of its gradients, for pairs that both know."""
    rows: list[dict[str, Any]] = []
    for pair, cosine in cosines.items():
        one, other = pair.split("|")
        if f"{one}>{other}" in known:
            there, back = known[f"{one}>{other}"], known[f"{other}>{one}"]
            rows.append({
                "pair": f"{one} and {other}",
                "gradient cosine": cosine,
                "K first > second": there.value,
                "K second > first": back.value,
                "grade": there.grade,
            })  # fmt: skip
    return pd.DataFrame(rows)
