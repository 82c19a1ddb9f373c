"""What a stage spends where its source gives a range: draws of steps, batch and length against the central amounts.

A range is a lognormal through its P10 and P90. A bill is computed once, at the recipe's amounts and the range's middle
length; seconds, FLOPs and tokens are then taken in proportion to the amounts and, as for every stage, to the power of
the length that the bill found. Leaves out: ceilings of FLOPs; best-of-n and group sizes in the quality model, which
keep the recipe's own rollouts_per_prompt.
"""

from __future__ import annotations

import math

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import sample, standard_normal
from mopdsim.facts.domains import P90, Estimate
from mopdsim.facts.hardware import gpu
from mopdsim.forecast.scenario import Scenario

PROJECT_LOG_SD = 0.15  # of a project's half-normal log overhead; tests, reruns and failures are apart; prior
_AMOUNTS = ("steps", "prompts_per_step", "rollouts_per_prompt")


def central_length(scenario: Scenario, stage: str) -> float | None:
    """A stage's own mean response length, None where its domains' holds."""
    ends = scenario.range_of(stage, "response_tokens")
    return None if ends is None else math.sqrt(ends[0] * ends[1])


def relative_amount(scenario: Scenario, stage: str) -> Array:
    """What a stage spends in each draw, relative to the recipe's amounts. (N,)"""
    relative_N = np.ones(scenario.draws)
    for key in _AMOUNTS:
        ends = scenario.range_of(stage, key)
        if ends is not None:
            central = getattr(scenario.recipe.amounts[stage], key)
            relative_N = relative_N * drawn(scenario, ends, f"ranges:{stage}.{key}") / central
    return relative_N


def own_length(scenario: Scenario, stage: str) -> Array | None:
    """A stage's own mean length in each draw, relative to its middle; None where its domains' holds. (N,)"""
    ends = scenario.range_of(stage, "response_tokens")
    if ends is None:
        return None
    return drawn(scenario, ends, f"ranges:{stage}.response_tokens") / math.sqrt(ends[0] * ends[1])


def overhead(scenario: Scenario) -> Array:
    """One factor on all seconds: what a whole project spends beyond its planned steps on restarts, debugging and tests,
    never below 1, where the scenario gives none; 1 on a CPU, whose runs are this trainer's own. (N,)"""
    if scenario.overhead is not None:
        return drawn(scenario, scenario.overhead, "overhead")
    if gpu(scenario.gpu).name.startswith("CPU"):
        return np.ones(scenario.draws)
    return project_overhead(scenario.seed, scenario.draws)


def project_overhead(seed: int, draws: int) -> Array:
    """A project's factor where nothing is known of it: half-normal in log. (N,)"""
    return np.exp(PROJECT_LOG_SD * np.abs(standard_normal("overhead", seed, draws)))


def drawn(scenario: Scenario, ends: tuple[float, float], key: str) -> Array:
    """Draws of a lognormal through P10 and P90. (N,)"""
    low, high = ends
    middle = Estimate(
        value=math.sqrt(low * high), sd=math.log(high / low) / (2 * P90), grade="prior", source=key
    )
    return sample(middle, "lognormal", key, seed=scenario.seed, draws=scenario.draws)
