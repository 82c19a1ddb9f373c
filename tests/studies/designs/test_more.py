"""The seconds of `throughput` found again in simulated observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulated import noise, runs_of, simulated

from studies.designs.effects import throughput
from studies.framework.observe import Observations


def spending(
    found: Observations, flops: Callable[[str, str], float], steps: Callable[[str], int]
) -> Observations:
    """The observations with these FLOPs (by run and stage) and steps (by stage)."""
    stages: dict[str, Any] = {}
    for name, row in found.manifest["runs"].items():
        for stage, key in row["keys"].items():
            stages[key] = found.manifest["stages"][key] | {"flops": flops(name, stage)}
    points = found.points.assign(step=found.points.stage.map(steps))
    return replace(found, points=points, manifest={**found.manifest, "stages": stages})


def test_seconds_are_recovered_from_steps_and_flops() -> None:
    truth = {"fixed_s": 0.5, "s_per_step": 0.01, "s_per_flop": 2e-10}
    runs = runs_of("throughput")
    found = simulated(runs, lambda run, stage, domain: 0.5 + noise(run, stage, domain))

    def flops(name: str, stage: str) -> float:
        length, prompts = int(runs[name].factors["length"]), int(runs[name].factors["prompts"])
        return 1e6 * length * prompts * throughput.STEPS[prompts] * (2 if stage == "student" else 1)

    found = spending(found, flops, lambda stage: 1)
    points = found.points.assign(
        step=[throughput.STEPS[int(runs[n].factors["prompts"])] for n in found.points.run]
    )
    stages = dict(found.manifest["stages"])
    for name, run in runs.items():
        for key in found.manifest["runs"][name]["keys"].values():
            steps = throughput.STEPS[int(run.factors["prompts"])]
            seconds = (
                truth["fixed_s"] + truth["s_per_step"] * steps + truth["s_per_flop"] * stages[key]["flops"]
            )
            stages[key] = stages[key] | {"wall_seconds": seconds}
    analysis = throughput.analyse(
        replace(found, points=points, manifest={**found.manifest, "stages": stages})
    )
    assert set(analysis.fitted) == {"rl", "distill"}
    for fitted in analysis.fitted.values():
        assert fitted == pytest.approx(truth, rel=1e-6)
    assert analysis.quantities["held_out_error"].value < 1e-6
    assert analysis.quantities["one_rate_minus_fitted"].low > 0.1
