"""A measured step beside the forecast's: the whole step and its phases, each with its place in the forecast's interval.

The forecast of a stage is its bill: seconds by phase at central values, times a lognormal error of the time model. The
response length is the log's where it has one, so that what is compared is time, not length. Place: the share of the
forecast's draws that are shorter; below .1 and above .9 the measurement lies outside P10 to P90. A phase has the step's
spread, for which nobody has fitted another.
Leaves out: what usually causes a difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from mopdsim.cost.stacks import UNKNOWN
from mopdsim.exchange.logs.steps import Steps
from mopdsim.facts.domains import P90
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.stage_draws import bill_of

OURS = {
    "generation": ("generation_s", "reward_s"),
    "scoring": ("old_logprob_s", "reference_s"),
    "training": ("update_s",),
}


STACKS = {"verl": "verl", "trl": "hugging_face", "nemo-rl": "megatron", "prime-rl": "fsdp"}


def compared(scenario: Scenario, stage: str, found: Steps) -> dict[str, Any]:
    """P10, P50 and P90 of the stage's step and phases, what was measured, and its place. Empty for a stage that is not
    timed in steps."""
    amounts = scenario.recipe.amounts.get(stage)
    if amounts is None:
        return {}
    length = found.median("mean_tokens")
    at_length = _at_length(_on_stack(scenario, found.engine), stage, length)
    own = bill_of(at_length, scenario.recipe.stage[stage], gpus=scenario.stage_gpus(stage))
    seconds = {phase: value / own.steps for phase, value in own.seconds.items() if phase != "evaluation"}
    measured: dict[str, float | None] = {"step": found.median("step_s")}
    for phase, columns in OURS.items():
        parts = [found.median(column) for column in columns]
        if parts[0] is not None:
            measured[phase] = sum(part for part in parts if part is not None)
    if "generation" not in measured and found.median("wait_s") is not None:
        measured["wait"] = found.median("wait_s")
    rows = {}
    for name, value in (("step", sum(seconds.values())), *seconds.items()):
        rows[name] = _row(value, own.log_sd, measured.get(name))
    return {
        "stack": at_length.stack,
        "mean_tokens": own.mean_length,
        "log_sd": own.log_sd,
        "rows": rows,
        **({"wait_s": measured["wait"]} if "wait" in measured else {}),
    }


def totals(scenario: Scenario, runs: Mapping[str, Steps]) -> dict[str, Any]:
    """GPU-hours of all stages by the forecast's middle, and the same with the measured steps in place of its own."""
    forecast_s = measured_s = 0.0
    timed = []
    for stage in scenario.recipe.stages:
        gpus = scenario.stage_gpus(stage.name)
        own = bill_of(scenario, stage, gpus=gpus)
        seconds = sum(own.seconds.values())
        forecast_s += own.gpus * seconds
        step = runs[stage.name].median("step_s") if stage.name in runs else None
        if step is not None:
            timed.append(stage.name)
            seconds = own.steps * step + own.seconds.get("evaluation", 0.0)
        measured_s += own.gpus * seconds
    return {
        "forecast_gpu_hours": forecast_s / 3600,
        "measured_gpu_hours": measured_s / 3600,
        "measured_stages": timed,
    }


def _on_stack(scenario: Scenario, engine: str) -> Scenario:
    """The scenario on the log's own software, where nobody says which."""
    told = scenario.stack != UNKNOWN or scenario.measured is not None
    return scenario if told or engine not in STACKS else replace(scenario, stack=STACKS[engine])


def _at_length(scenario: Scenario, stage: str, length: float | None) -> Scenario:
    """The scenario with the stage's own mean response length, exactly."""
    if length is None:
        return scenario
    return replace(scenario, ranges={**scenario.ranges, f"{stage}.response_tokens": (length, length)})


def _row(middle: float, log_sd: float, measured: float | None) -> dict[str, float | None]:
    shown: dict[str, float | None] = {
        "p10": middle * math.exp(-P90 * log_sd),
        "p50": middle,
        "p90": middle * math.exp(P90 * log_sd),
        "measured": measured,
        "place": None,
    }
    if measured and middle:
        shown["place"] = NormalDist().cdf(math.log(measured / middle) / log_sd)
    return shown
