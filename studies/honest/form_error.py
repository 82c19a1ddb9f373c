"""How far scores of conditions that a fit has not seen lie from its forecasts: the error of the model form.

Within a fit the error looks small, since parameters bend towards what they see. So each part of the conditions is left
out in turn, and the scale of Student's t in logits (four degrees of freedom, as in the fit) is the most probable one
for what the runs left out measured, told their starts and own specialists, over the forecast's own spread and the
finite test's. Greedy scores have a scale of their own, found alike. Bold rates keep the scale of the fit: three
parameters of breaking do not bend to hundreds of scores. No held-out run takes part. Leaves out: how the error is
drawn (`studies.honest.predictive`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import from_document
from mopdsim.belief.form_error import GREEDY_ERROR, MODEL_ERROR
from studies.honest.held_out import Trial
from studies.honest.predictive import DEGREES
from studies.honest.prospective import greedy_trials
from studies.honest.refit import Refit, entering, refit
from studies.honest.trials import Forecaster, Studies, condition_of, trials

FOLDS = 3
LEAST_RUNS = 6
_SCALES = np.geomspace(0.02, 3.0, 200)


def crossed(folders: Mapping[str, Path], studies: Studies, whole: Refit, *, folds: int = FOLDS) -> Refit:
    """The fit with the scales that its conditions show when they are left out, a part at a time, at ordinary rates; the
    fit as it is where there are too few runs."""
    left_out = [left_out_of(folders, studies, whole, fold=fold, of=folds) for fold in range(folds)]
    rows: dict[str, Any] = {}
    for name, own in (
        (MODEL_ERROR, [part.sampled for part in left_out]),
        (GREEDY_ERROR, [part.greedy for part in left_out]),
    ):
        rows |= scale(whole, [trial for part in own for trial in part], name, folds=folds)
    return with_errors(whole, rows)


def scale(whole: Refit, left_out: Sequence[Trial], name: str, *, folds: int) -> dict[str, Any]:
    """The row of an error's scale at ordinary rates, from trials of conditions left out; none where they are few."""
    own = [trial for trial in left_out if not trial.bold]
    runs = {(trial.study, trial.run) for trial in own}
    if len(runs) < LEAST_RUNS:
        return {}
    row = whole.document["parameters"][name]
    middle, sd = row["value"], row["sd"]
    found = {
        "value": float(f"{most_probable(own, middle, sd):.6g}"),
        "sd": float(f"{(2 * len(runs) + sd**-2) ** -0.5:.6g}"),
        "grade": "fitted",
        "source": f"{len(runs)} runs, their conditions left out of a fit, one in {folds} at a time",
    }
    scopes = whole.document["parameters"][MODEL_ERROR]["studies"]
    return {name: {**row, "studies": dict.fromkeys(scopes, found)}}


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


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Trials of a part of the conditions, forecast by a fit to the others: scores at temperature 1, and greedy ones."""

    sampled: Sequence[Trial] = ()
    greedy: Sequence[Trial] = ()


def left_out_of(
    folders: Mapping[str, Path], studies: Studies, whole: Refit, *, fold: int, of: int
) -> LeftOut:
    """One part of the conditions, forecast without an error of the form by a fit to the others."""

    def is_left(study: str, row: Mapping[str, Any]) -> bool:
        return _part(condition_of(study, row), of) == fold

    def wanted(study: str, row: Mapping[str, Any]) -> bool:
        return is_left(study, row) and not row["held_out"]

    if not entering(studies, is_left):
        return LeftOut()
    learned = refit(folders, studies, leave=is_left, starts=1).calibration
    fitted_runs = {(study, name) for study, names in whole.runs.items() for name in names}
    told = Forecaster(studies=studies, calibration=learned, form_error=False, informed=True)
    judged = {"sampled": trials(told, wanted), "greedy": greedy_trials(studies, learned, wanted)}
    return LeftOut(
        **{
            name: [trial for trial in own if trial.in_set and (trial.study, trial.run) in fitted_runs]
            for name, own in judged.items()
        }
    )


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
