"""Forecasts of held-out runs against what happened and against the simple rules: the document of an honest test.

Judged are the domains that a recipe was trained on (in set); the others are told apart. Every rule is judged on every
score, completed by simpler ones where it does not speak, and the best is chosen with hindsight, in its favour. Leaves
out: making the forecasts (`studies.honest.trials`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.honest.baselines import BASELINES, Cell, said
from studies.honest.scoring import LEVELS, best_constant_rule, choose, coverage, crps, regret

DRAWS = 2000
POINTS = 100.0
TIE = 0.01  # of predicted mean scores; nearer ones count as equal
LEAST_SPREAD = 0.05  # of a condition's measured scores, for its choice to matter
CANDIDATES = ("mopd", "mixed_rl", "merge")  # always taking one of them is a constant rule


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One score of a run left out: what was forecast (members of an ensemble), and what came out on how many items;
    bold: whether RL at a bold rate led to it; rate: the highest rate of RL in the run."""

    study: str
    run: str
    condition: str
    seed: int
    cell: Cell
    ensemble: tuple[float, ...]
    truth: float
    items: int
    bold: bool = False
    rate: float = 0.0

    @property
    def in_set(self) -> bool:
        """Whether the recipe was trained on the domain."""
        return self.cell.domain in self.cell.trained

    @property
    def median(self) -> float:
        return float(np.median(self.ensemble))

    @property
    def interval(self) -> tuple[float, float]:
        """The central 80% of the ensemble."""
        low, high = np.quantile(self.ensemble, [0.1, 0.9])
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One condition in which several recipes were run: what was forecast of each one's mean score over trained domains
    and seeds, and what came out, with its standard error over prompts (of several). gaps: P10 and P90 of the forecast
    differences, points, by "a - b", in alphabetical order. rate: the highest rate of RL in its runs."""

    condition: str
    seeds: tuple[int, ...]
    held_out: bool
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    gaps: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rate: float = 0.0

    @property
    def spread(self) -> float:
        """Of the measured scores, best less worst."""
        return max(self.measured.values()) - min(self.measured.values())

    @property
    def decisive(self) -> bool:
        """Whether every candidate was run and the choice among the recipes matters."""
        return self.spread >= LEAST_SPREAD and self.measured.keys() >= set(CANDIDATES)

    @property
    def choice(self) -> tuple[str, ...]:
        """The recipes that the forecast would take, several where it calls a tie."""
        return choose(self.predicted, tie=TIE)


def judge(trials: Sequence[Trial], contests: Sequence[Contest], rng: np.random.Generator) -> dict[str, Any]:
    """n, mae_points, every baseline, skill = 1 - MAE / the best baseline's with an 80% interval by run, crps_points,
    coverage with exact intervals, regret over the held-out conditions in which the choice mattered; also over all
    held-out conditions, and over all, fitted ones among them."""
    inside = [trial for trial in trials if trial.in_set]
    outside = [trial for trial in trials if not trial.in_set]
    errors = {name: baseline_errors(name, inside) for name in BASELINES}
    best = min(errors, key=lambda name: errors[name].mean())
    return {
        "n": len(inside),
        "runs": len({(trial.study, trial.run) for trial in inside}),
        "conditions": len({trial.condition for trial in inside}),
        "mae_points": POINTS * float(errors_of(inside).mean()),
        "best_baseline": best,
        "best_baseline_mae_points": POINTS * float(errors[best].mean()),
        **_skill(inside, errors_of(inside), errors[best], rng),
        **_coverages(inside),
        "crps_points": POINTS * float(crps(_ensembles(inside), _truths(inside)).mean()),
        "baselines": {
            name: {
                "speaks_of": sum(BASELINES[name](trial.cell) is not None for trial in inside),
                "mae_points": POINTS * float(rows.mean()),
            }
            for name, rows in errors.items()
        },
        "rerun": rerun(inside),
        "out_of_set": _outside(outside),
        **regrets([c for c in contests if c.held_out and c.decisive]),
        "regret_all_held_out": regrets([c for c in contests if c.held_out]),
        "regret_fitted_too": regrets(contests),
    }


def errors_of(trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Absolute error of each forecast's median."""
    return np.abs(np.median(_ensembles(trials), axis=1) - _truths(trials))


def baseline_errors(name: str, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Absolute error of a rule on each trial."""
    return np.array([abs(said(BASELINES[name], trial.cell) - trial.truth) for trial in trials])


def rerun(trials: Sequence[Trial]) -> dict[str, Any]:
    """How far the same condition's scores lie apart with two seeds, by pair of runs and domain: the error of who takes
    a finished run for the forecast of its repetition. And the forecasts' error on the scores of those pairs."""
    groups: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.study, trial.condition, trial.cell.domain), []).append(trial)
    pairs = [pair for own in groups.values() for pair in combinations(own, 2)]
    if not pairs:
        return {"pairs": 0}
    return {
        "pairs": len(pairs),
        "mae_points": POINTS * float(np.mean([abs(one.truth - other.truth) for one, other in pairs])),
        "forecast_mae_points": POINTS * float(np.mean([errors_of(pair) for pair in pairs])),
    }


def regrets(contests: Sequence[Contest]) -> dict[str, Any]:
    """Of the forecast's choices and of the best constant rule among the recipes that all these conditions ran, None
    where there is none."""
    found: dict[str, Any] = {
        "regret_conditions": len(contests),
        "regret_points": None,
        "best_constant_rule": None,
        "best_constant_rule_regret_points": None,
    }
    if not contests:
        return found
    measured = [contest.measured for contest in contests]
    choices = [contest.choice for contest in contests]
    found |= {
        "ties": sum(len(names) > 1 for names in choices),
        "regret_points": POINTS * regret(choices, measured),
    }
    if (best := best_constant_rule(measured)) is not None:
        found |= {"best_constant_rule": best[0], "best_constant_rule_regret_points": POINTS * best[1]}
    return found


def _ensembles(trials: Sequence[Trial]) -> NDArray[np.float64]:
    return np.array([trial.ensemble for trial in trials])


def _truths(trials: Sequence[Trial]) -> NDArray[np.float64]:
    return np.array([trial.truth for trial in trials])


def _coverages(trials: Sequence[Trial]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for level in LEVELS:
        found = coverage(_ensembles(trials), _truths(trials), level)
        name = f"coverage_{level * 100:.0f}"
        document |= {
            name: found.share,
            f"{name}_interval": [found.low, found.high],
            f"{name}_mean_width_points": POINTS * found.mean_width,
        }
    return document


def _outside(trials: Sequence[Trial]) -> dict[str, Any]:
    if not trials:
        return {"n": 0}
    return {
        "n": len(trials),
        "mae_points": POINTS * float(errors_of(trials).mean()),
        "no_change_mae_points": POINTS * float(baseline_errors("no change", trials).mean()),
        "coverage_80": coverage(_ensembles(trials), _truths(trials), 0.8).share,
    }


def _skill(
    trials: Sequence[Trial],
    error_N: NDArray[np.float64],
    rival_N: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """1 - MAE / the rival's, with its interval over resampled runs."""
    by_run: dict[tuple[str, str], list[int]] = {}
    for place, trial in enumerate(trials):
        by_run.setdefault((trial.study, trial.run), []).append(place)
    sums = np.array([[error_N[places].sum(), rival_N[places].sum()] for places in by_run.values()])
    picks = rng.integers(0, len(sums), size=(DRAWS, len(sums)))
    drawn = sums[picks].sum(axis=1)
    skills = 1 - drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12)
    low, high = np.quantile(skills, [0.1, 0.9])
    whole = sums.sum(axis=0)
    return {"skill": float(1 - whole[0] / max(whole[1], 1e-12)), "skill_interval": [float(low), float(high)]}
