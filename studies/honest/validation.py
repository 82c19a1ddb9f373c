"""Frozen validation: every model of the simulator against published measurements, written to `studies/results`.

One JSON a kind (decode without single rows: its measurements are not ours to copy) and one table for people. Leaves
out: fitting (`mopd calibrate`), the judgement of what is good enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mopdsim import __version__
from mopdsim.validate import report_of
from trainer.files.atomic import write_json

RESULTS = Path(__file__).parents[1] / "results" / "validation"
FROZEN = ("train_throughput", "rl_steps", "quality", "project_totals")


def freeze(*, decode: Path | None) -> list[Path]:
    """Write all reports; decode only where its measurements are given. Returns the files."""
    reports = {kind: report_of(kind) for kind in FROZEN}
    if decode is not None:
        whole = report_of("decode", decode)  # of which single rows must not be copied
        reports["decode"] = {key: whole[key] for key in whole if key not in ("predictions", "incomplete")}
    stamp = {"mopd": __version__, "date": datetime.now(UTC).date().isoformat()}
    files = []
    for kind, report in reports.items():
        files.append(RESULTS / f"{kind}.json")
        write_json(files[-1], {**stamp, **report})
    files.append(RESULTS / "README.md")
    files[-1].write_text(
        f"# Predicted against measured ({stamp['date']})\n\n{table(reports)}\n", encoding="utf-8"
    )
    return files


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Median and P90 error, the naive roofline's, and the coverage of the 80% intervals, as Markdown."""
    lines = [
        "| what | rows | median error | P90 error | naive roofline | inside the 80% interval |",
        "|---|---|---|---|---|---|",
    ]
    for kind, report in reports.items():
        errors = [report.get(name) for name in ("median_error", "p90_error", "naive_median_error")]
        shown = [_points(error) if kind == "quality" else _percent(error) for error in errors]
        lines.append(
            f"| {kind} | {report['rows']} | {' | '.join(shown)} | {_percent(report['coverage_80'])} |"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} points"
