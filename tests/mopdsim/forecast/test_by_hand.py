"""Seconds, money and calendar of a forecast against a reference that does one draw at a time in plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import pytest

from mopdsim.belief.calibration import default_calibration, standard_normal, uniform
from mopdsim.forecast.forecast import DAY, HOUR, forecast
from mopdsim.forecast.scenario import Scenario, of_recipe
from mopdsim.forecast.stage_draws import PROJECT_LOG_SD, bill_of, world_of
from mopdsim.recipes.stage import needs

NAMES = ["math", "code", "swe", "if", "search", "tool_use"]
DRAWS = 4


def _scenario(name: str, **settings: Any) -> Scenario:
    return of_recipe(name, **{"domains": NAMES, "gpus": 64, "draws": DRAWS, **settings})


def _seconds(scenario: Scenario, name: str, draw: int) -> float:
    """A stage's seconds in one draw."""
    found = bill_of(scenario, scenario.recipe.stage[name], gpus=scenario.stage_gpus(name))
    world, sure = world_of(scenario, default_calibration()), scenario.reliability
    lengths = {domain: float(world.length_DN[place, draw]) for domain, place in world.index.items()}
    mean = sum(share * lengths[domain] for domain, share in found.shares.items()) if found.shares else 1.0
    total = sum(found.seconds.values())
    power = math.log(found.longer_seconds / total) / math.log(2)
    noise = float(standard_normal("time_model", scenario.seed, DRAWS)[draw])
    work = total * (mean / found.mean_length) ** power * math.exp(found.log_sd * noise)
    work *= math.exp(PROJECT_LOG_SD * abs(float(standard_normal("overhead", scenario.seed, DRAWS)[draw])))
    luck = 1 - float(uniform(f"rerun:{name}", scenario.seed, DRAWS)[draw])
    reruns = math.floor(math.log(luck) / math.log(sure.rerun_probability))
    work *= 1 + sure.sweep_runs * sure.sweep_fraction + reruns
    expected = work / HOUR * found.gpus * sure.failures_per_gpu_hour
    waits = -np.log1p(-uniform(f"failures:{name}", scenario.seed, 32 * DRAWS)[32 * draw : 32 * draw + 32])
    clock, failures = 0.0, 0
    for wait in waits:
        clock += float(wait)
        failures += clock < expected
    return work + failures * sure.seconds_per_failure


def _order(scenario: Scenario, seconds: Mapping[str, list[float]]) -> list[str]:
    """Stages as they are placed: of those whose parents are placed, the most urgent, then the longest way to go."""
    recipe = scenario.recipe
    before = {stage.name: needs(stage) for stage in recipe.stages}

    def way(name: str) -> float:
        children = [child for child, parents in before.items() if name in parents]
        return median(seconds[name]) + max(map(way, children), default=0.0)

    ordered: list[str] = []
    while len(ordered) < len(before):
        ready = [n for n in before if n not in ordered and all(parent in ordered for parent in before[n])]
        ordered.append(max(ready, key=lambda name: (scenario.priority.get(name, 0.0), way(name))))
    return ordered


def _days(scenario: Scenario, seconds: Mapping[str, list[float]], draw: int) -> float:
    """Every GPU and every team by when it is free again."""
    gpus = [0.0] * sum(scenario.pools.values())
    teams = [0.0] * (scenario.teams or len(seconds))
    ends: dict[str, float] = {}
    for name in _order(scenario, seconds):
        stage = scenario.recipe.stage[name]
        many = bill_of(scenario, stage, gpus=scenario.stage_gpus(name)).gpus
        gpus.sort()
        teams.sort()
        parents = [ends[parent] for parent in needs(scenario.recipe.stage[name])]
        ends[name] = max([0.0, *parents, gpus[many - 1], teams[0]]) + seconds[name][draw]
        gpus[:many] = [ends[name]] * many
        teams[0] = ends[name]
    return max(ends.values()) / DAY


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mopd", {"options": {"warmup": True}, "gpus_per_stage": 16}),
        ("mopd", {"options": {"rounds": 2, "reward_mix": 1.0}, "gpus_per_stage": 32, "teams": 2}),
        (
            "mopd",
            {"teams": 2, "reliability": {"sweep_runs": 4, "rerun_probability": 0.3}, "gpus_per_stage": 16},
        ),
        ("mopd", {"priority": {"teacher_5": 2.0, "teacher_2": 1.0}, "gpus_per_stage": 32}),
        ("cascade_rl", {"options": {"replay": 0.1}}),
        (
            "off_policy",
            {"gpus_of": {"teacher_1": 16, "teacher_2": 48, "teacher_3": 32}, "gpus_per_stage": 24},
        ),
        ("merge", {"gpus_per_stage": 24}),
        ("instructgpt", {"gpus_per_stage": 32}),
        ("llama3", {"options": {"rounds": 2}}),
        ("mixed_rl", {"overlap": "one_step_off", "model": "Qwen3-8B"}),
    ],
)
def test_a_forecast_is_what_one_draw_at_a_time_comes_to(name: str, settings: dict[str, Any]) -> None:
    made = forecast(_scenario(name, **settings))
    scenario = made.scenario  # with a number of GPUs for every stage
    seconds = {stage: [_seconds(scenario, stage, n) for n in range(DRAWS)] for stage in scenario.recipe.stage}
    for job in made.timeline.jobs:
        assert job.seconds_N == pytest.approx(seconds[job.name], rel=1e-9)
    hours = [
        sum(row[n] * made.bills[stage].gpus for stage, row in seconds.items()) / HOUR for n in range(DRAWS)
    ]
    assert made.gpu_hours_N == pytest.approx(hours, rel=1e-9)
    assert made.usd_N == pytest.approx(np.array(hours) * made.usd_per_gpu_hour, rel=1e-9)
    assert made.days_N == pytest.approx([_days(scenario, seconds, n) for n in range(DRAWS)], rel=1e-9)
