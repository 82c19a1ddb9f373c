"""The danger of breaking found again: RL runs at several rates and sizes that broke as a known hazard has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.belief.calibration import default_calibration
from mopdsim.fit.breakdown import breaking
from mopdsim.fit.forest import Point, Run, Score, Tree, spent, trees_of
from mopdsim.fit.latents import latents_of
from mopdsim.fit.posterior import fit
from mopdsim.quality.learning import BREAKING_COMPUTE
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE

RATE, POWER, BY_SIZE = 4e-3, 4.0, 0.25
LARGER = 8.0
RATES = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3)


def _trees(sizes: tuple[float, ...], seed: int = 0, runs_a_rate: int = 60) -> tuple[Tree, ...]:
    """Runs at every rate, those of one size on one base; all spend the same, and a broken one ends at a tenth."""
    rng = np.random.default_rng(seed)
    trees: list[Tree] = []
    for size in sizes:
        runs, efforts = [], {}
        base = f"base{size:g}"
        points = {base: (_point(BASE, 0.5),)}
        for number, rate in enumerate(np.repeat(RATES, runs_a_rate)):
            recipe = catalogue.single_domain(["sort"])
            own = recipe.amounts["specialist"].model_copy(update={"learning_rate": float(rate)})
            key = f"{size:g}/{number}"
            runs.append(
                Run(
                    name=key,
                    recipe=recipe.with_amounts({"specialist": own}),
                    keys={BASE: base, "specialist": key},
                )
            )
            efforts[key] = spent(BREAKING_COMPUTE, 1.0)
            hazard = (rate / (RATE * size**-BY_SIZE)) ** POWER
            points[key] = (_point(key, 0.05 if rng.random() < -np.expm1(-hazard) else 0.6),)
        trees += trees_of(runs, efforts, points, {base: size})
    return tuple(trees)


def _point(stage: str, score: float) -> Point:
    return Point(stage=stage, effort=None, scores=(Score(domain="sort", passed=score * 500, n=500),))


@pytest.mark.parametrize("sizes", [(1.0,), pytest.param((1.0, LARGER), marks=pytest.mark.slow)])
def test_rate_power_and_size_are_found_again(sizes: tuple[float, ...]) -> None:
    own = default_calibration().unfitted()
    flat = {"rate_exponent": 0.0, "batch_exponent": 0.0}  # so that all runs get equally far
    given = {
        name: replace(own.parameters[name], prior=replace(own.parameters[name].prior, value=value, sd=1e-6))
        for name, value in flat.items()
    }
    trees = _trees(sizes)
    posterior = fit(latents_of(trees, replace(own, parameters={**own.parameters, **given})))
    found = breaking(posterior, trees)
    assert ("breaking_size" in found) == (len(sizes) > 1)
    rate, sd = found["breaking_rate"]
    assert abs(np.log(rate / RATE)) < 3 * sd < 0.3
    for name, true in {"breaking_power": POWER, "breaking_size": BY_SIZE}.items():
        if name in found:
            value, sd = found[name]
            assert abs(value - true) < 3 * sd < 1.5


def test_without_tested_rl_nothing_is_said() -> None:
    (tree,) = _trees((1.0,), runs_a_rate=4)
    bare = replace(tree, points=tree.points[:1])
    assert breaking(fit(latents_of((tree,), default_calibration().unfitted())), (bare,)) == {}
