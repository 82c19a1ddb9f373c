"""How far scores of conditions that a fit has not seen lie from its forecasts: the error of the model form.

Within a fit the error looks small, since parameters bend towards what they see. So a part of the conditions is left
out, and the scale of Student's t in logits (four degrees of freedom, as in the fit) is the most probable one for what
the runs left out measured, over the forecast's own spread and the finite test's. Bold rates keep the scale of the fit:
three parameters of breaking do not bend to hundreds of scores. No held-out run takes part. Leaves out: how the error is
drawn (`studies.honest.predictive`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import from_document
from mopdsim.belief.form_error import MODEL_ERROR
from mopdsim.fit.latents import SPREADS
from studies.honest.held_out import Trial
from studies.honest.predictive import DEGREES
from studies.honest.refit import Refit, entering, refit
from studies.honest.trials import Forecaster, Studies, condition_of, trials

FOLDS = 3
LEAST_RUNS = 6
_SCALES = np.geomspace(0.02, 3.0, 200)


def crossed(folders: Mapping[str, Path], studies: Studies, whole: Refit, *, folds: int = FOLDS) -> Refit:
    """The fit with the scale that one part in so many of its conditions shows when left out, at ordinary rates; the fit
    as it is where there are too few runs."""
    return with_errors(
        whole, scale(whole, left_out_of(folders, studies, whole, fold=0, of=folds), folds=folds)
    )


def scale(whole: Refit, left_out: Sequence[Trial], *, folds: int) -> dict[str, Any]:
    """The row of the scale at ordinary rates, from trials of conditions left out."""
    own = [trial for trial in left_out if not trial.bold]
    runs = {(trial.study, trial.run) for trial in own}
    row = whole.document["parameters"][MODEL_ERROR]
    if len(runs) < LEAST_RUNS:
        return {MODEL_ERROR: row}
    middle, sd = SPREADS["error"]
    found = {
        "value": float(f"{most_probable(own, middle, sd):.6g}"),
        "sd": float(f"{(2 * len(runs) + sd**-2) ** -0.5:.6g}"),
        "grade": "fitted",
        "source": f"{len(runs)} runs, their conditions, one in {folds}, left out of a fit",
    }
    return {MODEL_ERROR: {**row, "studies": dict.fromkeys(row["studies"], found)}}


def with_errors(whole: Refit, rows: Mapping[str, Any]) -> Refit:
    """A fit with other rows for the errors of its form, such as those of a fit to more."""
    document = {**whole.document, "parameters": {**whole.document["parameters"], **rows}}
    return replace(
        whole,
        document=document,
        calibration=from_document(document, source="the calibration fitted crosswise"),
    )


def most_probable(chosen: Sequence[Trial], middle: float, sd: float) -> float:
    """The scale under which the measured scores are most probable, given ensembles without any such error. middle, sd:
    its prior, the sd of the ln."""
    measured_T = _logits(np.array([trial.truth for trial in chosen]), _items(chosen))
    drawn_TN = _logits(np.array([trial.ensemble for trial in chosen]), _items(chosen)[:, None])
    apart_TN = measured_T[:, None] - drawn_TN
    log_S = np.array([_log_density(apart_TN / scale, scale).sum() for scale in _SCALES])
    return float(_SCALES[np.argmax(log_S - 0.5 * (np.log(_SCALES / middle) / sd) ** 2)])


def left_out_of(
    folders: Mapping[str, Path], studies: Studies, whole: Refit, *, fold: int, of: int
) -> list[Trial]:
    """Trials of one part of the conditions, forecast without an error of the form by a fit to the others."""

    def is_left(study: str, row: Mapping[str, Any]) -> bool:
        return _part(condition_of(study, row), of) == fold

    if not entering(studies, is_left):
        return []
    learned = refit(folders, studies, leave=is_left, starts=1)
    fitted_runs = {(study, name) for study, names in whole.runs.items() for name in names}
    judged = trials(
        Forecaster(studies=studies, calibration=learned.calibration, form_error=False),
        lambda study, row: is_left(study, row) and not row["held_out"],
    )
    return [trial for trial in judged if trial.in_set and (trial.study, trial.run) in fitted_runs]


def _part(condition: str, of: int) -> int:
    """Which part a condition belongs to, by its name alone."""
    return int.from_bytes(hashlib.blake2b(condition.encode(), digest_size=4).digest()) % of


def _items(chosen: Sequence[Trial]) -> Array:
    return np.array([float(trial.items) for trial in chosen])


def _logits(score: Array, items: Array) -> Array:
    """Of a share of so many prompts, half a prompt from either end."""
    return logit((score * items + 0.5) / (items + 1))


def _log_density(apart_TN: Array, scale: float) -> Array:
    """Of Student's t at a distance in scales, averaged over an ensemble, up to a constant."""
    return np.log(np.mean((1 + apart_TN**2 / DEGREES) ** (-(DEGREES + 1) / 2), axis=1) / scale)
