"""The honest test as a whole: fit what is committed, forecast what was held out, and leave out more than that.

    tested(folders)             the fit, and its forecasts of the held-out runs
    strategies_left_out(...)    of each strategy: refitted without any run of it, then forecast
    contests_left_out(...)      of each study with contests: refitted without it, then its choices

Leaves out: what it is written to (`studies.honest.report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mopdsim.belief.calibration import GREEDY_ERROR
from mopdsim.fit.quality import ERRORS, STARTS
from mopdsim.recipes.recipe_file import from_document
from studies.framework.observe import Observations
from studies.honest.baselines import BASELINES, strategy_of
from studies.honest.form_error import FOLDS, carried, crossed, with_errors
from studies.honest.held_out import POINTS, Contest, Trial, baseline_errors, errors_of, judge, regrets
from studies.honest.refit import (
    Leave,
    Refit,
    as_shipped,
    committed,
    entering,
    of_real_models,
    refit,
    same,
    shipped,
)
from studies.honest.scoring import coverage, lost
from studies.honest.trials import Forecaster, contests, seed_variances, trials

SEED = 20_260_102


@dataclass(frozen=True, kw_only=True)
class Judged:
    """studies: their observations; trials: forecasts that know what the simple rules know, the run's own specialists;
    before: forecasts from the start scores alone; contests: choices, made before anything is run; left_out: by study,
    why nothing of it entered the fit."""

    studies: Mapping[str, Observations]
    refit: Refit
    trials: Sequence[Trial]
    before: Sequence[Trial]
    contests: Sequence[Contest]
    left_out: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """What `held_out` says of it; only `n` = 0 where no held-out run has finished."""
        if not self.trials:
            return {"n": 0}
        by_condition = seed_variances(self.studies)
        variances = [value for own in by_condition.values() for value in own]
        return {
            **judge(self.trials, self.contests, np.random.default_rng(SEED)),
            "before_any_run": summary([trial for trial in self.before if trial.in_set]),
            "seed_to_seed_points": POINTS * float(np.mean(variances) ** 0.5) if variances else None,
            "seed_to_seed_median_points": POINTS * float(np.median(variances) ** 0.5) if variances else None,
            "seed_to_seed_conditions": len(by_condition),
        }

    def about(self) -> dict[str, Any]:
        """What the fit rests on, and whether it is the calibration that ships."""
        found, runs = self.refit.document["fit"], self.refit.runs
        return {
            "seconds": self.refit.seconds,
            "runs": sum(runs.values()),
            "studies": {study: runs[study] for study in self.studies if study in runs},
            "left_out": dict(self.left_out),
            "is_shipped": same(self.refit.document, shipped()),
            **{
                key: found[key]
                for key in ("observations", "settled", "starts", "agreeing_starts", "starts_behind")
            },
            **{key: found[key] for key in ("not_identified", "far_from_prior")},
        }


def tested(
    folders: Mapping[str, Path], *, starts: int = STARTS, folds: int = FOLDS, anew: bool = True
) -> Judged:
    """Fit the committed studies among these folders, with the error of the form that shows in one part of so many and
    on real models, and forecast their held-out runs. anew: else the calibration that ships is taken as it is."""
    studies = committed(folders)
    if anew:
        found = crossed(folders, studies, refit(folders, studies, starts=starts), folds=folds)
        found = carried(found, of_real_models(folders))
    else:
        found = as_shipped(studies)
    before = Forecaster(studies=studies, calibration=found.calibration)
    return Judged(
        studies=studies,
        refit=found,
        trials=trials(Forecaster(studies=studies, calibration=found.calibration, informed=True)),
        before=trials(before),
        contests=contests(before),
        left_out={name: _why(name, studies) for name in folders if name not in found.runs},
    )


def _why(name: str, studies: Mapping[str, Observations]) -> str:
    if name not in studies:
        return "no observations, or not of skills"
    if not studies[name].finished:
        return "no run finished"
    return "its model is not in the table, or all its runs are held out"


def strategies_left_out(folders: Mapping[str, Path], test: Judged) -> dict[str, Any]:
    """Of each strategy that was run: how well a calibration without any run of it forecasts them all. The error of the
    form is that of the whole fit."""
    studies = test.studies

    def named(row: Mapping[str, Any]) -> str:
        return strategy_of(from_document(row["document"], source="manifest"))

    found = {}
    for strategy in sorted({named(row) for own in studies.values() for row in own.finished.values()}):

        def is_left(study: str, row: Mapping[str, Any], strategy: str = strategy) -> bool:
            return named(row) == strategy

        if entering(studies, is_left):
            learned = _without(folders, test, is_left)
            judged = trials(Forecaster(studies=studies, calibration=learned.calibration), is_left)
            runs = sum(learned.runs.values())
            found[strategy] = {"fitted_runs": runs, **summary([trial for trial in judged if trial.in_set])}
    return found


def contests_left_out(folders: Mapping[str, Path], test: Judged) -> dict[str, Any]:
    """Regret over all conditions in which the choice mattered, each forecast by a calibration that saw nothing of its
    study, and the conditions one by one."""
    studies = test.studies
    made: list[Contest] = []
    for study in studies:

        def is_left(other: str, row: Mapping[str, Any], study: str = study) -> bool:
            return other == study

        has = any("contest" in row["factors"] for row in studies[study].finished.values())
        if has and entering(studies, is_left):
            learned = _without(folders, test, is_left)
            own = Forecaster(studies={study: studies[study]}, calibration=learned.calibration)
            made += contests(own)
    decided = [contest for contest in made if contest.decisive]
    return {**regrets(decided), "contests": [contest_row(contest) for contest in made]}


def _without(folders: Mapping[str, Path], test: Judged, leave: Leave) -> Refit:
    whole = {name: test.refit.document["parameters"][name] for name in (*ERRORS.values(), GREEDY_ERROR)}
    return with_errors(refit(folders, test.studies, leave=leave, starts=1), whole)


def summary(chosen: Sequence[Trial]) -> dict[str, Any]:
    """n, error, bias and coverage of some forecasts, and the best rule's error on the same scores."""
    if not chosen:
        return {"n": 0}
    rules = {name: float(baseline_errors(name, chosen).mean()) for name in BASELINES}
    best = min(rules, key=rules.__getitem__)
    return {
        "n": len(chosen),
        "runs": len({(trial.study, trial.run) for trial in chosen}),
        "mae_points": POINTS * float(errors_of(chosen).mean()),
        "bias_points": POINTS * float(np.mean([trial.median - trial.truth for trial in chosen])),
        "coverage_80": coverage([t.ensemble for t in chosen], [t.truth for t in chosen], 0.8).share,
        "best_baseline": best,
        "best_baseline_mae_points": POINTS * rules[best],
    }


def contest_row(contest: Contest) -> dict[str, Any]:
    """A condition's forecast, choice and loss, as JSON."""
    return {
        "condition": contest.condition,
        "held_out": contest.held_out,
        "seeds": list(contest.seeds),
        "predicted": dict(contest.predicted),
        "measured": dict(contest.measured),
        "errors": dict(contest.errors),
        "gaps": {name: list(ends) for name, ends in contest.gaps.items()},
        "spread_points": POINTS * contest.spread,
        "choice": list(contest.choice),
        "best": max(contest.measured, key=contest.measured.__getitem__),
        "regret_points": POINTS * lost(contest.choice, contest.measured),
    }
