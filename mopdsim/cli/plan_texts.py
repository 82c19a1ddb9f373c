"""A plan's answer in plain text. Leaves out: where it goes (`mopdsim.cli.plan_command`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopdsim.plan.answer import words

_POINTS = 12  # of the frontier
_DOUBTS = 6  # unknowns that turn the recommendation, the largest


def answer_text(document: Mapping[str, Any]) -> str:
    """The headline, the plans side by side, why, what would change it, and what to measure."""
    best = document["recommended"]
    lines = [document["headline"], "", "plans (P10 / P50 / P90)"]
    lines += _plan_lines(best, "recommended")
    for other in document["alternatives"]:
        lines += _plan_lines(other, f"better with probability {other['probability_better']:.2f}")
    lines += _reason_lines(document)
    lines += ["", f"scores of {best['label']}"]
    lines += [f"  {name:<24} {_three(row)}" for name, row in best["scores"].items()]
    lines += _change_lines(document)
    lines += _information_lines(document["value_of_information"])
    lines += ["", "what moves the score (share of its variance: alone, and with all it acts through)"]
    lines += [
        f"  {max(row['first'], 0.0):5.2f} {row['total']:5.2f}  {row['what']}"
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


def _reason_lines(document: Mapping[str, Any]) -> list[str]:
    """Why the recommended plan leads, and what it costs if it is the wrong one."""
    lines = ["", "why (points of the mean over all simulated worlds)"] if document["reasons"] else []
    lines += [f"  {reason['sentence']}" for reason in document["reasons"]]
    wrong = document["cost_of_being_wrong"]
    share, loss = wrong["probability"], 100 * wrong["loss"]
    return [
        *lines,
        f"  if it is the wrong choice (probability {share:.2f}), it loses {loss:.1f} points on average",
    ]


def _change_lines(document: Mapping[str, Any]) -> list[str]:
    """Flip points, then what is too little known."""
    lines = ["", "the recommendation changes"]
    for tip in document["flip_points"]:
        moved = f"{tip['now']:g} to {tip['range'][1]:g}"
        where = f"at {tip['changes_at']:.4g}: {tip['to']}" if tip["changes_at"] is not None else "nowhere"
        lines.append(f"  {tip['what']}, {moved}: {where}")
    for flip in document["undecided_by"][:_DOUBTS]:
        end = f"{words.ENDS[flip['at']]} ({flip['value']:.3g})"
        lines.append(f"  if {flip['what']} is {end}: {flip['to']}, by {100 * flip['gain']:.1f} points")
    more = len(document["undecided_by"]) - _DOUBTS
    return [*lines, f"  and {more} more unknowns that would, by less"] if more > 0 else lines


def _plan_lines(plan: Mapping[str, Any], note: str) -> list[str]:
    return [
        f"  {plan['label']}: {note}",
        f"    score {_three(plan['utility'])}, ${_three(plan['usd'])}, days {_three(plan['days'])}",
    ]


def _information_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"worth knowing before deciding (all of it: {100 * found['perfect']:+.1f} points)"]
    for pilot in found["pilots"]:
        if pilot["gain"] > 0:
            price = f"{words.digits(pilot['gpu_hours'])} GPU-hours, ${words.digits(pilot['usd'])}"
            lines.append(
                f"  {100 * pilot['gain']:+.2f} points for {price}: {pilot['title']} ({pilot['measures']})"
            )
    return lines if len(lines) > 2 else [*lines, "  no single pilot can be told from worthless"]


def _three(row: Mapping[str, float]) -> str:
    return " / ".join(words.digits(row[name]) for name in ("p10", "p50", "p90"))
