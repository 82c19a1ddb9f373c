"""Breaking found again from scores: RL runs at several rates and sizes that lost what a known rate takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.base.arrays import logistic, logit
from mopdsim.belief.calibration import default_calibration
from mopdsim.fit.forest import Point, Run, Score, Tree, spent, trees_of
from mopdsim.fit.latents import latents_of
from mopdsim.fit.posterior import fit
from mopdsim.fit.predict import observed
from mopdsim.quality.learning import BREAKING_COMPUTE, RATE_EXPONENT
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE

RATE, POWER, BY_SIZE = 4e-3, 3.0, 0.25
LARGER = 8.0
RATES = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3)
START, ASYMPTOTE, STEEPNESS = 0.3, 0.95, 1.7
USUAL = 1.5e-3


def _trees() -> tuple[Tree, ...]:
    """A run at every rate and size, at the usual rate at C_mid, farther at higher ones; less what breaks."""
    trees: list[Tree] = []
    for size in (1.0, LARGER):
        base = f"base{size:g}"
        runs, efforts = [], {}
        points = {base: (_point(BASE, START),)}
        for rate in RATES:
            recipe = catalogue.single_domain(["sort"])
            own = recipe.amounts["specialist"].model_copy(update={"learning_rate": rate})
            key = f"{size:g}/{rate:g}"
            changed = recipe.with_amounts({"specialist": own})
            runs.append(Run(name=key, recipe=changed, keys={BASE: base, "specialist": key}))
            efforts[key] = spent(BREAKING_COMPUTE, 1.0)
            lost = sum(
                sign * (one / (RATE * size**-BY_SIZE)) ** POWER for sign, one in ((1, rate), (-1, USUAL))
            )
            lost = max(lost, 0.0) * (rate / USUAL) ** (RATE_EXPONENT / 2)
            farther = (rate / USUAL) ** (RATE_EXPONENT * STEEPNESS)
            climbed = START + (ASYMPTOTE - START) * farther / (1 + farther)
            points[key] = (_point(key, float(logistic(logit(climbed) - lost))),)
        trees += trees_of(runs, efforts, points, {base: size})
    return tuple(trees)


def _point(stage: str, score: float) -> Point:
    return Point(stage=stage, effort=None, scores=(Score(domain="sort", passed=score * 100_000, n=100_000),))


def test_rate_power_and_size_of_breaking_are_found_again() -> None:
    own = default_calibration().unfitted()
    flat = ("batch_exponent", "size_exponent")  # so that runs at one rate get equally far
    given = {
        name: replace(own.parameters[name], prior=replace(own.parameters[name].prior, value=0.0, sd=1e-6))
        for name in flat
    }
    found = fit(latents_of(_trees(), replace(own, parameters={**own.parameters, **given})))
    value = {
        name: float(found.latents.entries[place].value(found.x_L[place]))
        for name, place in found.latents.index.items()
    }
    assert value["breaking_rate"] == pytest.approx(RATE, rel=0.1)
    assert value["breaking_power"] == pytest.approx(POWER, abs=0.4)
    assert value["breaking_size"] == pytest.approx(BY_SIZE, abs=0.05)


def test_bold_runs_have_an_error_scale_of_their_own() -> None:
    seen = observed(_trees())
    bold = {name: bool(is_bold) for name, is_bold in zip(seen.series, seen.bold_E, strict=True)}
    assert bold == {name: float(name.split("/")[2]) > 1.5 * USUAL for name in bold}
    assert np.any(seen.bold_E) and not np.all(seen.bold_E)


def test_a_student_of_measured_teachers_is_no_bold_run() -> None:
    plan = catalogue.mopd(["sort", "reverse"])
    teachers = [stage.name for stage in plan.stages if stage.name != plan.output]
    fast = {name: plan.amounts[name].model_copy(update={"learning_rate": 2 * USUAL}) for name in teachers}
    plan = plan.with_amounts(fast)
    assert plan.bold == {*teachers, plan.output}
    assert plan.bold_beyond(teachers) == set(teachers)
    assert plan.output in plan.bold_beyond(teachers[:1])
