"""Fitting the quality model to what runs scored: observations in, a calibration with its uncertainty out.

    fitted(Path("studies/results/gain/observations.csv"), ...)  ->  the document of a calibration

Several studies fit together: stages they share stand once. Only what the observations narrowed enters the document,
under its scope; the rest keeps its prior. A collapse happens or not, so that it is kept out of the walk and its middle
found apart. Leaves out: cost constants (`mopdsim.fit.cost`), the method (`mopdsim.fit`), the width of the hazard of a
collapse, which is fixed, seeds' shifts and errors of single runs, which hold for no other run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array, logistic
from mopdsim.belief.calibration import (
    BOLD_ERROR,
    MODEL_ERROR,
    SCHEMA_VERSION,
    SHIPPED,
    Calibration,
    from_document,
    read,
)
from mopdsim.fit.ambiguity import along_the_dial
from mopdsim.fit.forest import Tree, load, scope_of_trees
from mopdsim.fit.latents import Group, Latent, Latents, latents_of
from mopdsim.fit.posterior import Posterior, fit
from mopdsim.quality.distillation import collapse_hazard, distance
from mopdsim.quality.walk import walk
from mopdsim.recipes.stage import Distill

STARTS = 2
LEAST_LEARNED = 0.1  # of the prior's variance; below, a parameter counts as not identified
SURPRISE = 3.0  # prior standard deviations
ERRORS: Mapping[Group, str] = {"error": MODEL_ERROR, "bold_error": BOLD_ERROR}  # the rows that hold them
# prior of the spread of starts between bases, logits: counts as so many bases, of this size
BASES = (2.0, 0.3)
# of the prior, around its middle: far up, since nothing may have collapsed
_WIDTHS = np.linspace(-2.0, 12.0, 1401)


def fitted(
    data: Sequence[Path],
    *,
    base: Mapping[str, Any] | None = None,
    chosen: Collection[str] | None = None,
    starts: int = STARTS,
) -> dict[str, Any]:
    """The calibration `base` (a document; the shipped one where absent) with what these observation files say of the
    chosen runs, as STUDY/RUN (None: of all that were not held out), as a document."""
    prior = base or dict(read(SHIPPED))
    calibration = from_document(prior, source="the calibration that a fit starts from")
    trees, dates = load(data, chosen=chosen)
    dial = along_the_dial(load(data, calm=True, chosen=chosen)[0], calibration)
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


def document(
    posterior: Posterior,
    base: Mapping[str, Any],
    *,
    name: str,
    source: str,
    dial: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """The calibration `base` (a document) with the posterior's findings in its tables. source: studies, runs, date.
    dial: what replicates say of rivals."""
    latents, scope = posterior.latents, scope_of_trees(posterior.latents.trees)
    learned = _learned(posterior)
    parameters = {key: dict(row) for key, row in base["parameters"].items()}
    domains: dict[str, dict[str, Any]] = {}

    def fitted(value: float, sd: float) -> dict[str, Any]:
        return {"value": _round(value), "sd": _round(sd), "grade": "fitted", "source": source}

    for row in learned:
        if row.domain:
            domains.setdefault(row.domain, {})[row.fact] = fitted(row.value, row.sd)
    constants = {row.name: (row.value, row.sd) for row in learned if not row.domain}
    constants |= {row: posterior.spreads[group] for group, row in ERRORS.items()}
    if (middle := collapse_middle(posterior)) is not None:
        constants["collapse_middle"] = middle
    constants |= dial or {}
    for domain, (value, sd) in starts(posterior).items():
        domains.setdefault(domain, {})["start"] = fitted(value, sd)
    for key, ends in constants.items():
        studies = {**parameters[key].get("studies", {}), scope: fitted(*ends)}
        parameters[key] = {**parameters[key], "studies": studies}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "provenance": [*base.get("provenance", ()), source],
        "parameters": parameters,
        "domains": {scope: domains},
        "correlations": {scope: _correlations(learned, posterior)},
        "fit": _about(posterior, latents, learned),
    }


def starts(posterior: Posterior) -> dict[str, tuple[float, float]]:
    """Start scores of a new base of the studied size, by domain: mean over the bases and the sd of the next one, in
    probability. Of a few bases the spread leans on `BASES`."""
    latents = posterior.latents
    by_domain: dict[str, dict[str, float]] = {}
    for latent, x in zip(latents.entries, posterior.x_L, strict=True):
        if latent.tree is not None and latents.trees[latent.tree].relative_size == 1:
            base = latents.trees[latent.tree].base
            by_domain.setdefault(latent.domain, {})[base] = float(x)
    weight, spread = BASES
    found = {}
    for domain, own in by_domain.items():
        x_B = np.array(list(own.values()))
        variance = (weight * spread**2 + float(((x_B - x_B.mean()) ** 2).sum())) / (weight + len(x_B) - 1)
        mean = float(logistic(np.asarray(x_B.mean())))
        found[domain] = mean, math.sqrt(variance * (1 + 1 / len(x_B))) * max(mean * (1 - mean), 0.01)
    return found


def collapse_middle(posterior: Posterior) -> tuple[float, float] | None:
    """Of the hazard, nats a token, and the sd of its ln, by the likelihood of what happened at the distances that the
    fitted walk gives; None without on-policy distillations. A student that ends below its start has collapsed."""
    calibration = posterior.latents.calibration
    prior = calibration.parameters["collapse_middle"].prior
    seen = [pair for place in range(len(posterior.latents.trees)) for pair in _outcomes(posterior, place)]
    if not seen:
        return None
    log_middle_G = np.log(prior.value) + prior.sd * _WIDTHS
    log_G: Array = -0.5 * _WIDTHS**2
    for nats, collapsed in seen:
        hazard_G = collapse_hazard(np.array(nats), np.exp(log_middle_G))
        log_G = log_G + np.log(np.clip(hazard_G if collapsed else 1 - hazard_G, 1e-300, 1.0))
    weight_G = np.exp(log_G - log_G.max())
    weight_G /= weight_G.sum()
    mean = float(weight_G @ log_middle_G)
    return float(np.exp(mean)), float(np.sqrt(weight_G @ (log_middle_G - mean) ** 2))


def _outcomes(posterior: Posterior, place: int) -> Iterator[tuple[float, bool]]:
    """Of each on-policy distillation of a tree with a test at its end: the farthest teacher's distance, collapsed."""
    tree = posterior.latents.trees[place]
    world = posterior.latents.world(place, posterior.x_L[:, None])
    states = walk(tree.recipe, world, tree.efforts, explain=False)
    for stage in tree.recipe.stages:
        if not isinstance(stage, Distill) or not stage.on_policy:
            continue
        before, after = (_mean(tree, name, stage) for name in (stage.init, stage.name))
        if before is not None and after is not None:
            distances = [distance(name, stage.init, states) for name in stage.teacher_names]
            yield float(np.max(distances)), after < before


def _mean(tree: Tree, name: str, stage: Distill) -> float | None:
    """The test score at a stage's end over the domains distilled, None where it was not measured."""
    for point in tree.points:
        if point.stage == name and point.effort is None:
            found = {score.domain: score.passed / score.n for score in point.scores}
            return float(np.mean([found[domain] for domain in stage.domains]))
    return None


class _Row:
    """A constant, or a fact of a domain, under the name of its draws, and its place among the unknowns."""

    def __init__(self, posterior: Posterior, latent: Latent) -> None:
        self.name, self.domain = latent.name, latent.domain
        self.fact = latent.name.partition(":")[0]
        self.place = posterior.latents.index[latent.name]
        self.value = float(latent.value(posterior.x_L[self.place]))
        self.sd = float(posterior.sd_L[self.place])
        if self.domain and latent.distribution == "logit":  # the table has deviations in probability
            self.sd *= max(self.value * (1 - self.value), 0.01)


def _learned(posterior: Posterior) -> list[_Row]:
    """The constants and facts that the fit narrowed."""
    return [
        _Row(posterior, latent)
        for latent, share in zip(posterior.latents.entries, posterior.learned_L, strict=True)
        if latent.tree is None and share >= LEAST_LEARNED
    ]


def _correlations(learned: Sequence[_Row], posterior: Posterior) -> dict[str, Any]:
    """Names, and the lower triangle of the correlation matrix as one text for each row."""
    places = [row.place for row in learned]
    sd_R = posterior.sd_L[places]
    correlation_RR = posterior.covariance_LL[np.ix_(places, places)] / np.outer(sd_R, sd_R)
    return {
        "names": [row.name for row in learned],
        "rows": [
            " ".join(f"{value:.3f}" for value in row[: place + 1]) for place, row in enumerate(correlation_RR)
        ],
    }


def _about(posterior: Posterior, latents: Latents, learned: Sequence[_Row]) -> dict[str, Any]:
    """What the fit rests on, which parameters it says nothing of, and where it goes far from the prior."""
    known = {row.name for row in learned}
    shown = [latent for latent in latents.entries if latent.tree is None]
    moved = dict(zip(latents.index, (posterior.x_L - latents.mean_L) / latents.sd_L, strict=True))
    return {
        "runs": sorted(name for tree in latents.trees for name in tree.runs),
        "observations": len(posterior.seen.y_M),
        "above_ceiling": int(posterior.seen.censored_M.sum()),
        "settled": posterior.settled,
        "starts": posterior.starts,
        "agreeing_starts": posterior.agreeing,
        "starts_behind": [round(value, 1) for value in posterior.behind],
        "spreads": {group: [_round(value), _round(sd)] for group, (value, sd) in posterior.spreads.items()},
        "learned": {
            latent.name: round(float(posterior.learned_L[latents.index[latent.name]]), 3) for latent in shown
        },
        "not_identified": [latent.name for latent in shown if latent.name not in known],
        "far_from_prior": {
            latent.name: round(float(moved[latent.name]), 1)
            for latent in shown
            if abs(moved[latent.name]) > SURPRISE
        },
    }


def _round(value: float) -> float:
    return float(f"{value:.6g}")


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
