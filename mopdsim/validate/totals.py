"""The published systems' own totals against their forecasts: GPU-hours of RL, or FLOPs of PPO.

The figures of `data/systems` were written before these forecasts were made, and no constant is fitted on the totals.
Leaves out: totals of other runs (`mopdsim.validate.projects`), stages whose cost nobody states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.facts.layers import Model
from mopdsim.facts.model import model
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.stage_draws import drawn, length_of
from mopdsim.recipes import published
from mopdsim.recipes.published import Figure
from mopdsim.validate.intervals import errors_of, judged

FACTOR = 2.0  # that the median should stay within
PETAFLOP_DAY = 1e15 * 86_400
_TRAINING = 3.0  # forward passes
_OLD_AND_REFERENCE = 2.0


def validate() -> dict[str, Any]:
    """The report: P10 to P90 of every published total, coverage, and how far the medians are off."""
    predictions = [row for name in published.NAMES for row in _rows(name)]
    return {
        "kind": "published",
        "rows": len(predictions),
        "coverage_80": float(np.mean([row["inside_80"] for row in predictions])),
        "within_factor_2": float(np.mean([row["within_factor_2"] for row in predictions])),
        "median_width": float(np.median([row["p90"] / row["p10"] for row in predictions])),
        **errors_of([row["error"] for row in predictions]),
        "predictions": predictions,
    }


def _rows(name: str) -> list[dict[str, Any]]:
    own = published.system(name)
    measured = own.under("measured")
    if not measured:
        return []
    found = forecast(scenario.from_document(scenario.published_document(name), source=name))
    return [
        _row(name, stage, own.under(f"measured.{stage}"), found)
        for stage in dict.fromkeys(key.partition(".")[0] for key in measured)
    ]


def _row(name: str, stage: str, facts: Mapping[str, Figure], found: Forecast) -> dict[str, Any]:
    stages = facts["stages"].value if "stages" in facts else [stage]
    if "gpu_hours" in facts:
        row, unit, scale = facts["gpu_hours"], "gpu_hours", 1.0
        drawn_N = sum((found.stage_gpu_hours[one] for one in stages), np.zeros(found.scenario.draws))
    else:
        row, unit, scale = facts["petaflop_s_days"], "flop", PETAFLOP_DAY
        drawn_N = ppo_flops(name, stage, found)
    told = judged(drawn_N, row.value * scale)
    return {
        "system": name,
        "stages": list(stages),
        "unit": unit,
        **told,
        "within_factor_2": told["error"] <= FACTOR - 1,
        "source": row.source,
    }


def ppo_flops(name: str, stage: str, found: Forecast) -> Array:
    """FLOPs of a PPO stage whose reward and value models are smaller and whose pre-training mix is larger than the
    recipe's: sampling, old log-probabilities, reference and update by the policy, reward and value (sampling time and
    update) by a side model, the update on the mix by the policy. (N,)"""
    beyond = published.system(name).under(f"beyond.{stage}")
    bill = found.bills[stage]
    policy = model(found.scenario.model)
    side = beyond["side_parameters_b"].value * 1e9 / policy.total_parameters
    episodes = bill.steps * found.scenario.recipe.amounts[stage].prompts_per_step
    length_N = _sequence_tokens(found, stage)
    low, high = beyond["mixed_tokens"].pair
    mixed_N = drawn(found.scenario, (low, high), f"beyond:{stage}.mixed_tokens")
    own = 1.0 + _OLD_AND_REFERENCE + _TRAINING
    aside = side * (1.0 + 1.0 + _TRAINING)
    rollouts_N = episodes * (own + aside) * _forward(policy, length_N)
    mix_N = episodes * beyond["mixed_examples_per_episode"].value * _TRAINING * _forward(policy, mixed_N)
    return rollouts_N + mix_N


def _sequence_tokens(found: Forecast, stage: str) -> Array:
    """Prompt and response of a stage's sequences. (N,)"""
    bill = found.bills[stage]
    prompts = sum(share * found.domains[name].prompt_tokens.value for name, share in bill.shares.items())
    return prompts + bill.mean_length * length_of(found.scenario, bill, found.world)


def _forward(shape: Model, lengths_N: Array) -> Array:
    return np.array([shape.forward_flops([length]) for length in lengths_N])
