"""K along the dial: a known curve is found again from replicates, and the shipped one follows the measured runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopdsim.base.arrays import logistic, logit
from mopdsim.belief.calibration import default_calibration
from mopdsim.fit.ambiguity import FALL, along_the_dial, replicates
from mopdsim.fit.forest import Point, Run, Score, Tree, load, spent, trees_of
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE, Amounts

ITEMS = 100_000
START, GAIN = 0.3, 1.2
RESULTS = Path(__file__).parents[3] / "studies" / "results"


def pair(dial: float) -> tuple[str, str]:
    return f"sort?ambiguity={dial:g}", f"sort_down?ambiguity={dial:g}"


def experiment(dial: float, conflict: float) -> tuple[Tree, ...]:
    """Each of two rivals alone, and both together with a gain e^K times as large."""
    names = pair(dial)
    amounts = Amounts(steps=12, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=3e-4)
    runs, efforts, points = [], {}, {}
    points["base"] = (_point(BASE, dict.fromkeys(names, START)),)
    ways = {"one": (names[0],), "other": (names[1],), "both": names}
    for key, chosen in ways.items():
        single = len(chosen) == 1
        plan = catalogue.recipe("single_domain" if single else "mixed_rl", list(chosen))
        own = amounts if single else amounts.model_copy(update={"prompts_per_step": 32})
        plan = plan.with_amounts({plan.output: own}).model_copy(update={"domains": names})
        runs.append(Run(name=key, recipe=plan, keys={BASE: "base", plan.output: key}))
        efforts[key] = spent(1e4, 1e3)
        gain = GAIN * (1.0 if single else np.exp(conflict))
        points[key] = (_point(key, {n: float(logistic(logit(START) + gain)) for n in chosen}),)
    return trees_of(runs, efforts, points)


def _point(stage: str, scores: dict[str, float]) -> Point:
    rows = tuple(Score(domain=name, passed=score * ITEMS, n=ITEMS) for name, score in scores.items())
    return Point(stage=stage, effort=None, scores=rows)


def test_a_known_curve_is_found_again() -> None:
    trees = [tree for dial in (0.25, 0.5, 0.75, 1.0) for tree in experiment(dial, -1.6 * dial)]
    found = along_the_dial(trees, default_calibration().unfitted())
    assert found[FALL][0] == pytest.approx(1.6, rel=0.05)


def test_a_gain_that_turned_into_a_loss_counts_too() -> None:
    (tree,) = experiment(1.0, -1.0)
    (one,) = replicates(tree)
    assert (one.dial, one.alone, one.together) == pytest.approx((1.0, GAIN, GAIN * np.exp(-1)), abs=0.01)


def test_without_ambiguous_prompts_nothing_is_found() -> None:
    assert along_the_dial(experiment(0.0, 0.0), default_calibration()) == {}


def test_the_shipped_curve_follows_the_replicates_it_was_fitted_to() -> None:
    trees, _ = load([RESULTS / "interference" / "observations.csv"], calm=True)
    calibration = default_calibration()
    k = calibration.parameters[FALL].studies["tiny"].value
    for tree in trees:
        for one in replicates(tree):
            measured = np.log(max(one.together, 0.01) / one.alone)
            assert -k * one.dial == pytest.approx(measured, abs=0.35)
