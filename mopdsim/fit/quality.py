"""Fitting the quality model to what runs scored: observations in, a calibration with its uncertainty out.

    fitted(Path("studies/results/gain/observations.csv"), ...)  ->  the document of a calibration

Several studies fit together: stages they share stand once. Leaves out: cost constants (`mopdsim.fit.cost`), the method
(`mopdsim.fit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import SHIPPED, Calibration, from_document, read
from mopdsim.fit.ambiguity import along_the_dial
from mopdsim.fit.document import document
from mopdsim.fit.forest import load
from mopdsim.fit.latents import latents_of
from mopdsim.fit.posterior import fit

STARTS = 2


def fitted(data: Sequence[Path], *, base: Path | None = None, starts: int = STARTS) -> dict[str, Any]:
    """The calibration `base` (the shipped one where absent) with what these observation files say, as a document."""
    if not data:
        raise UsageError("no observations to fit: give an observations.csv of a study")
    prior = dict(read(base or SHIPPED))
    calibration = from_document(prior, source=str(base or "the shipped calibration"))
    trees, dates = load(data)
    dial = along_the_dial(load(data, calm=True)[0], calibration)
    posterior = fit(latents_of(trees, _at(calibration, dial)), starts=starts)
    runs = sum(len(tree.runs) for tree in trees)
    names = ", ".join(path.parent.name or path.name for path in data)
    source = f"{names}: {runs} runs, {max(dates)}"
    return document(posterior, prior, name=f"fitted to {names}", source=source, dial=dial)


def _at(calibration: Calibration, found: Mapping[str, tuple[float, float]]) -> Calibration:
    """The calibration whose priors of these parameters are what was found of them."""
    rows = {
        name: replace(row, prior=replace(row.prior, value=found[name][0], sd=found[name][1]))
        for name, row in calibration.parameters.items()
        if name in found
    }
    return replace(calibration, parameters={**calibration.parameters, **rows})


def fit_text(found: Mapping[str, Any]) -> str:
    """A fitted calibration for people: what was learned, what was not, where it goes far from the prior."""
    about = found["fit"]
    lines = [
        f"{found['name']}: {len(about['runs'])} runs, {about['observations']} observations, "
        f"{about['above_ceiling']} above the ceiling; {about['agreeing_starts']} of {about['starts']} starts agree"
        + ("" if about["settled"] else "; the steps did not settle")
    ]
    for scope, domains in found["domains"].items():
        for domain, facts in domains.items():
            shown = ", ".join(f"{key} {row['value']:.3g} (sd {row['sd']:.2g})" for key, row in facts.items())
            lines.append(f"  {domain:<24} {shown}")
        known = {name: row["studies"] for name, row in found["parameters"].items() if "studies" in row}
        for name, studies in known.items():
            if scope in studies:
                estimate = studies[scope]
                lines.append(f"  {name:<24} {estimate['value']:.3g} (sd {estimate['sd']:.2g})")
    lines.append(f"not identified, so at their prior: {', '.join(about['not_identified']) or 'none'}")
    far = ", ".join(f"{name} by {moved:+.1f} sd" for name, moved in about["far_from_prior"].items())
    lines.append(f"far from their prior: {far or 'none'}")
    return "\n".join(lines)
