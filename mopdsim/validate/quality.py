"""Published scores per strategy against the quality model: `validate(path)` of a table like
data/published/quality.csv.

A row gives where a domain started, what its own specialist reached and what a strategy reached. The model is
told the first two and predicts the third: the domain's asymptote is set so that its specialist ends at the
published score after a run of about 3 C_mid, and recipes are taken at equal total compute, which the papers
rarely state (a prior). Predictions of a study use no conflict or transfer that was read off that study;
constants that were set with its help are named in `seen_by_study`. Of the simple rules `recovery_elsewhere` takes a
method's recovery from the other studies.
Leaves out: scores of the seven systems' own forecasts, any fit, who beats whom (`mopdsim.validate.quality_backtest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import Calibration, default_calibration, standard_normal
from mopdsim.facts.domains import domain, domains
from mopdsim.quality.walk import Effort, hill, walk
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.catalogue import recipe
from mopdsim.recipes.recipe import BASE, Distill, Merge, Recipe, Teacher
from mopdsim.validate.quality_backtest import back_test
from mopdsim.validate.quality_rows import METHODS, ONE, ZERO, Score, read

_SPECIALIST_COMPUTE, _SPECIALIST_SPREAD = (
    3.0,
    0.6,
)  # C / C_mid of a published specialist and its sd in ln; prior
_DISTILL_FOLDS, _DISTILL_SPREAD = 3.0, 0.5  # gradient tokens per domain over D_d; prior
_OBSERVATION_SD = 0.02  # seed and items of a published score, in probability; prior
_CONSTANT_RECOVERY = {"mixed": 0.47, "merge": 0.65}
_CONSTANT_OTHERWISE = 0.70
DRAWS = 2000


def predict(row: Score, calibration: Calibration, *, draws: int = DRAWS, seed: int = 0) -> Array:
    """Draws of the row's score as a probability. (N,)"""
    plan = _recipe(row)
    names = tuple(dict.fromkeys((*plan.domains, row.domain)))
    plan = plan.model_copy(update={"domains": names})
    known = {name: domain(name if name in _ROWS else "math") for name in names}
    chosen = {name: replace(found, name=name) for name, found in known.items()}
    world = draw_world(calibration, chosen, tuple(plan.stage), "frontier", seed=seed, draws=draws)
    compute_N = _SPECIALIST_COMPUTE * np.exp(_SPECIALIST_SPREAD * standard_normal("specialist", seed, draws))
    world = _told(world, row, compute_N)
    folds_N = _DISTILL_FOLDS * np.exp(_DISTILL_SPREAD * standard_normal("folds", seed, draws))
    efforts = {}
    for stage in plan.stages:
        places = [] if isinstance(stage, Merge) else [world.index[name] for name in stage.domains]
        efforts[stage.name] = Effort(
            compute_N=compute_N * world.midpoint_DN[places].sum(axis=0),
            tokens_N=folds_N * world.distill_tokens_DN[places].sum(axis=0),
        )
    final = walk(plan, world, efforts, explain=False)[plan.output]
    noise_N = _OBSERVATION_SD * standard_normal(f"observed:{row.line}", seed, draws)
    return final.score_DN[world.index[row.domain]] + noise_N


def without_study(calibration: Calibration, study: str) -> Calibration:
    """The calibration without what was read off one study for single pairs of domains."""
    identifier = study.split()[0]
    kept = {
        name: parameter
        for name, parameter in calibration.parameters.items()
        if ":" not in name or identifier not in parameter.prior.source
    }
    return replace(calibration, parameters=kept)


def validate(path: Path | None = None, calibration: Calibration | None = None) -> dict[str, Any]:
    """The report: errors in points of score (percent rows) and in recovery (normalised rows), against
    baselines.
    """
    calibration = calibration or default_calibration()
    rows, incomplete, refused = read(path)
    judged = [row for row in rows if not (row.method == "single_domain" and row.in_set)]
    if not judged:
        raise UsageError("no row can be predicted: give start, teacher and score of at least one strategy")
    predictions = [
        _judge(row, without_study(calibration, row.study), recovery_elsewhere(row, judged)) for row in judged
    ]
    percent = [found for found in predictions if found["unit"] == "percent"]
    normalised = [found for found in predictions if found["unit"] == "normalised"]
    studies = sorted({row.study for row in judged})
    return {
        "kind": "quality",
        "rows": len(judged),
        "given": len(rows) - len(judged),
        "incomplete": incomplete,
        "refused": refused,
        "coverage_80": _mean([found["inside_80"] for found in predictions]),
        **_errors(percent),
        "normalised": _errors(normalised),
        "by_study": {
            name: _errors([p for p in percent + normalised if p["study"] == name]) for name in studies
        },
        "by_method": {
            name: _errors([p for p in percent if p["method"] == name])
            for name in sorted({p["method"] for p in percent})
        },
        "seen_by_study": {name: _constants_of(calibration, name) for name in studies},
        "back_test": back_test(predictions),
        "predictions": predictions,
    }


def recovery_elsewhere(row: Score, rows: Sequence[Score]) -> float:
    """The share of the specialists' headroom that the row's method recovered in the other studies, on domains
    it was trained on. Where no other study has the method, the share of all methods; 1 where there are no
    such rows."""
    others = [other for other in rows if other.study != row.study and other.in_set]
    alike = [other for other in others if _family(other) == _family(row)] or others
    headroom = sum(other.teacher - other.start for other in alike)
    gained = sum(other.score - other.start for other in alike)
    return gained / headroom if headroom > 0 else 1.0


def _family(row: Score) -> str:
    """A method without its variant."""
    return row.method.partition("_")[0]


_ROWS = {alias for name, row in domains().items() for alias in (name, *row.aliases)}


def _recipe(row: Score) -> Recipe:
    name, options = METHODS[row.method]
    plan = recipe(name, list(row.trained), amounts="small", **options)
    student = plan.stage[plan.output]
    if row.method != "mopd_teacher_self" or not isinstance(student, Distill):
        return plan
    teachers = [teacher for teacher in student.teachers if row.domain not in teacher.domains]
    teachers.append(Teacher(stage=BASE, domains=(row.domain,)))
    own = student.model_copy(update={"teachers": tuple(teachers)})
    return plan.model_copy(update={"stages": (*plan.stages[:-1], own)})


def _told(world: World, row: Score, compute_N: Array) -> World:
    """The world in which the row's domain starts and its specialist ends as published; the others are
    typical.
    """
    start_DN, steep_DN = np.full_like(world.start_DN, ZERO), world.steepness_DN
    teacher_DN = np.full_like(start_DN, ONE)
    place = world.index[row.domain]
    start_DN[place], teacher_DN[place] = row.start, row.teacher
    progress_DN = hill(compute_N, steep_DN)
    asymptote_DN = np.clip(start_DN + (teacher_DN - start_DN) / progress_DN, start_DN, 0.999)
    return replace(
        world,
        start_DN=start_DN,
        asymptote_DN=asymptote_DN,
        midpoint_DN=world.length_DN,
        spread={},
    )


def _judge(row: Score, calibration: Calibration, recovered: float) -> dict[str, Any]:
    """A row's prediction, its error and those of the simple rules, in the row's unit. recovered: in other studies."""
    drawn_N = predict(row, calibration)
    low, middle, high = (float(value) for value in np.quantile(drawn_N, [0.1, 0.5, 0.9]))
    constant = next(
        (share for prefix, share in _CONSTANT_RECOVERY.items() if row.method.startswith(prefix)),
        _CONSTANT_OTHERWISE,
    )
    rules = {
        "no_change": row.start,
        "own_expert": row.teacher if row.in_set else row.start,
        "constant_recovery": row.start + constant * (row.teacher - row.start) * row.in_set,
        "recovery_elsewhere": row.start + recovered * (row.teacher - row.start) * row.in_set,
    }
    shift = 0.0 if row.unit == "percent" else ZERO
    shown = {"p10": low, "p50": middle, "p90": high, "measured": row.score}
    return {
        "line": row.line,
        "study": row.study,
        "model": row.model,
        "method": row.method,
        "trained_on": "+".join(row.trained),
        "domain": row.benchmark,
        "in_set": row.in_set,
        "unit": row.unit,
        **{key: (value - shift) * row.scale for key, value in shown.items()},
        "inside_80": low <= row.score <= high,
        "error": abs(middle - row.score) * row.scale,
        "baseline_errors": {name: abs(value - row.score) * row.scale for name, value in rules.items()},
    }


def _errors(predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median, P90 and mean absolute error, and the best simple rule's."""
    if not predictions:
        return {"count": 0}
    errors = [found["error"] for found in predictions]
    rules = {
        name: _mean([found["baseline_errors"][name] for found in predictions])
        for name in predictions[0]["baseline_errors"]
    }
    best = min(rules, key=rules.__getitem__)
    return {
        "count": len(errors),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "mean_error": _mean(errors),
        "inside_80": _mean([found["inside_80"] for found in predictions]),
        "baseline_mean_errors": rules,
        "best_baseline": best,
        "naive_median_error": float(np.median([found["baseline_errors"][best] for found in predictions])),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _constants_of(calibration: Calibration, study: str) -> list[str]:
    """Constants whose source names the study: their predictions there are not out of sample."""
    identifier = study.split()[0]
    return sorted(
        name
        for name, found in calibration.parameters.items()
        if ":" not in name and identifier in found.prior.source
    )
