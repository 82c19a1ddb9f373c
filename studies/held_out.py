"""Forecasts of held-out runs against what happened and against the simple rules: the document of an honest test.

Leaves out: making the forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopdsim.errors import UsageError
from studies.baselines import BASELINES, Cell
from studies.scoring import LEVELS, best_constant_rule, choose, coverage, crps, regret

DRAWS = 2000
POINTS = 100.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One held-out score: of which run, what was forecast (members of an ensemble), and what came out."""

    run: str
    cell: Cell
    ensemble: tuple[float, ...]
    truth: float


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One condition in which every recipe was run: what was forecast of each recipe's mean score, and what came out."""

    condition: str
    predicted: Mapping[str, float]
    measured: Mapping[str, float]


def judge(
    trials: Sequence[Trial], contests: Sequence[Contest], rng: np.random.Generator, *, tie: float = 0.01
) -> dict[str, Any]:
    """n, mae_points, crps_points, coverage_50, _80, _90 with exact intervals, every baseline's error on the cells it
    speaks of, the best of those that speak of all, skill = 1 - MAE / its MAE with an 80% interval by run, regrets.

    The best constant rule and the best baseline are chosen with hindsight, in their favour.
    """
    if not trials:
        raise UsageError("no held-out scores to judge: run a study whose design declares held-out runs")
    truth_N = np.array([trial.truth for trial in trials])
    ensemble_NM = np.array([trial.ensemble for trial in trials])
    error_N = np.abs(np.median(ensemble_NM, axis=1) - truth_N)
    errors = {name: baseline_errors(name, trials) for name in BASELINES}
    everywhere = {name: rows for name, rows in errors.items() if np.isfinite(rows).all()}
    best = min(everywhere, key=lambda name: everywhere[name].mean())
    document: dict[str, Any] = {
        "n": len(trials),
        "runs": len({trial.run for trial in trials}),
        "mae_points": POINTS * float(error_N.mean()),
        "crps_points": POINTS * float(crps(ensemble_NM, truth_N).mean()),
        "best_baseline": best,
        "best_baseline_mae_points": POINTS * float(everywhere[best].mean()),
        "baselines": {
            name: {"n": int(np.isfinite(rows).sum()), "mae_points": POINTS * float(np.nanmean(rows))}
            for name, rows in errors.items()
            if np.isfinite(rows).any()
        },
        **_skill(trials, error_N, everywhere[best], rng),
    }
    for level in LEVELS:
        found = coverage(ensemble_NM, truth_N, level)
        document[f"coverage_{level * 100:.0f}"] = found.share
        document[f"coverage_{level * 100:.0f}_interval"] = [found.low, found.high]
        document[f"coverage_{level * 100:.0f}_mean_width_points"] = POINTS * found.mean_width
    return document | _regrets(contests, tie)


def baseline_errors(name: str, trials: Sequence[Trial]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Absolute error of a rule on each trial, nan where it does not speak."""
    said = [BASELINES[name](trial.cell) for trial in trials]
    pairs = zip(said, trials, strict=True)
    return np.array([np.nan if value is None else abs(value - trial.truth) for value, trial in pairs])


def _skill(
    trials: Sequence[Trial],
    error_N: np.ndarray[Any, Any],
    rival_N: np.ndarray[Any, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """1 - MAE / the rival's, with its interval over resampled runs."""
    by_run: dict[str, list[int]] = {}
    for place, trial in enumerate(trials):
        by_run.setdefault(trial.run, []).append(place)
    sums = np.array([[error_N[places].sum(), rival_N[places].sum()] for places in by_run.values()])
    picks = rng.integers(0, len(sums), size=(DRAWS, len(sums)))
    drawn = sums[picks].sum(axis=1)
    skills = 1 - drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12)
    low, high = np.quantile(skills, [0.1, 0.9])
    whole = sums.sum(axis=0)
    return {"skill": float(1 - whole[0] / max(whole[1], 1e-12)), "skill_interval": [float(low), float(high)]}


def _regrets(contests: Sequence[Contest], tie: float) -> dict[str, Any]:
    if not contests:
        return {"conditions": 0, "regret_points": None, "best_constant_rule_regret_points": None}
    measured = [contest.measured for contest in contests]
    chosen = [choose(contest.predicted, tie=tie) for contest in contests]
    ours = regret(chosen, measured)
    rule, constant = best_constant_rule(measured)
    return {
        "conditions": ours.conditions,
        "ties": ours.ties,
        "regret_points": POINTS * ours.mean,
        "best_constant_rule": rule,
        "best_constant_rule_regret_points": POINTS * constant.mean,
    }
