"""GPUs that pay: what a stage takes without an order, what the whole pool costs, and what is said of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario, of_recipe
from mopdsim.forecast.stage_draws import WORTH_DOUBLING, gain_of_doubling, with_gpus
from mopdsim.recipes.stage import Merge


def _scenario(name: str = "mopd", **settings: Any) -> Scenario:
    given = {"domains": ["math", "code"], "gpus": 256, "draws": 100, "options": {"amounts": "small"}}
    return of_recipe(name, **{**given, **settings})


def test_every_stage_takes_the_fewest_gpus_that_doublings_are_worth() -> None:
    found = with_gpus(_scenario())
    for stage in found.recipe.stages:
        if isinstance(stage, Merge):
            continue
        gpus = found.stage_gpus(stage.name)
        assert gain_of_doubling(found, stage, gpus) >= WORTH_DOUBLING
        assert 2 * gpus > 256 or gain_of_doubling(found, stage, 2 * gpus) < WORTH_DOUBLING
    assert with_gpus(found) == found


def test_orders_one_stage_and_a_cpu_are_left_alone() -> None:
    for given in (_scenario(gpus_per_stage=256), _scenario("single_domain", domains=["math"])):
        assert {given.stage_gpus(name) for name in with_gpus(given).recipe.amounts} == {256}
    student = with_gpus(_scenario(gpus_of={"student": 128}))
    assert student.stage_gpus("student") == 128 and student.stage_gpus("teacher_1") < 128
    tiny = of_recipe("mopd", domains=["sort", "reverse"])
    assert with_gpus(tiny) == tiny


def test_the_pool_has_a_price_of_its_own_and_idle_gpus_are_warned_of() -> None:
    found = forecast(_scenario())
    document = found.to_document()
    hours = found.timeline.makespan_N / 3600 * 256
    assert document["reserved"]["gpu_hours"]["p50"] == pytest.approx(float(np.median(hours)))
    assert document["reserved"]["usd"]["p50"] > 2 * document["usd"]["p50"]
    assert any("no stage's" in warning for warning in found.warnings)
    assert any("beyond these you mostly pay more" in warning for warning in found.warnings)
    alone = forecast(_scenario("single_domain", domains=["math"], gpus=8))
    assert np.allclose(alone.idle_share_N, 0.0, atol=1e-9)
    assert not any("no stage's" in warning for warning in alone.warnings)


def test_more_lag_teaches_less() -> None:
    """Samples that are up to nine updates old are worth less than those that are two."""
    near, far = (forecast(_scenario("mixed_rl", overlap="asynchronous", lag=lag)) for lag in (1, 8))
    assert far.mean_score["p50"] < near.mean_score["p50"]
    waiting = replace(near.scenario, overlap="synchronous", lag=1)
    assert forecast(waiting).mean_score["p50"] >= near.mean_score["p50"]


def test_idle_tails_filled_by_other_stages_cost_fewer_gpu_hours_and_no_days() -> None:
    """Four teachers on a pool that holds two of them: sharing halves nothing but the waiting."""
    names = ["math", "code", "knowledge", "puzzle"]
    alone, shared = (
        forecast(_scenario(domains=names, gpus=64, gpus_per_stage=32, fill_idle=fill))
        for fill in (False, True)
    )
    assert 0.5 * alone.gpu_hours_N.sum() <= shared.gpu_hours_N.sum() < 0.95 * alone.gpu_hours_N.sum()
    assert np.median(shared.days_N) < np.median(alone.days_N)
    for job in shared.timeline.jobs:
        assert 16 <= job.gpus <= 32 or job.name == "student"
    waiting_for_none = _scenario(overlap="asynchronous", gpus_per_stage=32, fill_idle=True)
    assert {job.gpus for job in forecast(waiting_for_none).timeline.jobs} == {32}
