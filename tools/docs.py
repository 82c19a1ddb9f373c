"""`python -m tools.docs`: rewrites docs/recipes.md and one page per published system from the code.

A page shows the system's graph, its stages with their amounts, what is published with its source, what we assume and
why, its forecast at published scale, and on the tiny model the forecast beside what was measured (the file that
`mopd study compare --all --own` leaves, where present). Leaves out: text written by hand; there is none to keep.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mopdsim.base.numbers import count, score, with_interval
from mopdsim.forecast import scenario
from mopdsim.forecast.compare import DOMAINS, compare_all
from mopdsim.forecast.forecast import forecast
from mopdsim.recipes import graph, published, recipe_file
from mopdsim.recipes.catalogue import SYSTEMS
from mopdsim.recipes.published import Figure
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import parents
from mopdsim.validate.totals import validate

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "studies" / "results" / "compare" / "own_amounts.json"
_QUANTILES = ("p10", "p50", "p90")
_STAGE_COLUMNS = (
    "stage", "kind", "starts from", "domains", "steps", "prompts a step", "rollouts", "learning rate", "length",
)  # fmt: skip
_AMOUNTS = ("steps", "prompts_per_step", "rollouts_per_prompt", "learning_rate", "response_tokens")


def main() -> None:
    """Writes every page."""
    folder = ROOT / "docs" / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    totals = validate()["predictions"]
    tiny = {row["recipe"]: row for row in compare_all()["rows"]}
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else None
    rows = []
    for name in SYSTEMS:
        found = forecast(scenario.from_document(scenario.published_document(name), source=name)).to_document()
        own = [row for row in totals if row["system"] == name]
        parts = [*static_parts(name), *_forecast_parts(name, found, own), *_tiny_parts(name, tiny, measured)]
        _write(folder / f"{name}.md", parts)
        rows.append((name, found))
        print(f"docs/recipes/{name}.md")
    _write(ROOT / "docs" / "recipes.md", _index(rows, totals, measured))
    print("docs/recipes.md")


def recipe_of(name: str) -> Recipe:
    """A system's recipe at its published scale."""
    return recipe_file.from_document(scenario.published_document(name)["recipe"], source=name)


def static_parts(name: str) -> list[str]:
    """What of a page follows from the recipe and the figures alone, without a forecast."""
    own = published.system(name)
    figures = own.figures.values()
    added = own.added_after_first_comparison
    parts = [
        f"# {own.title} ({own.date})",
        (inspect.getdoc(SYSTEMS[name]) or "").partition("\n")[0],
        f"Report: {own.report}. Written by `python -m tools.docs`; do not edit.",
        f"```mermaid\n{graph.mermaid(recipe_of(name))}```",
        "## Stages at published scale",
        stage_table(name),
        "Where the report states no value, two numbers are our P10 and P90. The forecast's central value is their "
        "geometric mean.",
        "## What is published",
        figure_table([row for row in figures if row.grade == "published"]),
        "## What we assume",
        figure_table([row for row in figures if row.grade == "assumed"]),
        "## How we read the structure",
        _listed(own.reading),
    ]
    if added:
        parts += [
            "We had compared this system's published total with an earlier set of amounts. These facts were added "
            "after that. Lengths and overhead stayed as they were.",
            _listed(added),
        ]
    return parts


def stage_table(name: str) -> str:
    """The stages of a system with their amounts, as Markdown."""
    own = published.system(name)
    rows = []
    for stage in recipe_of(name).stages:
        facts = own.of_stage("stages", stage.name)
        reads = ", ".join(parent for parent in parents(stage) if parent != stage.init)
        rows.append(
            [
                stage.name,
                stage.kind.replace("_", " "),
                stage.init + (f"; reads {reads}" if reads else ""),
                ", ".join(getattr(stage, "domains", ())),
                *(_value(facts[key]) if key in facts else "" for key in _AMOUNTS),
            ]
        )
    return _table(_STAGE_COLUMNS, rows)


def figure_table(figures: Sequence[Figure]) -> str:
    """Figures with what they rest on, as Markdown."""
    return _table(
        ("figure", "value", "source"), [[f"`{row.path}`", _value(row), row.source] for row in figures]
    )


def _forecast_parts(name: str, found: Mapping[str, Any], totals: Sequence[Mapping[str, Any]]) -> list[str]:
    stages = [
        [row["name"], *(count(row["gpu_hours"][q]) for q in _QUANTILES), row["layout"] or ""]
        for row in found["stages"]
    ]
    scores = [[domain, *(score(row[q]) for q in _QUANTILES)] for domain, row in found["scores"].items()]
    parts = [
        "## Forecast at published scale",
        f"`mopd forecast {name}`: {found['model']} on {sum(found['pools'].values())} x {found['gpu']}.",
        _table(
            ("", "P10", "P50", "P90"),
            [
                [label, *(count(found[key][q]) for q in _QUANTILES)]
                for key, label in (("gpu_hours", "GPU-hours"), ("usd", "dollars"), ("days", "days"))
            ],
        ),
        _table(("stage", "P10", "P50", "P90", "layout"), stages),
        _table(("score", "P10", "P50", "P90"), scores),
    ]
    if totals:
        parts += [
            "The published total beside the forecast. No constant was fitted on it.",
            _totals_table(totals),
        ]
    return parts


def _totals_table(totals: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            row["system"],
            ", ".join(row["stages"]),
            row["unit"].replace("_", "-"),
            *(count(row[key]) for key in (*_QUANTILES, "measured")),
            "yes" if row["inside_80"] else "no",
            f"{row['error'] + 1:.2f}",
        ]
        for row in totals
    ]
    names = ("system", "stages", "unit", "P10", "P50", "P90", "published", "inside", "median off by a factor")
    return _table(names, rows)


def _tiny_parts(name: str, tiny: Mapping[str, Any], measured: Mapping[str, Any] | None) -> list[str]:
    row = tiny[name]
    mean, worst = (with_interval(row[key], score) for key in ("mean", "worst"))
    parts = [
        "## On the tiny model",
        f"Forecast at one budget of training FLOPs for all recipes (`mopd compare --all`), over "
        f"{', '.join(DOMAINS)}: mean score {mean}, worst domain {worst}, "
        f"{row['stages']} stages, {row['teachers']} teachers.",
    ]
    run = (measured or {}).get("recipes", {}).get(name)
    if run is None:
        return [*parts, "Not measured yet: `mopd study compare --all --own` runs it."]
    told = run["forecast"]["scores"]
    rows = [
        [
            domain,
            score(run["start"][domain]),
            score(reached),
            with_interval(told[domain], score) if domain in told else "",
        ]
        for domain, reached in run["scores"].items()
    ]
    return [
        *parts,
        "Run for real with its own tiny amounts (`mopd study compare --all --own`; 0.17 M parameters, one seed, "
        f"sampled at temperature 1): {count(run['flops'])} training FLOPs, {run['seconds']:.0f} s on two CPU cores.",
        _table(("domain", "start", "measured", "forecast P50 (P10 to P90)"), rows),
    ]


def _index(
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    totals: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any] | None,
) -> list[str]:
    runs = (measured or {}).get("recipes", {})
    systems = []
    for name, found in rows:
        own = published.system(name)
        seen = [row.grade == "published" for row in own.figures.values()]
        systems.append(
            [
                f"[{own.title}](recipes/{name}.md)",
                own.date,
                str(len(found["stages"])),
                f"{sum(found['pools'].values())} x {found['gpu']}",
                with_interval(found["gpu_hours"], count),
                f"{sum(seen)} of {len(seen)}",
                with_interval(runs[name]["forecast"]["mean"], score) if name in runs else "",
                score(fmean(runs[name]["scores"].values())) if name in runs else "",
            ]
        )
    names = (
        "system", "date", "stages", "GPUs", "GPU-hours P50 (P10 to P90)", "figures published",
        "mean score of the tiny model (one seed, temperature 1): forecast P50 (P10 to P90)", "measured",
    )  # fmt: skip
    return [
        "# Published systems as recipes",
        "Each system has a page: its graph, its stages, what is published, what we assume, its forecast, and its run "
        "on the tiny model. Written by `python -m tools.docs`; do not edit.",
        _table(names, systems),
        "## Published totals against the forecast",
        "The figures were written down before these forecasts. No constant is fitted on the totals. "
        "`mopd validate published` prints this table.",
        _totals_table(totals),
    ]


def _write(path: Path, parts: Sequence[str]) -> None:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _value(row: Figure) -> str:
    """A value or a range in words."""
    if row.ends is not None:
        low, high = row.ends
        return f"{count(low)} to {count(high)}"
    if isinstance(row.value, list):
        return "; ".join(", ".join(map(str, one)) if isinstance(one, list) else str(one) for one in row.value)
    numeric = isinstance(row.value, int | float) and not isinstance(row.value, bool)
    return count(row.value) if numeric else str(row.value)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in ([list(names), ["---"] * len(names), *cells])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
