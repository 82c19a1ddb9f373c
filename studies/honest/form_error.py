"""How far scores of conditions that a fit has not seen lie from its forecasts: the error of the model form.

Within a fit the error looks small, since parameters bend towards what they see. So each part of the conditions is left
out in turn, and the scale of Student's t in logits (four degrees of freedom, as in the fit) is the most probable one
for what the runs left out measured, told their starts and own specialists, over the forecast's own spread and the
finite test's. Greedy scores have a scale of their own, found alike. Bold rates keep the scale of the fit: three
parameters of breaking do not bend to hundreds of scores. No held-out run takes part. A study of a real model enters no
fit, so that all its conditions are left out: its runs show the scales of its scope, bold ones too. Leaves out: how the
error is drawn (`studies.honest.trials`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import stdtr

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import BOLD_ERROR, DEGREES, GREEDY_ERROR, MODEL_ERROR, from_document
from mopdsim.facts.domains import Scope
from studies.honest.held_out import Trial
from studies.honest.prospective import FIGURES, told_trials
from studies.honest.refit import Refit, entering, refit
from studies.honest.trials import Forecaster, Studies, condition_of, trials

FOLDS = 3
LEAST_RUNS = 6
TINY: Scope = "tiny"  # what fits are of
REAL: Scope = "small"  # what studies of real models are of
_LOG_SCALES = (math.log(0.02), math.log(3.0))  # between which a scale is sought
_FAR = 1e6  # logits
_CERTAIN = 1e-12  # probability of what no draw comes near


def crossed(folders: Mapping[str, Path], studies: Studies, whole: Refit, *, folds: int = FOLDS) -> Refit:
    """The fit with the scales that its conditions show when they are left out, a part at a time, at ordinary rates; the
    fit as it is where there are too few runs."""
    left_out = [left_out_of(folders, studies, fold=fold, of=folds) for fold in range(folds)]
    rows: dict[str, Any] = {}
    for name in (MODEL_ERROR, GREEDY_ERROR):
        source = f"their conditions left out of a fit, one in {folds} at a time"
        left = [trial for part in left_out for trial in part.get(name, ()) if not trial.bold]
        rows |= scale(whole.document["parameters"], left, name, TINY, source=source)
    return with_errors(whole, rows)


def carried(whole: Refit, real: Studies) -> Refit:
    """The fit with the scales of a scope that no fit has seen, from all scores of studies of real models, told as their
    forecasts on record are; the fit as it is where these are few."""
    rows = dict(whole.document["parameters"])
    sampled, greedy = (told_trials(real, whole.calibration, _any, figure=figure) for figure in FIGURES)
    source = f"of {', '.join(real)}, which enter no fit"
    for name, own in (
        (MODEL_ERROR, [trial for trial in sampled if not trial.bold]),
        (GREEDY_ERROR, [trial for trial in greedy if not trial.bold]),
        (BOLD_ERROR, [trial for trial in [*sampled, *greedy] if trial.bold]),
    ):
        rows |= scale(rows, own, name, REAL, source=source)
    return with_errors(whole, rows)


def _any(study: str, row: Mapping[str, Any]) -> bool:
    return True


def scale(
    parameters: Mapping[str, Any], chosen: Sequence[Trial], name: str, scope: Scope, *, source: str
) -> dict[str, Any]:
    """An error's row with its scale in a scope, from trials that no fit has seen; none where their runs are few."""
    runs = {(trial.study, trial.run) for trial in chosen}
    if len(runs) < LEAST_RUNS:
        return {}
    row = parameters[name]
    middle, sd = row["value"], row["sd"]
    found = {
        "value": float(f"{most_probable(chosen, middle, sd):.6g}"),
        "sd": float(f"{(2 * len(runs) + sd**-2) ** -0.5:.6g}"),
        "grade": "fitted",
        "source": f"{len(runs)} runs, {source}",
    }
    return {name: {**row, "studies": {**row.get("studies", {}), scope: found}}}


def with_errors(whole: Refit, rows: Mapping[str, Any]) -> Refit:
    """A fit with other rows for the errors of its form, such as those of a fit to more."""
    document = {**whole.document, "parameters": {**whole.document["parameters"], **rows}}
    return replace(
        whole,
        document=document,
        calibration=from_document(document, source="the calibration fitted crosswise"),
    )


def most_probable(chosen: Sequence[Trial], middle: float, sd: float) -> float:
    """The scale under which the measured scores are most probable, given ensembles without any such error. A score is a
    share of so many prompts: what counts is the probability of that share, half a prompt to either side. middle, sd:
    the scale's prior, the sd of its ln."""
    items_T, truth_T = (
        np.array([getattr(t, key) for t in chosen], dtype=float) for key in ("items", "truth")
    )
    drawn_TN = _logits(np.array([trial.ensemble for trial in chosen]), items_T[:, None])
    none_T, all_T = truth_T * items_T < 0.5, truth_T * items_T > items_T - 0.5
    low_T = np.where(none_T, -_FAR, _logits(truth_T - 0.5 / items_T, items_T))
    high_T = np.where(all_T, _FAR, _logits(truth_T + 0.5 / items_T, items_T))

    def cost(log: float) -> float:
        low_TN, high_TN = ((edge_T[:, None] - drawn_TN) / math.exp(log) for edge_T in (low_T, high_T))
        share_T = (stdtr(DEGREES, high_TN) - stdtr(DEGREES, low_TN)).mean(axis=1)
        return float(0.5 * ((log - math.log(middle)) / sd) ** 2 - np.log(share_T + _CERTAIN).sum())

    return math.exp(minimize_scalar(cost, bounds=_LOG_SCALES, method="bounded").x)


def left_out_of(
    folders: Mapping[str, Path], studies: Studies, *, fold: int, of: int
) -> dict[str, list[Trial]]:
    """One part of the conditions, forecast without an error of the form by a fit to the others: by the error that they
    speak of, trials of scores at temperature 1 and greedy ones."""

    def is_left(study: str, row: Mapping[str, Any]) -> bool:
        return _part(condition_of(study, row), of) == fold

    def wanted(study: str, row: Mapping[str, Any]) -> bool:
        return is_left(study, row) and not row["held_out"]

    if not entering(studies, is_left):
        return {}
    learned = refit(folders, studies, leave=is_left, starts=1).calibration
    entered = {(study, name) for study, names in entering(studies).items() for name in names}
    told = Forecaster(studies=studies, calibration=learned, form_error=False, informed=True)
    judged = {
        MODEL_ERROR: trials(told, wanted),
        GREEDY_ERROR: told_trials(studies, learned, wanted, figure="greedy"),
    }
    return {
        name: [trial for trial in own if trial.in_set and (trial.study, trial.run) in entered]
        for name, own in judged.items()
    }


def _part(condition: str, of: int) -> int:
    """Which part a condition belongs to, by its name alone."""
    return int.from_bytes(hashlib.blake2b(condition.encode(), digest_size=4).digest()) % of


def _logits(score: Array, items: Array) -> Array:
    """Of a share of so many prompts, half a prompt from either end."""
    return logit((np.clip(score, 0.0, 1.0) * items + 0.5) / (items + 1))
