"""What `mopd study` prints for people. Leaves out: the verbs (`studies.cli.main`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.framework.ledger import Ledger
    from studies.framework.study import Study


def ledger_text(study: Study, record: Mapping[str, Any], found: Ledger, workers: int) -> str:
    """The prediction on record and the ledger in cut order."""
    began = f", first run {record['first_run']}" if record["first_run"] else ""
    shared = found.stages_in_all - found.distinct_stages
    lines = [
        f"{study.name}: {study.question}",
        f"prediction of {record['written']}{began}, sha256 {record['sha256'][:16]}: {study.prediction.text}",
        f"observed: {study.observed}",
        f"held out: {study.held_out}",
        "",
        f"{'run, first to drop first':<44} {'stages':>6} {'own':>4} {'seconds':>8} {'saves':>7}",
    ]
    for row in found.rows:
        mark = "  held out" if row.held_out else ""
        lines.append(
            f"{row.run:<44} {row.stages:>6} {row.own_stages:>4} {row.seconds:8.1f} {row.saves:7.1f}{mark}"
        )
    lines += [
        "",
        f"{len(found.rows)} runs, {found.stages_in_all} stages, {found.distinct_stages} distinct ({shared} shared), "
        f"{found.finished_stages} finished",
        f"{found.seconds:.0f} s of one worker in all, {found.left_seconds:.0f} s left: about "
        f"{found.left_seconds / workers / 60:.1f} min on {workers} workers",
    ]
    if found.by_rule:
        lines.append(
            f"no stage in the store yet, so at the pace of another machine: {', '.join(found.by_rule)}"
        )
    return "\n".join(lines)


def run_text(document: Mapping[str, Any]) -> str:
    """What a run of a study came to."""
    failed = document["failed"]
    lines = [
        f"{document['runs'] - len(failed)} of {document['runs']} runs finished; observations in {document['folder']}"
    ]
    lines += [f"failed: {name}: {why.strip().splitlines()[-1]}" for name, why in failed.items()]
    return "\n".join(lines)


def status_text(found: Mapping[str, Any]) -> str:
    """Each run's stages, and the files there are."""
    lines = [
        f"{name:<44} {row['finished']:>3}/{row['stages']:<3}{'  held out' if row['held_out'] else ''}"
        for name, row in found["runs"].items()
    ]
    there = [name for name, exists in found["files"].items() if exists]
    lines.append(
        f"{found['finished']} of {len(found['runs'])} runs finished, {found['left_seconds']:.0f} s of one worker left; "
        f"there are: {', '.join(there) or 'no results'}"
    )
    return "\n".join(lines)


def fit_text(document: Mapping[str, Any]) -> str:
    """Quantities of the studies; of all together the fit and the honest test."""
    lines = [
        f"{study:<14} {quantity:<40} {row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        for study, found in document["studies"].items()
        for quantity, row in found["quantities"].items()
    ]
    if "fit" in document:
        about = document["fit"]
        lines += [
            f"fitted: {about['runs']} runs, {about['observations']} observations, {about['seconds']:.1f} s; "
            f"{'the calibration that ships' if about['is_shipped'] else 'not the calibration that ships'}",
            *(f"not fitted: {study}: {why}" for study, why in about["left_out"].items()),
        ]
    for key, value in document.get("held_out", {}).items():
        if isinstance(value, Mapping):
            shown = ", ".join(f"{name} {_short(found)}" for name, found in value.items())
            lines.append(f"held out: {key}: {shown}")
        else:
            lines.append(f"held out: {key:<36} {_short(value)}")
    return "\n".join([*lines, *document.get("files", ())])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_short(found)}" for name, found in value.items()) + ")"
    if isinstance(value, list):
        return " to ".join(map(_short, value))
    return str(value)
