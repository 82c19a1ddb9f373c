"""The study `interference`: matched updates under three kinds of conflict, and K found as it was put in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from simulated import diagnosed, noise, runs_of, simulated

from mopdsim.recipes.recipe import BASE, SMALLER
from studies.designs.effects import interference
from studies.framework.run import Run
from trainer.tasks import HETEROGENEOUS, task


@pytest.mark.slow
def test_interference_is_recovered() -> None:
    """K as it was put in: 0 at dial 0, -1 at dial 1, in both directions, whatever the gain alone and the size."""
    k = {"dial0": 0.0, "dial0.25": -0.2, "dial0.5": -0.4, "dial0.75": -0.7, "dial1": -1.0, "synergy": 0.1}
    k |= {"unlike0.5": 0.05, "unlike1": 0.1, "wide": 0.02, "narrow": -0.08}

    def score(run: Run, stage: str, domain: str) -> float:
        start = 0.4 + 0.01 * run.settings.seed - 0.1 * (SMALLER in run.recipe.roots)
        if stage == BASE:
            return 0.4 + 0.01 * run.settings.seed
        if stage == SMALLER or domain not in run.recipe.stage[stage].domains:  # type: ignore[union-attr]
            return start
        together = len(run.recipe.stage[stage].domains) > 1  # type: ignore[union-attr]
        return start + 0.2 * math.exp(k[str(run.factors["world"])] if together else 0.0) + noise(run, domain)

    def early(run: Run) -> list[dict[str, Any]]:
        return diagnosed(run, -k[str(run.factors["world"])])

    analysis = interference.analyse(simulated(runs_of("interference"), score, diagnose=early))
    found = analysis.quantities
    assert found["K_dial_1"].value == pytest.approx(-1.0, abs=0.03)
    assert found["K_dial_0"].value == pytest.approx(0.0, abs=0.03)
    assert found["K_synergy"].low <= 0.1 + 0.02 and found["K_synergy"].high >= 0.1 - 0.02
    assert found["unlike_minus_alike"].value == pytest.approx(0.1, abs=0.03)
    assert found["K_beside_unlike"].value == pytest.approx(0.1, abs=0.03)
    assert found["K_narrow"].value == pytest.approx(-0.08, abs=0.03)
    assert found["narrow_minus_wide"].value == pytest.approx(-0.1, abs=0.03)
    assert found["unseen_dial_error"].value == pytest.approx(0.0, abs=0.03)
    assert found["triple_minus_pairs"].value == pytest.approx(0.0, abs=0.03)
    assert found["cosine_rank_correlation"].value > 0.8 and found["update_rank_correlation"].value > 0.8
    dials = next(chart.frame for chart in analysis.charts if chart.name == "dial")
    assert sorted(dials[dials.kind == "heterogeneity"].dial) == [0.0, *interference.UNLIKE_DIALS]


def test_interference_matches_updates_and_prompts_of_a_domain() -> None:
    """Alone and together: the same steps, prompts of each domain, start and size of the model."""
    groups: dict[tuple[object, int], list[Run]] = {}
    for run in runs_of("interference").values():
        groups.setdefault((run.factors["world"], run.settings.seed), []).append(run)
    for (world, _), own in groups.items():
        spent = set()
        for run in own:
            (stage,) = run.recipe.stages
            amounts = run.recipe.amounts[stage.name]
            spent.add((amounts.steps, amounts.learning_rate, amounts.prompts_per_step / len(stage.domains)))  # type: ignore[union-attr]
            assert run.recipe.root_of(stage.name) == stage.init == (SMALLER if world == "narrow" else BASE)
        assert len(spent) == 1 and len({run.recipe.domains for run in own}) == 1


def test_the_unlike_domain_ends_as_the_hard_one_of_the_suite() -> None:
    ours, hard = task(interference.unlike("sort", 1.0)), task(HETEROGENEOUS[1])
    dials = ("corruption", "reward_scale", "reward_noise")
    assert [getattr(ours, dial) for dial in dials] == pytest.approx([getattr(hard, dial) for dial in dials])
    plain, alike = task("sort"), task(interference.unlike("sort", 0.0))
    assert [getattr(plain, dial) for dial in dials] == [getattr(alike, dial) for dial in dials]


def test_the_start_of_the_smaller_model_is_no_training_of_the_run() -> None:
    runs = {name: run for name, run in runs_of("interference").items() if name == "narrow/sort/seed0"}
    found = simulated(runs, lambda run, stage, domain: 0.5)
    assert set(found.finished["narrow/sort/seed0"]["keys"]) == {BASE, SMALLER, "specialist"}
    assert found.flops("narrow/sort/seed0") == 1e9
