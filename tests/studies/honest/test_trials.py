"""What a forecast of a study's run takes for granted of it."""

from __future__ import annotations

import pytest
from simulated import SMOLLM2

from mopdsim.forecast.stage_draws import bills_of
from studies.framework.conduct import RESULTS
from studies.framework.observe import read
from studies.honest.trials import scenario_of


@pytest.mark.parametrize("recipe", ["mopd", "mixed_rl", "off_policy", "cascade"])
def test_a_run_on_a_real_model_has_the_steps_and_flops_that_it_took(recipe: str) -> None:
    """Stages of the study real, whose ceilings are of FLOPs, and whose answers have some three tokens: steps within a
    factor of 2.5, FLOPs of 1.6."""
    found = read(RESULTS / "real")
    (name,) = (
        run for run in found.runs(recipe=recipe, budget=0.6, world="mixture") if found.seed(run) == 100
    )
    row = found.finished[name]
    asked = scenario_of(row["document"], dict.fromkeys(row["domains"], 0.3), model=SMOLLM2, specialists=None)
    for stage, own in bills_of(asked).items():
        took = found.manifest["stages"][row["keys"][stage]]
        assert 1 / 2.5 < own.steps / took["steps"] < 2.5, stage
        assert 1 / 1.6 < own.training_run_flops / took["flops"] < 1.6, stage
