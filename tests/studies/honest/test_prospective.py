"""Forecasts made before the runs: what they know, and how they are judged beside the rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated import simulated

from mopdsim.belief.calibration import GREEDY_ERROR, Calibration, default_calibration
from mopdsim.facts.domains import Estimate
from mopdsim.recipes.stage import BASE, Rl
from studies.framework.observe import Figure, Observations
from studies.framework.registry import study
from studies.framework.run import Run
from studies.honest import prospective
from studies.honest.trials import Forecaster, longest, trials

RUNS = study("order").runs(quick=True)
WORLD = str(next(iter(RUNS.values())).factors["world"])
ONE = {name: run for name, run in RUNS.items() if run.factors["world"] == WORLD}
START, SHORT, LONG = 0.2, 0.6, 0.7


def scores(run: Run, stage: str, domain: str) -> float:
    """A specialist of the merge, which was trained longest, reaches more than the others; mixed RL ends at .65."""
    if stage == BASE:
        return START
    own = run.recipe.stage[stage]
    if stage != run.recipe.output and isinstance(own, Rl):
        return (LONG if run.factors["recipe"] == "merge" else SHORT) if domain in own.domains else START
    return {"mixed_rl": 0.65, "mopd": 0.55}.get(str(run.factors["recipe"]), 0.5)


@pytest.fixture(scope="module")
def found() -> Observations:
    seen = simulated(ONE, scores, greedy=lambda run, stage, domain: scores(run, stage, domain) + 0.1)
    for name, run in ONE.items():  # the start is everybody's, and the merge's specialists cost most
        seen.manifest["runs"][name]["keys"][BASE] = "base"
        for stage in run.recipe.stage:
            flops = 2e9 if run.factors["recipe"] == "merge" else 1e9
            seen.manifest["stages"][f"{name}:{stage}"] = {"flops": flops, "wall_seconds": 1.0}
    first = f"{next(iter(ONE))}:{BASE}"
    points = seen.points.assign(key=seen.points.key.where(seen.points.key != first, "base"))
    return Observations(points=points, manifest={**seen.manifest, "study": "order"})


def named(recipe: str) -> str:
    return next(name for name, run in ONE.items() if run.factors["recipe"] == recipe)


def test_a_forecast_knows_the_run_s_own_specialists_and_a_rule_the_longest_trained(
    found: Observations,
) -> None:
    told = prospective.tell(found)
    assert told.keys() == ONE.keys()
    for figure, more in (("pass_rate", 0.0), ("greedy", 0.1)):
        mixed = next(iter(told[named("mixed_rl")][figure].values()))
        student = next(iter(told[named("mopd")][figure].values()))
        assert mixed["rules"]["start"] == pytest.approx(START + more)
        assert mixed["rules"]["own specialist"] == pytest.approx(LONG + more)
        assert student["rules"]["own specialist"] == pytest.approx(SHORT + more)
        assert student["rules"]["constant .70 recovery"] == pytest.approx(
            START + more + 0.7 * (SHORT - START)
        )
        assert 0 < student["low"] < student["median"] < student["high"] < 1
    assert prospective.tell(found) == told  # the same each time


def test_an_informed_forecast_knows_what_the_rules_know(found: Observations) -> None:
    """Mixed RL has no specialists of its own: of those on its base it is told the longest trained, as own expert is."""
    one = next(iter(longest(found, named("mixed_rl")).values()))
    assert (one.flops, max(one.scores.values())) == (2e9, LONG)
    before = Forecaster(studies={"order": found}, calibration=default_calibration())
    told = replace(before, informed=True, made={})
    blind, informed = (
        [t for t in trials(f, lambda study, row: row["factors"]["recipe"] == "mixed_rl") if t.in_set]
        for f in (before, told)
    )
    assert blind and all(a.median != b.median for a, b in zip(blind, informed, strict=True))


def test_greedy_scores_have_an_error_of_their_own(found: Observations) -> None:
    name, known = named("mixed_rl"), default_calibration()
    told = {"value": 2.0, "sd": 0.01, "grade": "fitted", "source": "planted"}
    row = replace(known.parameters[GREEDY_ERROR], studies={"tiny": Estimate(**told)})
    wide = replace(known, parameters={**known.parameters, GREEDY_ERROR: row})

    def width(calibration: Calibration, figure: Figure) -> float:
        drawn, _ = prospective.told_draws(found.seen(figure), name, calibration, figure)
        return float(np.ptp(np.quantile(next(iter(drawn.values())), [0.1, 0.9])))

    assert width(wide, "greedy") > 1.5 * width(known, "greedy")
    assert width(wide, "pass_rate") == width(known, "pass_rate")


def record(error: float, width: float) -> dict[str, Any]:
    """Forecasts that are wrong by so much, in intervals of that half width, beside rules; 'start' knows the truth of
    every recipe but the two best, which it exchanges."""
    exchanged = {"mixed_rl": "mopd", "mopd": "mixed_rl"}

    def row(run: Run, domain: str) -> dict[str, Any]:
        truth = scores(run, run.recipe.output, domain)
        name = str(run.factors["recipe"])
        other = ONE[named(exchanged.get(name, name))]
        rules = dict.fromkeys(prospective.RULES, 0.0) | {"start": scores(other, other.recipe.output, domain)}
        return {
            "low": truth + error - width,
            "median": truth + error,
            "high": truth + error + width,
            "rules": rules,
        }

    runs = {
        name: {"pass_rate": {domain: row(run, domain) for domain in run.recipe.domains}}
        for name, run in ONE.items()
    }
    return {"model": "a" * 64, "conditions": {"order": {"runs": runs}}}


def test_errors_intervals_and_losses_are_those_that_were_put_in(
    found: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospective, "FIGURES", {"pass_rate": "temperature 1"})
    made = prospective.judged(found, record(error=0.05, width=0.06))
    errors, _signs, losses = (table.frame for table in made.tables)
    by_name = errors.set_index("forecast")
    assert by_name.error["model"] == pytest.approx(5.0) and by_name.bias["model"] == pytest.approx(5.0)
    assert by_name.error["start"] == pytest.approx(10.0 * 2 / 6)  # two of six recipes
    assert by_name.error["own specialist"] > 50
    (sentence,) = made.findings
    assert "The simple rule 'start' wins" in sentence and "100% (95% interval" in sentence
    lost = losses.set_index("choice")["lost points"]
    assert lost["model"] == 0 and lost[prospective.MIXED_BUT_BOLD] == 0
    assert lost["always MOPD"] == pytest.approx(10.0) and lost["always merging"] == pytest.approx(15.0)
    narrow = prospective.judged(found, record(error=0.05, width=0.04))
    assert " 0% (95% interval" in narrow.findings[0]


def test_nobody_wins_where_conditions_disagree(found: Observations, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule 'start' is wrong in one condition by more than the model, and right in the other."""
    monkeypatch.setattr(prospective, "FIGURES", {"pass_rate": "temperature 1"})
    rows = {name: dict(row) for name, row in found.manifest["runs"].items()}
    for name, row in rows.items():
        apart = {"contest": "apart"} if ONE[name].factors["recipe"] in ("mixed_rl", "mopd") else {}
        rows[name]["factors"] = row["factors"] | apart
    split = replace(found, manifest={**found.manifest, "runs": rows})
    (sentence,) = prospective.judged(split, record(error=0.05, width=0.06)).findings
    assert "in 2 conditions" in sentence and "Neither wins: the interval holds 0." in sentence


def test_a_failed_distillation_is_left_out_of_the_judgement(
    found: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospective, "FIGURES", {"pass_rate": "temperature 1"})
    monkeypatch.setattr(prospective, "failed", lambda found: [named("mopd")])
    made = prospective.judged(found, record(error=0.0, width=0.01))
    assert "of 5 runs" in made.findings[0] and "by model aaaaaaaa" in made.findings[0]
    counted = prospective.judged(found, record(error=0.0, width=0.01), failures_count=True)
    assert "of 6 runs" in counted.findings[0]


def test_signs_are_asked_of_differences_beyond_two_standard_errors_over_seeds() -> None:
    seeds = range(3)
    rows = [
        {
            "condition": "c",
            "seed": seed,
            "recipe": recipe,
            "truth": truth + 0.001 * seed,
            "error": 0.06,
            "model": model,
            **rules,
        }
        for seed in seeds
        for recipe, truth, model in (("a", 0.5, 0.6), ("b", 0.7, 0.5), ("c", 0.6, 0.7))
        for rules in [dict.fromkeys(prospective.RULES, 0.3)]
    ]
    # between a and c the seeds differ by more than the recipes do
    rows = [row | {"truth": 0.5 + 0.1 * (row["seed"] == 1)} if row["recipe"] == "c" else row for row in rows]
    signs = prospective._signs(pd.DataFrame(rows)).set_index("forecast")
    assert signs.pairs["model"] == 2  # a less b, b less c
    assert signs.right["model"] == 0 and signs.right["start"] == 0  # no difference is no sign
    # one seed's differences are held against the error over prompts: .085 of the difference of two
    alone = prospective._signs(pd.DataFrame([row for row in rows if row["seed"] == 0]))
    assert alone.pairs[0] == 2 and alone.right[0] == 0
    wide = [row | {"error": 0.08} for row in rows if row["seed"] == 0]
    assert prospective._signs(pd.DataFrame(wide)).pairs[0] == 0


def test_the_rule_of_the_bold_rate_takes_mopd_from_there_on() -> None:
    rule = prospective.CHOICES[prospective.MIXED_BUT_BOLD]
    assert prospective.MIXED_BUT_BOLD == "mixed RL, but MOPD at rate 4e-3 and above"
    assert (rule(3.9e-3), rule(4e-3)) == ("mixed_rl", "mopd")


def test_the_foreteller_names_the_model_that_ships_and_all_rules() -> None:
    made = prospective.foreteller()
    assert len(made.model) == 64 and set(made.rules) == {*prospective.RULES, *prospective.CHOICES}
