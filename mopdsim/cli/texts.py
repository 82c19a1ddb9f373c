"""What the simulator's commands print for people: forecasts, comparisons, validations. Leaves out: the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mopdsim.base.numbers import count, duration, score, share, three, usd

LINES = 25  # of an answer without --details
_IDLE = 0.02  # of the pool, from which on its price is another than that of the busy GPUs
_STAGES, _DOMAINS, _CAUTIONS = 4, 3, 2  # shown of many


def forecast_text(document: Mapping[str, Any], assumed: str, *, details: bool = False) -> str:
    """A forecast for people: what was asked, totals, stages, scores with intervals, warnings; of a long recipe the
    dearest stages and the weakest domains, unless details are asked for."""
    head = [
        assumed,
        f"{document['recipe']}, {len(document['stages'])} stages: P10 / P50 / P90 of {count(document['draws'])} draws",
        *_totals(document),
    ]
    whole = [*head, *_stages(document["stages"]), *_all_scores(document)]
    whole += [f"warning: {warning}" for warning in document["warnings"]]
    if details or len(whole) <= LINES:
        return "\n".join(whole)
    return "\n".join([*head, *_shortened(document)])


def _totals(document: Mapping[str, Any]) -> list[str]:
    """Cost and calendar, each with its grade, and how surely limits are kept."""
    lines = []
    for name, label, unit in (
        ("gpu_hours", "GPU-hours", count),
        ("usd", "cost", usd),
        ("days", "calendar", duration),
    ):
        lines.append(f"  {label:<10} {three(document[name], unit)}  ({document['grades'][name]})")
    reserved = document["reserved"]
    if reserved["idle_share"]["p50"] > _IDLE:
        lines.append(
            f"  {'reserved':<10} {three(reserved['usd'], usd)} for the whole pool until the end, "
            f"{share(reserved['idle_share']['p50'])} of it idle"
        )
    if document["project_overhead"]["p90"] > 1:
        lines.append(
            f"  {'overhead':<10} {three(document['project_overhead'])} times, of the project and in all of these"
        )
    for name, label in (("within_budget", "within budget"), ("within_deadline", "within deadline")):
        if document[name] is not None:
            lines.append(f"  {label}: {share(document[name])} of draws")
    return lines


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a stage."""
    return ["stages", *(_stage(row) for row in rows)]


def _stage(row: Mapping[str, Any]) -> str:
    hours = f"{three(row['gpu_hours'])} GPU-hours"
    return f"  {row['name']:<20} {row['kind']:<18} {hours:<36} {row['layout'] or ''}".rstrip()


def _all_scores(document: Mapping[str, Any]) -> list[str]:
    """A line a domain, then their mean and the worst; of side outputs too."""
    means = {"mean of domains": document["mean_score"], "worst domain": document["worst_score"]}
    shown = document["scores"] if len(document["scores"]) == 1 else {**document["scores"], **means}
    lines = ["scores", *_score_lines(shown)]
    for title, scores in document["side_outputs"].items():
        lines += [f"scores of {title}", *_score_lines(scores)]
    return lines


def _shortened(document: Mapping[str, Any]) -> list[str]:
    """The dearest stages, mean and worst with the weakest domains, the first cautions, and how many there are more."""
    stages = sorted(document["stages"], key=lambda row: -float(row["gpu_hours"]["p50"]))
    names = sorted(document["scores"], key=lambda name: float(document["scores"][name]["p50"]))
    means = {"mean of domains": document["mean_score"], "worst domain": document["worst_score"]}
    weakest = {name: document["scores"][name] for name in names[:_DOMAINS]}
    left = {
        "stages": len(stages) - _STAGES,
        "domains": len(names) - _DOMAINS,
        "side outputs": len(document["side_outputs"]),
        "warnings": len(document["warnings"]) - _CAUTIONS,
    }
    more = ", ".join(f"{many} more {what}" for what, many in left.items() if many > 0)
    return [
        f"stages, the dearest of {len(stages)}",
        *(_stage(row) for row in stages[:_STAGES]),
        f"scores, and the weakest of {len(names)} domains",
        *_score_lines({**means, **weakest}),
        *(f"warning: {warning}" for warning in document["warnings"][:_CAUTIONS]),
        f"--details shows {more}",
    ]


def _score_lines(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"  {name:<20} {three(row, score)}" for name, row in rows.items()]


def comparison_text(document: Mapping[str, Any], assumed: str) -> str:
    """What was asked, a line a recipe, and each against the first in every measure."""
    lines = [
        assumed,
        f"{'recipe':<18}{'GPU-hours':<12}{'cost':<10}{'calendar':<12}{'mean score':<12}worst domain",
    ]
    for name, found in document["forecasts"].items():
        lines.append(
            f"{name:<18}{count(found['gpu_hours']['p50']):<12}{usd(found['usd']['p50']):<10}"
            f"{duration(found['days']['p50']):<12}{score(found['mean_score']['p50']):<12}"
            f"{score(found['worst_score']['p50'])}"
        )
    for name, row in document["against_baseline"].items():
        lines.append(f"{name} against {document['baseline']}")
        measures = {**{key: value for key, value in row.items() if key != "scores"}, **row["scores"]}
        for key, found in measures.items():
            lines.append(
                f"  {key:<20} better with probability {share(found['probability_better'])}: {found['verdict']}"
            )
    return "\n".join(lines)


def validation_text(document: Mapping[str, Any]) -> str:
    lines = []
    for row in document["predictions"]:
        cells = [
            f"{key} {count(value)}" if isinstance(value, float) else f"{key} {value}"
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
        return count(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(found)}" for key, found in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(_short(found) for found in value) or "none"
    return str(value)
