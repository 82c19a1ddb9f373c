"""`python -m studies.designs.systems.report`: a report with charts beside each result of the comparisons that is on
disk.

Reads studies/results/compare/{compare,own_amounts}.json and overoptimisation/overoptimisation.json, and writes
report.md and SVG files next to them. Leaves out: running (`mopd study compare | overoptimisation`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from studies.designs.systems.compare import compare_text
from studies.designs.systems.overoptimisation import overoptimisation_text
from studies.framework.analysis import Chart
from studies.framework.figures import draw
from studies.framework.report import figure

RESULTS = Path(__file__).parents[2] / "results"
Document = Mapping[str, Any]


def main(results: Path = RESULTS) -> None:
    """Write the reports of all results found."""
    for folder, files in FILES.items():
        there = [
            (title, json.loads((results / folder / name).read_text(encoding="utf-8")), chart, text)
            for name, (title, chart, text) in files.items()
            if (results / folder / name).is_file()
        ]
        if there:
            path = results / folder / "report.md"
            path.write_text("\n".join(_lines(results / folder, there)) + "\n", encoding="utf-8")
            print(path)


def _lines(folder: Path, there: list[tuple[str, Document, Any, Any]]) -> Iterator[str]:
    yield f"# {folder.name}\n\nWritten by `python -m studies.designs.systems.report`; do not edit.\n"
    for title, document, chart_of, text in there:
        chart = chart_of(document)
        yield f"## {title}\n"
        yield "\n".join(figure(draw(chart, folder), chart.title))
        yield f"```\n{text(document)}\n```\n"


def _compared(name: str, document: Document) -> Chart:
    rows = [
        {"recipe": name, "measured": row["scores"][domain], "forecast": told["p50"], "p10": told["p10"],
         "p90": told["p90"]}
        for name, row in document["recipes"].items()
        for domain, told in row["forecast"]["scores"].items()
    ]  # fmt: skip
    return Chart(
        name=name,
        title="Forecast P50 (line: P10 to P90) against measured score, each recipe and domain; dashed: equal",
        frame=pd.DataFrame(rows), x="measured", y="forecast", colour="recipe", low="p10", high="p90", mark="point",
        diagonal=True,
    )  # fmt: skip


def _hacked(document: Document) -> Chart:
    rows = [
        {"distance_d": point["d"], "true_score": point["gold"], "method": curve["method"],
         "judge": f"noise {curve['noise']:g}, {curve['labelling_steps']} steps"}
        for curve in document["curves"]
        for point in curve["points"]
    ]  # fmt: skip
    return Chart(
        name="true_score_by_distance",
        title="True score against d = sqrt(KL) in sqrt(nats a response), by reward model",
        frame=pd.DataFrame(rows), x="distance_d", y="true_score", colour="method", panel="judge",
    )  # fmt: skip


Writer = tuple[str, Callable[[Document], Chart], Callable[[Document], str]]
FILES: Mapping[str, Mapping[str, Writer]] = {
    "compare": {
        "compare.json": (
            "One common budget of training FLOPs",
            partial(_compared, "scores_at_one_budget"),
            compare_text,
        ),
        "own_amounts.json": (
            "Each recipe with its own amounts",
            partial(_compared, "scores_at_own_amounts"),
            compare_text,
        ),
        "ten_domains.json": (
            "Ten teachers on ten domains, own amounts",
            partial(_compared, "scores_on_ten_domains"),
            compare_text,
        ),
    },
    "overoptimisation": {
        "overoptimisation.json": ("Reward models and how far they carry", _hacked, overoptimisation_text)
    },
}

if __name__ == "__main__":
    main()
