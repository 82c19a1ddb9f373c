"""What the simulator's commands print for people: forecasts, comparisons, validations. Leaves out: the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def forecast_text(document: Mapping[str, Any]) -> str:
    """A forecast for people: totals, stages, scores with intervals, warnings."""
    lines = [
        f"{document['recipe']} ({document['amounts']} amounts) on {document['model']}, "
        f"{sum(document['pools'].values())} x {document['gpu']}: P10 / P50 / P90 of {document['draws']} draws"
    ]
    for name, unit in (("gpu_hours", "GPU-hours"), ("usd", "$"), ("days", "days")):
        grade = document["grades"].get(name)
        lines.append(f"  {unit:<10} {_three(document[name])}{f'  ({grade})' if grade else ''}")
    for name, label in (("within_budget", "within budget"), ("within_deadline", "within deadline")):
        if document[name] is not None:
            lines.append(f"  {label}: {document[name]:.0%} of draws")
    lines.append("stages")
    for stage in document["stages"]:
        lines.append(
            f"  {stage['name']:<20} {stage['kind']:<18} {_three(stage['gpu_hours'])} GPU-hours  {stage['layout'] or ''}"
        )
    for title, scores in {"scores": document["scores"], **document["side_outputs"]}.items():
        lines.append(title if title == "scores" else f"scores of {title}")
        for domain, row in scores.items():
            lines.append(f"  {domain:<20} {row['p10']:.3f} / {row['p50']:.3f} / {row['p90']:.3f}")
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


def _three(row: Mapping[str, float]) -> str:
    return " / ".join(f"{row[name]:,.4g}" for name in ("p10", "p50", "p90"))


def comparison_text(document: Mapping[str, Any]) -> str:
    lines = []
    for name, found in document["forecasts"].items():
        mean = sum(row["p50"] for row in found["scores"].values()) / len(found["scores"])
        lines.append(
            f"{name:<16} {found['gpu_hours']['p50']:12,.4g} GPU-hours  ${found['usd']['p50']:<12,.4g} "
            f"{found['days']['p50']:8.3g} days  mean score {mean:.3f}"
        )
    for name, row in document["against_baseline"].items():
        lines.append(f"{name} against {document['baseline']}")
        measures = {**{key: value for key, value in row.items() if key != "scores"}, **row["scores"]}
        for key, found in measures.items():
            lines.append(
                f"  {key:<20} better with probability {found['probability_better']:.2f}: {found['verdict']}"
            )
    return "\n".join(lines)


def validation_text(document: Mapping[str, Any]) -> str:
    lines = []
    for row in document["predictions"]:
        cells = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in row.items()
        ]
        lines.append("  " + "  ".join(cells))
    for key, value in document.items():
        if key in ("predictions",):
            continue
        if isinstance(value, Mapping):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_short(found)}" for name, found in value.items()]
        else:
            lines.append(f"{key}: {_short(value)}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(found)}" for key, found in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(_short(found) for found in value) or "none"
    return str(value)
