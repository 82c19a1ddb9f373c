"""Candidates evaluated side by side are the forecasts of their scenarios."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario, of_recipe
from mopdsim.plan.search.tables import Table, tabulate

NAMES = ["math", "code", "swe", "if", "search", "tool_use", "chat", "knowledge"]
OPTIONS = (16, 32, 64)


def _scenario(name: str, **settings: Any) -> Scenario:
    return of_recipe(name, **{"domains": NAMES, "gpus": 64, "draws": 1, **settings})


def _candidates(table: Table, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, len(table.names))
    return rng.integers(2, 600, shape), rng.integers(0, len(table.options), shape)


def _as_scenario(table: Table, steps_J: np.ndarray, option_J: np.ndarray) -> Scenario:
    """The scenario that a candidate stands for."""
    scenario = table.scenario
    amounts = scenario.recipe.amounts
    chosen = {
        name: amounts[name].model_copy(update={"steps": int(steps)})
        for name, steps in zip(table.names, steps_J, strict=True)
        if name in amounts
    }
    gpus_of = {
        name: table.options[option]
        for name, option in zip(table.names, option_J, strict=True)
        if name in amounts
    }
    return replace(scenario, recipe=scenario.recipe.with_amounts(chosen), gpus_of=gpus_of)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mopd", {"options": {"warmup": True}}),
        ("mopd", {"options": {"rounds": 2, "reward_mix": 1.0}, "draws": 5}),
        ("mopd", {"teams": 2, "reliability": {"sweep_runs": 4, "rerun_probability": 0.3}}),
        ("mopd", {"priority": {"teacher_5": 2.0, "teacher_2": 1.0}}),
        ("cascade_rl", {"options": {"replay": 0.1}}),
        ("off_policy", {}),
        ("merge", {}),
        ("instructgpt", {}),
        ("llama3", {"options": {"rounds": 2}, "draws": 3}),
        ("deepseek_r1", {"options": {"smaller": True}, "smaller": "Qwen3-1.7B", "draws": 3}),
        ("mixed_rl", {"overlap": "one_step_off", "model": "Qwen3-8B"}),
    ],
)
def test_random_candidates_equal_their_forecasts(name: str, settings: dict[str, Any]) -> None:
    table = tabulate(_scenario(name, **settings), OPTIONS)
    steps_CJ, option_CJ = _candidates(table, 8, seed=len(name))
    found = table.evaluate(steps_CJ, option_CJ)
    for place in range(len(steps_CJ)):
        alone = forecast(_as_scenario(table, steps_CJ[place], option_CJ[place]))
        assert found.scores_DCN[:, place] == pytest.approx(alone.scores_DN, rel=1e-9)
        assert found.gpu_hours_CN[place] == pytest.approx(alone.gpu_hours_N, rel=1e-9)
        assert found.usd_CN[place] == pytest.approx(alone.usd_N, rel=1e-9)
        assert found.days_CN[place] == pytest.approx(alone.days_N, rel=1e-9)
    assert found.fits_C.all()


def test_the_recipes_own_steps_on_the_whole_pool_are_its_forecast() -> None:
    scenario = _scenario("mopd", draws=50)
    table = tabulate(scenario)
    found = table.evaluate(table.steps_J[None], np.zeros((1, len(table.names)), dtype=int))
    assert found.days_CN[0] == pytest.approx(forecast(scenario).days_N, rel=1e-9)


def test_a_candidate_that_does_not_fit_is_marked_and_leaves_the_others_alone() -> None:
    table = tabulate(_scenario("mopd"), (8, 64))
    steps_CJ = np.repeat(table.steps_J[None], 2, axis=0)
    option_CJ = np.ones_like(steps_CJ)
    option_CJ[0] = 0  # a 30B model with answers of 128K tokens does not train on 8 GPUs
    found = table.evaluate(steps_CJ, option_CJ)
    assert found.fits_C.tolist() == [False, True]
    assert np.isinf(found.gpu_hours_CN[0]).all() and np.isfinite(found.days_CN[1]).all()


def test_questions_that_the_search_does_not_know_are_refused() -> None:
    with pytest.raises(UsageError, match="2 pools"):
        tabulate(_scenario("mopd", gpus=None, pools={"a": 64, "b": 64}))
    with pytest.raises(UsageError, match=r"student\.steps is a range"):
        tabulate(_scenario("mopd", ranges={"student.steps": [100, 400]}))
    with pytest.raises(UsageError, match="overhead is a range"):
        tabulate(_scenario("mopd", overhead=[1.0, 2.0]))
    with pytest.raises(UsageError, match="from 1 to the pool's 64"):
        tabulate(_scenario("mopd"), (128,))
    with pytest.raises(InfeasibleError, match="does not fit"):
        tabulate(_scenario("mopd", model="DeepSeek-V3"), (8,))
    table = tabulate(_scenario("mixed_rl"))
    with pytest.raises(UsageError, match="candidates of shape"):
        table.evaluate(np.ones((3, 2), dtype=int), np.zeros((3, 2), dtype=int))
