"""How many GPUs a stage takes where nobody gives it a number: the fewest that doublings are still worth.

From its whole pool downwards a stage is halved as long as twice the GPUs would gain it less than `WORTH_DOUBLING` times
the speed: beyond that one mostly pays more. Half of a pool is another team's, or stands idle. A recipe of one stage
keeps its pool, whose size is then that stage's own. Leaves out: deadlines, and what other stages want of the pool.
"""

from __future__ import annotations

from dataclasses import replace

from mopdsim.base.errors import InfeasibleError
from mopdsim.facts.hardware import gpu
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bill_of, time_steps
from mopdsim.recipes.recipe import AnyStage, Merge

WORTH_DOUBLING = 1.25  # times as fast that twice the GPUs should at least be


def with_gpus(scenario: Scenario) -> Scenario:
    """The scenario with a number of GPUs for each stage that should not have its whole pool."""
    stages = [stage for stage in scenario.recipe.stages if not isinstance(stage, Merge)]
    if scenario.gpus_per_stage is not None or len(stages) < 2 or gpu(scenario.gpu).name.startswith("CPU"):
        return scenario
    halved = [stage for stage in stages if stage.name not in scenario.gpus_of]
    chosen = {stage.name: scenario.stage_gpus(stage.name) for stage in halved}
    while halved:
        for share in (1, 2):  # all of them at once: that is faster
            time_steps(scenario, {stage.name: max(chosen[stage.name] // share, 1) for stage in halved})
        halved = [
            stage
            for stage in halved
            if gain_of_doubling(scenario, stage, chosen[stage.name]) < WORTH_DOUBLING
        ]
        chosen |= {stage.name: chosen[stage.name] // 2 for stage in halved}
    return replace(scenario, gpus_of={**chosen, **scenario.gpus_of})


def gain_of_doubling(scenario: Scenario, stage: AnyStage, gpus: int) -> float:
    """Times as fast as on half of so many GPUs; infinite where half are too few."""
    if gpus < 2:
        return float("inf")
    try:
        few, many = (bill_of(scenario, stage, gpus=number) for number in (gpus // 2, gpus))
    except InfeasibleError:
        return float("inf")
    return sum(few.seconds.values()) / sum(many.seconds.values())
