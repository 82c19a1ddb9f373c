"""`python -m studies.designs.systems.report`: a report with charts beside each result of the comparisons that is on
disk.

Reads studies/results/compare/{compare,own_amounts}.json, colossal/colossal.json and
overoptimisation/overoptimisation.json, and writes report.md and SVG files next to them. Leaves out: running
(`mopd study compare | colossal | overoptimisation`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from studies.designs.systems.text import colossal_text, compare_text, overoptimisation_text
from studies.framework.analysis import Chart
from studies.framework.figures import draw

RESULTS = Path(__file__).parents[2] / "results"
Document = Mapping[str, Any]


def main(results: Path = RESULTS) -> None:
    """Write the reports of all results found."""
    for folder, files in FILES.items():
        there = [
            (title, json.loads((results / folder / name).read_text(encoding="utf-8")), charts, text)
            for name, (title, charts, text) in files.items()
            if (results / folder / name).is_file()
        ]
        if there:
            path = results / folder / "report.md"
            path.write_text("\n".join(_lines(results / folder, there)) + "\n", encoding="utf-8")
            print(path)


def _lines(folder: Path, there: list[tuple[str, Document, Any, Any]]) -> Iterator[str]:
    yield f"# {folder.name}\n\nWritten by `python -m studies.designs.systems.report`; do not edit.\n"
    for title, document, charts, text in there:
        yield f"## {title}\n"
        for chart in charts(document):
            yield f"![{chart.title}]({draw(chart, folder).name})\n\n*{chart.title}*\n"
        yield f"```\n{text(document)}\n```\n"


def _compared(document: Document) -> list[Chart]:
    rows = [
        {
            "recipe": name,
            "measured": row["scores"][domain],
            "forecast": told["p50"],
            "p10": told["p10"],
            "p90": told["p90"],
        }
        for name, row in document["recipes"].items()
        for domain, told in row["forecast"]["scores"].items()
    ]
    return [
        Chart(
            name=f"scores_{len(document['domains'])}_domains_{_budget(document)}",
            title="Forecast P50 (line: P10 to P90) against measured score, each recipe and domain; dashed: equal",
            frame=pd.DataFrame(rows),
            x="measured",
            y="forecast",
            colour="recipe",
            low="p10",
            high="p90",
            mark="point",
            diagonal=True,
        )
    ]


def _budget(document: Document) -> str:
    """Whether all recipes spent about the same."""
    flops = [row["flops"] for row in document["recipes"].values()]
    return "one_budget" if max(flops) < 2 * min(flops) else "own_amounts"


def _cost(document: Document) -> list[Chart]:
    rows = [
        {
            "recipe": row["recipe"],
            "rate": row["label"].partition(" at ")[2],
            "TFLOP": row["flops"] / 1e12,
            "worst_domain_score": row["worst"],
            "side": side if side == "forecast" else f"measured, RL rate {row['label'].partition(' at ')[2]}",
        }
        for side in ("measured", "forecast")
        for row in document[side]["rows"]
    ]
    return [
        Chart(
            name="worst_score_by_budget",
            title="Worst of ten domains against training FLOPs, teachers included",
            frame=pd.DataFrame(rows),
            x="TFLOP",
            y="worst_domain_score",
            colour="recipe",
            panel="side",
        )
    ]


def _hacked(document: Document) -> list[Chart]:
    rows = [
        {
            "distance_d": point["d"],
            "true_score": point["gold"],
            "method": curve["method"],
            "judge": f"noise {curve['noise']:g}, {curve['labelling_steps']} steps",
        }
        for curve in document["curves"]
        for point in curve["points"]
    ]
    return [
        Chart(
            name="true_score_by_distance",
            title="True score against d = sqrt(KL) in sqrt(nats a response), by reward model",
            frame=pd.DataFrame(rows),
            x="distance_d",
            y="true_score",
            colour="method",
            panel="judge",
        )
    ]


Writer = tuple[str, Callable[[Document], list[Chart]], Callable[[Document], str]]
FILES: Mapping[str, Mapping[str, Writer]] = {
    "compare": {
        "compare.json": ("One common budget of training FLOPs", _compared, compare_text),
        "own_amounts.json": ("Each recipe with its own amounts", _compared, compare_text),
        "ten_domains.json": ("Ten teachers on ten domains, own amounts", _compared, compare_text),
    },
    "colossal": {
        "colossal.json": (
            "Ten specialists or one colossal run: cost at equal worst score",
            _cost,
            colossal_text,
        )
    },
    "overoptimisation": {
        "overoptimisation.json": ("Reward models and how far they carry", _hacked, overoptimisation_text)
    },
}

if __name__ == "__main__":
    main()
