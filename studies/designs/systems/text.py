"""The tables of `mopd study compare | overoptimisation` for people. Leaves out: the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def compare_text(result: Mapping[str, Any]) -> str:
    """Measured and forecast, a recipe a line, and where they part."""
    lines = [
        f"{result['model']}, seed {result['seed']}, {', '.join(result['domains'])}",
        "measured, and beside it the forecast: P50 (P10 to P90)",
        f"{'recipe':<18}{'mean':>7}  {'':<22}{'worst':>7}  {'':<22}{'cap':>6}  {'lost':<18}{'TFLOP':>7}{'seconds':>9}",
    ]
    for name, row in sorted(result["recipes"].items(), key=lambda item: -item[1]["mean"]):
        told = row["forecast"]
        cap = "-" if row["cap"] is None else f"{row['cap']:.2f}"
        lines.append(
            f"{name:<18}{row['mean']:>7.3f}  {_three(told['mean']):<22}"
            f"{row['worst']:>7.3f}  {_three(told['worst']):<22}{cap:>6}  {', '.join(row['lost']) or '-':<18}"
            f"{row['flops'] / 1e12:>7.3f}{row['seconds']:>9.0f}"
        )
    found = result["disagreement"]
    worst = found["largest"]
    lines.append(
        f"{found['inside_80']:.0%} of {found['cells']} scores lie within P10 to P90; "
        f"mean error {found['mean_error']:+.3f}, mean absolute error {found['mean_absolute_error']:.3f}; "
        f"largest: {worst['recipe']} in {worst['domain']}, "
        f"{worst['measured']:.2f} against {worst['forecast']['p50']:.2f}"
    )
    return "\n".join(lines)


def _three(row: Mapping[str, float]) -> str:
    return f"{row['p50']:.2f} ({row['p10']:.2f} to {row['p90']:.2f})"


def overoptimisation_text(result: Mapping[str, Any]) -> str:
    """Each curve's start, best and last true score, and where it peaks."""
    lines = [
        f"{'judge':<34}{'accuracy':>9}  {'method':<10}{'start':>7}{'best':>7}{'at d':>6}{'last':>7}{'at d':>6}"
    ]
    for curve in result["curves"]:
        points: Sequence[Mapping[str, float]] = curve["points"]
        best, last = max(points, key=lambda point: point["gold"]), points[-1]
        judge = f"noise {curve['noise']:g}, {curve['labelling_steps']} steps, seed {curve['seed']}"
        lines.append(
            f"{judge:<34}{curve['accuracy']:>9.2f}  {curve['method']:<10}{points[0]['gold']:>7.2f}{best['gold']:>7.2f}"
            f"{best['d']:>6.2f}{last['gold']:>7.2f}{last['d']:>6.2f}"
        )
    return "\n".join(lines)
