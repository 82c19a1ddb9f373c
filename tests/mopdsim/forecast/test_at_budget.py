"""One budget for all recipes: met to one per cent or the floor is named; the table that `mopd compare --all` prints."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import usd
from mopdsim.cli.compare_command import all_text
from mopdsim.forecast.at_budget import at_budget, at_dollars, bought, training_flops
from mopdsim.forecast.compare import DOMAINS, RECIPES, cap, compare_all
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario, of_recipe
from mopdsim.recipes.stage import Distill


def tiny(name: str) -> Scenario:
    return of_recipe(name, domains=list(DOMAINS), draws=20)


def spent(scenario: Scenario) -> dict[str, float]:
    """Training FLOPs of every stage with amounts."""
    bills = forecast(scenario).bills
    return {name: bills[name].training_run_flops for name in scenario.recipe.amounts}


@pytest.mark.parametrize("budget", [3e10, 1e12, 4e13])
@pytest.mark.parametrize("name", RECIPES)
def test_a_budget_is_met_or_the_floor_is_said(name: str, budget: float) -> None:
    scaled = at_budget(tiny(name), budget)
    step = max(
        flops / scaled.scenario.recipe.amounts[stage].steps for stage, flops in spent(scaled.scenario).items()
    )
    assert scaled.met or (scaled.spent > budget and scaled.floored) or abs(scaled.spent - budget) <= step / 2
    assert bool(scaled.reason) != scaled.met
    assert training_flops(scaled.scenario) == pytest.approx(scaled.spent, rel=1e-9)
    for stage, before in tiny(name).recipe.amounts.items():
        after = scaled.scenario.recipe.amounts[stage]
        assert 0 <= after.steps - before.scaled(scaled.factor).steps <= 1
        assert after.model_copy(update={"steps": before.steps}) == before


def test_its_own_flops_leave_a_scenario_as_it_is() -> None:
    scenario = tiny("mopd")
    scaled = at_budget(scenario, training_flops(scenario))
    assert scaled.scenario.recipe == scenario.recipe and not scaled.floored


def test_a_ceiling_of_flops_is_scaled_too() -> None:
    scenario = tiny("mixed_rl")
    limited = scenario.recipe.amounts["mixed"].model_copy(update={"max_flops": 1e11})
    capped = of_recipe("mixed_rl", domains=list(DOMAINS), draws=20)
    object.__setattr__(capped, "recipe", capped.recipe.with_amounts({"mixed": limited}))
    assert training_flops(capped) == pytest.approx(1e11, rel=0.1)
    scaled = at_budget(capped, 5e11)
    assert scaled.met and training_flops(scaled.scenario) == pytest.approx(5e11, rel=0.01)


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match="budget_flops"):
        at_budget(tiny("mopd"), budget)


def test_the_cap_is_the_mean_over_domains_of_the_best_own_teacher() -> None:
    """Of numbers, as a run has them, and of draws."""
    recipe = tiny("mopd").recipe
    student = recipe.stage[recipe.output]
    assert isinstance(student, Distill)
    names = dict(zip(student.domains, student.teacher_names, strict=True))
    best = {domain: place / 10 for place, domain in enumerate(names)}

    def score(stage: str, domain: str) -> float:
        return best[domain] if stage == names[domain] else 1.0  # of another's teacher

    assert cap(recipe, score) == pytest.approx(sum(best.values()) / len(best))
    draws = cap(recipe, lambda stage, domain: np.array([score(stage, domain), 0.5]))
    assert draws == pytest.approx([sum(best.values()) / len(best), 0.5])
    assert cap(tiny("mixed_rl").recipe, score) is None


def test_the_table_of_all() -> None:
    document = compare_all(draws=100)
    rows = {row["recipe"]: row for row in document["rows"]}
    assert tuple(rows) == RECIPES
    assert rows["mopd"]["factor"] == pytest.approx(1.0, rel=0.01)
    for row in rows.values():
        assert not row["off_budget"]
        assert row["worst"]["p50"] <= row["mean"]["p50"] <= 1
        assert all(0 <= value <= 1 for value in row["risk"].values())
    assert rows["mopd"]["teachers"] == 6 and rows["mopd"]["cap"]["p50"] > rows["mopd"]["mean"]["p50"] - 0.05
    assert rows["mixed_rl"]["cap"] is None and rows["mixed_rl"]["teachers"] == 0
    text = all_text(document)
    assert all(name in text for name in RECIPES) and "*" not in text


def test_a_budget_below_the_floor_is_marked() -> None:
    document = compare_all(draws=20, budget_flops=1e9)
    assert any(row["off_budget"] for row in document["rows"])
    assert "cannot be cut further" in all_text(document)


def test_at_equal_dollars_the_forecast_costs_them() -> None:
    scenario = of_recipe("mopd", domains=["math", "code"], gpus=64, draws=50)
    scaled = at_dollars(scenario, 20_000.0)
    assert scaled.met and float(np.median(forecast(scaled.scenario).usd_N)) == pytest.approx(scaled.spent)
    with pytest.raises(UsageError, match="budget_usd"):
        at_dollars(scenario, 0.0)


def test_a_budget_too_small_says_what_it_buys() -> None:
    scenario = of_recipe("mopd", domains=["math", "code"], gpus=64, draws=50)
    whole = float(np.median(forecast(scenario).usd_N))
    half = bought(scenario, whole / 2)
    assert (
        40 < float(half.split(" buys ")[1].split("%")[0]) < 50
    )  # evaluation costs the same however few the steps
    least = at_dollars(scenario, 1.0).spent
    assert bought(scenario, 1.0) == f"$1 buys nothing of it: at its fewest steps it costs {usd(least)}"
