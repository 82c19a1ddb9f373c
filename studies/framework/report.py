"""The report of a study: its question, what was predicted and when, what was found, verdict by verdict.

RESULTS/NAME/report.md  *.svg      The same numbers give the same charts. Leaves out: the analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mopdsim.base.numbers import count
from studies.framework.analysis import Analysis, Chart
from studies.framework.observe import NOT_RUN, Observations
from studies.framework.study import Claim, Study, Verdict
from trainer.files.atomic import write_text

WIDTH, HEIGHT, COLUMNS = 260, 180, 3


def verdicts(claims: tuple[Claim, ...], analysis: Analysis) -> list[tuple[Claim, Verdict]]:
    """Each claim with its verdict."""
    judged: list[tuple[Claim, Verdict]] = []
    for claim in claims:
        quantity = analysis.quantities.get(claim.quantity)
        judged.append(
            (claim, "not measured" if quantity is None else claim.judge(quantity.low, quantity.high))
        )
    return judged


def write(
    study: Study, found: Observations, analysis: Analysis, prediction: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Write report and charts; returns the files."""
    charts = [chart for chart in analysis.charts if not chart.frame.empty]
    files = [draw(chart, folder) for chart in charts]
    lines = [
        f"# {study.name}: {study.question}",
        "",
        _about(found),
        "",
        "## Prediction",
        "",
        f"Written {prediction['written']}, first run {prediction['first_run']}, sha256 `{prediction['sha256'][:16]}`.",
        "",
        study.prediction.text,
        "",
        *_verdict_table(study, analysis),
        "",
        "A claim is held where the whole 80% interval (over runs) lies within its bounds, refuted where all of it lies "
        "outside, and undecided in between.",
        "",
        "## Findings",
        "",
        *([f"- {sentence}" for sentence in analysis.findings] or ["None beyond the verdicts."]),
        "",
        *(line for path, chart in zip(files, charts, strict=True) for line in figure(path, chart.title)),
        *(
            line
            for table in analysis.tables
            if not table.frame.empty
            for line in (f"### {table.title}", "", markdown(table.frame), "")
        ),
        "## What was run",
        "",
        f"Observed: {study.observed}",
        "",
        f"Held out: {study.held_out}",
        "",
        *_ran(found),
        "",
        "## What this study cannot say",
        "",
        *(f"- {sentence}" for sentence in (*analysis.limits, _scope(found))),
    ]
    path = folder / "report.md"
    write_text(path, "\n".join(lines) + "\n")
    return [path, *files]


def markdown(frame: pd.DataFrame) -> str:
    """A table; numbers to three digits."""
    head = [str(column).replace("_", " ") for column in frame.columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in frame.itertuples(index=False):
        lines.append("| " + " | ".join(_cell(value) for value in row) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else count(value)
    return "" if value is None else str(value)


def _verdict_table(study: Study, analysis: Analysis) -> list[str]:
    lines = ["| claim | bounds | measured, 80% interval | verdict |", "|---|---|---|---|"]
    for claim, verdict in verdicts(study.prediction.claims, analysis):
        measured = analysis.quantities.get(claim.quantity)
        shown = "" if measured is None else str(measured)
        lines.append(f"| {claim.text} (`{claim.quantity}`) | {claim.bounds} | {shown} | **{verdict}** |")
    return lines


def _about(found: Observations) -> str:
    manifest = found.manifest
    versions = ", ".join(f"{name} {value}" for name, value in manifest["versions"].items())
    scale = (
        ""
        if manifest["scale"] == 1
        else f" **A rehearsal at scale {manifest['scale']:g}: it shows nothing.**"
    )
    return (
        f"Run {manifest['date']} on {manifest['device']} ({versions}), {manifest['workers']} workers.{scale}"
    )


def figure(path: Path, title: str) -> list[str]:
    """A chart beside the report, and its title below it."""
    return [f"![{title}]({path.name})", "", f"*{title}*", ""]


def _ran(found: Observations) -> list[str]:
    runs, stages = found.manifest["runs"], found.manifest["stages"]
    held_out = sum(row["held_out"] for row in runs.values())
    seconds = sum(stage["wall_seconds"] for stage in stages.values())
    lines = [
        f"{len(found.finished)} of {len(runs)} runs finished ({held_out} of them declared held out), {len(stages)} "
        f"distinct stages, {seconds / 60:.1f} worker-minutes.",
    ]
    failed = {name: row["failure"] for name, row in runs.items() if row["failure"] not in (None, NOT_RUN)}
    for name, why in failed.items():
        lines.append(f"- `{name}` failed: {why.strip().splitlines()[-1]}")
    return lines


def _scope(found: Observations) -> str:
    models = sorted({row["model"] for row in found.manifest["runs"].values()})
    seeds = sorted({row["seed"] for row in found.manifest["runs"].values()})
    return f"Models run: {', '.join(models)}; seeds {', '.join(map(str, seeds))}. No other size was seen."


def draw(chart: Chart, folder: Path) -> Path:
    """Write FOLDER/NAME.svg."""
    import altair as alt

    base = alt.Chart(chart.frame).encode(x=_axis(chart, chart.x))
    y = _axis(chart, chart.y, up=True)
    layers = []
    if chart.diagonal:
        dashed = base.mark_line(strokeDash=[4, 4], color="grey")
        layers.append(dashed.encode(y=alt.Y(f"{chart.x}:Q", title=chart.y.replace("_", " "))))
    if chart.colour is not None:
        base = base.encode(color=alt.Color(f"{chart.colour}:N"))
    marks = base.mark_line(point=True) if chart.mark == "line" else base.mark_point(filled=True)
    layers.append(marks.encode(y=y))
    if chart.low is not None and chart.high is not None:
        layers.append(
            base.mark_rule(opacity=0.5).encode(y=alt.Y(f"{chart.low}:Q"), y2=alt.Y2(f"{chart.high}:Q"))
        )
    picture: Any = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    if chart.panel is not None:
        picture = picture.facet(facet=alt.Facet(f"{chart.panel}:N", title=None), columns=COLUMNS)
    path = folder / f"{chart.name}.svg"
    picture.save(path)
    return path


def _axis(chart: Chart, name: str, *, up: bool = False) -> Any:
    """A quantitative axis that need not start at zero where the column holds numbers, names otherwise."""
    import altair as alt

    kind = "Q" if pd.api.types.is_numeric_dtype(chart.frame[name]) else "N"
    axis = (alt.Y if up else alt.X)(f"{name}:{kind}", title=name.replace("_", " "))
    return axis.scale(zero=False) if kind == "Q" else axis
