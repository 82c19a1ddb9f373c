"""`choice`, `choice_again`, `size`: every recipe under every condition at equal FLOPs, all held out; rules' losses."""

from __future__ import annotations

import pytest
from simulated import noise, runs_of, simulated

from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.model import model
from mopdsim.recipes.recipe import BASE
from studies.designs.recipes import choice, comparison
from studies.designs.size import size
from studies.framework.registry import NAMES, study
from studies.framework.run import Run
from studies.honest.trials import Forecaster, contests
from trainer.tasks import task

STUDIES_OF_SIZE = {found.name: found for found in size.STUDIES}
SETUPS = {setup.study: setup for setup in (choice.SETUP, choice.AGAIN, *size.SETUPS)}


@pytest.mark.parametrize("name", SETUPS)
def test_every_recipe_spends_alike_under_every_condition(name: str) -> None:
    setup, runs = SETUPS[name], runs_of(name).values()
    conditions: dict[tuple[object, int], list[Run]] = {}
    for run in runs:
        conditions.setdefault((run.factors["contest"], run.settings.seed), []).append(run)
    assert len(conditions) == len(setup.conditions) * len(setup.seeds)
    assert len(setup.conditions) >= (4 if name.startswith("size") else 10)
    for own in conditions.values():
        assert {run.factors["recipe"] for run in own} == set(comparison.RECIPES)
        for run in own:
            spent = sum(amounts.max_flops or 0.0 for amounts in run.recipe.amounts.values())
            assert spent == pytest.approx(float(run.factors["gflops"]) * 1e9 * len(run.recipe.domains))
        assert len({(run.start, run.settings.model_dump_json(), run.recipe.domains) for run in own}) == 1


def test_its_conditions_are_of_no_other_study() -> None:
    """Other seeds, so other bases; one domain and one world with conflict at a dial that no other study trains."""
    elsewhere = [run for name in NAMES if name != "choice" for run in runs_of(name).values()]
    assert not {run.settings.seed for run in elsewhere} & set(choice.SEEDS)
    trained = {domain for run in elsewhere for domain in run.recipe.domains}
    assert not set(choice.WORLDS["fourth"]) <= trained
    assert not set(choice.WORLDS["competing"][:2]) & trained
    assert all(task(domain) for world in choice.WORLDS.values() for domain in world)


def test_the_second_time_nothing_was_seen_before() -> None:
    """Other bases than of any other study, other rates than of any choice, a dial of conflict that no study has."""
    elsewhere = [run for name in NAMES if name != "choice_again" for run in runs_of(name).values()]
    again = choice.AGAIN
    assert not {run.settings.seed for run in elsewhere} & set(again.seeds)
    trained = {domain for run in elsewhere for domain in run.recipe.domains}
    assert not set(again.worlds["competing"][:2]) & trained
    shared = {rates for rates in again.paces.values() if rates in choice.PACES.values()}
    assert shared == {choice.PACES["fast"]}  # at other budgets
    assert not {c.name for c in again.conditions} & {c.name for c in choice.CONDITIONS}
    assert {c.world for c in again.conditions} == set(again.worlds)
    assert {c.pace for c in again.conditions} == set(again.paces)
    assert all(task(domain) for world in again.worlds.values() for domain in world)


@pytest.mark.parametrize("setup", size.SETUPS, ids=lambda setup: setup.study)
def test_a_larger_model_is_trained_as_much_for_each_parameter_on_bases_of_its_own(
    setup: comparison.Setup,
) -> None:
    others = [name for name in NAMES if name != setup.study and study(name).suite == "sharpening"]
    elsewhere = [run for name in others for run in runs_of(name).values()]
    assert not {run.settings.seed for run in elsewhere} & set(setup.seeds)
    ratio = model(setup.model).active_parameters / model("tiny").active_parameters
    assert ratio > 3
    alike = {c.gflops for smaller in (choice.SETUP, choice.AGAIN) for c in smaller.conditions}
    assert all(any(c.gflops / ratio == pytest.approx(g, rel=0.05) for g in alike) for c in setup.conditions)


def score(run: Run, stage: str, domain: str) -> float:
    """Mixed RL leads by .2 below the fast pace and is last by .1 at it, where MOPD leads merging by .05."""
    if stage == BASE:
        return 0.4
    fast = run.factors["pace"] in choice.BOLD
    gains = (
        {"mopd": 0.25, "merge": 0.2, "mixed_rl": 0.1}
        if fast
        else {"mopd": 0.1, "merge": 0.1, "mixed_rl": 0.3}
    )
    return 0.4 + gains[str(run.factors["recipe"])] + noise(run, domain)  # fmt: skip


def test_winners_and_losses_of_constant_rules_are_recovered() -> None:
    found = choice.STUDY.analyse(simulated(runs_of("choice"), score))
    measured = found.quantities
    fast = sum(condition.pace == "fast" for condition in choice.CONDITIONS) / len(choice.CONDITIONS)
    assert measured["loss_of_always_mixed_rl"].value == pytest.approx(0.15 * fast, abs=0.01)
    assert measured["loss_of_always_mopd"].value == pytest.approx(0.2 * (1 - fast), abs=0.01)
    assert measured["mixed_best_below_fast"].value == 1 and measured["mixed_best_fast"].value == 0
    assert measured["mopd_minus_mixed_fast_long"].value == pytest.approx(0.15, abs=0.01)
    assert measured["conditions_that_spread"].value == len(choice.CONDITIONS)
    winners = found.tables[0].frame.set_index("condition")
    assert winners.loc[choice.FAST_LONG.name, "best"] == "mopd"
    assert winners.loc[choice.EARLY.name, "best"] == "mixed_rl"


def test_the_second_comparison_speaks_of_its_own_paces() -> None:
    measured = choice.STUDY_AGAIN.analyse(simulated(runs_of("choice_again"), score)).quantities
    fast = [condition.pace in choice.BOLD for condition in choice.AGAIN.conditions]
    assert measured["mixed_best_slow"].value == 1 and measured["mixed_best_fast"].value == 0
    assert measured["mopd_minus_mixed_rash"].value == pytest.approx(0.15, abs=0.01)
    assert measured["mixed_minus_mopd_between_long"].value == pytest.approx(0.2, abs=0.01)
    share = sum(fast) / len(fast)
    assert measured["loss_of_always_mixed_rl"].value == pytest.approx(0.15 * share, abs=0.01)


@pytest.mark.parametrize("name", STUDIES_OF_SIZE)
def test_the_larger_models_gains_are_told_by_recipe(name: str) -> None:
    measured = STUDIES_OF_SIZE[name].analyse(simulated(runs_of(name), score)).quantities
    assert measured["gain_of_long_mixed_rl"].value == pytest.approx(0.3, abs=0.01)
    assert measured["gain_of_long_mopd"].value == pytest.approx(0.1, abs=0.01)
    assert measured["mixed_minus_mopd_quick"].value == pytest.approx(0.2, abs=0.01)
    assert measured["mixed_best_easy"].value == 1


def test_the_forecast_has_a_choice_under_every_condition() -> None:
    runs = {n: run for n, run in runs_of("choice").items() if run.factors["gflops"] == choice.EARLY.gflops}
    found = simulated(runs, score)
    (contest,) = contests(Forecaster(studies={"choice": found}, calibration=default_calibration()))
    assert contest.held_out and contest.seeds == choice.SEEDS
    assert set(contest.predicted) == set(contest.measured) == set(comparison.RECIPES)
    assert max(contest.measured, key=contest.measured.__getitem__) == "mixed_rl"


def test_the_forecast_is_of_the_runs_own_model() -> None:
    """FLOPs that take a small model far take a larger one less far."""
    contest = f"size/{size.SETUPS[0].conditions[1].name}"
    runs = {
        name: run for name, run in runs_of("size").items()
        if run.factors["contest"] == contest and run.settings.seed == size.SETUPS[0].seeds[0]
    }  # fmt: skip
    found = simulated(runs, score)
    (own,) = contests(Forecaster(studies={"size": found}, calibration=default_calibration()))
    for row in found.manifest["runs"].values():
        row["model"] = "tiny"
    (smaller,) = contests(Forecaster(studies={"size": found}, calibration=default_calibration()))
    assert all(own.predicted[recipe] < smaller.predicted[recipe] - 0.02 for recipe in ("mixed_rl", "mopd"))


def test_a_condition_that_lacks_a_recipe_counts_nowhere() -> None:
    runs = runs_of("choice")
    lacking = {name: run for name, run in runs.items() if run.factors["recipe"] != "merge"}
    assert not choice.STUDY.analyse(simulated(lacking, score)).quantities
    some = {name: run for name, run in runs.items() if name in lacking or run.factors["pace"] != "fast"}
    measured = choice.STUDY.analyse(simulated(some, score)).quantities
    assert "mixed_best_fast" not in measured and measured["mixed_best_below_fast"].value == 1
