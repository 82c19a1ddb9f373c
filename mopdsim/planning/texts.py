"""A plan's answer in plain text. Leaves out: where it goes (`mopdsim.plan_command`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_POINTS = 12  # of the frontier


def answer_text(document: Mapping[str, Any]) -> str:
    """The headline, the plans side by side, what would change it, and what to measure."""
    lines = [document["headline"], "", "plans (P10 / P50 / P90)"]
    best = document["recommended"]
    lines += _plan_lines(best, "recommended")
    for other in document["alternatives"]:
        lines += _plan_lines(other, f"better with probability {other['probability_better']:.2f}")
    lines += ["", f"scores of {best['label']}"]
    lines += [f"  {name:<24} {_three(row)}" for name, row in best["scores"].items()]
    lines += ["", "the recommendation changes"]
    for tip in document["flip_points"]:
        end = f"{tip['now']:g} to {tip['range'][1]:g}"
        where = f"at {tip['changes_at']:.4g}: {tip['to']}" if tip["changes_at"] is not None else "nowhere"
        lines.append(f"  {tip['what']}, {end}: {where}")
    lines += [
        f"  {flip['parameter']} at its {flip['at'].upper()} ({flip['value']:.3g}): {flip['to']}, {flip['gain']:+.3f}"
        for flip in document["undecided_by"]
    ]
    lines += _information_lines(document["value_of_information"])
    lines += ["", "what moves the score (first order, total)"]
    lines += [
        f"  {row['input']:<24} {row['first']:6.2f} {row['total']:6.2f}"
        for row in document["sensitivity"]
        if row["total"] >= 0.01
    ]
    lines += ["", "frontier: USD, days, score"]
    lines += [
        f"  ${point['usd']:<12,.4g} {point['days']:8.3g} days  {point['value']:.3f}  {point['plan']['label']}"
        for point in document["frontier"][:: max(1, len(document["frontier"]) // _POINTS)]
    ]
    if document["portfolio"] is not None:
        lines += ["", "the year's releases, GPU-hours in all"]
        lines += [f"  {_three(row['gpu_hours'])}  {row['label']}" for row in document["portfolio"]["plans"]]
    lines += ["", f"{document['evaluated']:,} plans in {document['seconds']:.1f} s"]
    return "\n".join(lines)


def _plan_lines(plan: Mapping[str, Any], note: str) -> list[str]:
    return [
        f"  {plan['label']}: {note}",
        f"    score {_three(plan['utility'])}, ${_three(plan['usd'])}, days {_three(plan['days'])}",
    ]


def _information_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"worth knowing (all of it: {found['perfect']:+.3f})"]
    for pilot in found["pilots"]:
        if pilot["gain"] > 0:
            price = f"{pilot['gain']:+.4f} for {pilot['gpu_hours']:,.3g} GPU-hours"
            lines.append(f"  {pilot['pilot']:<24} {price}: {pilot['measures']}")
    return lines if len(lines) > 2 else [*lines, "  no single pilot can be told from worthless"]


def _three(row: Mapping[str, float]) -> str:
    return " / ".join(f"{row[name]:,.3g}" for name in ("p10", "p50", "p90"))
