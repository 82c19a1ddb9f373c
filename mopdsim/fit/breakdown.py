"""At which learning rate RL breaks, by the likelihood of what broke and what did not.

A domain breaks or not, so that the walk has no slope in it and rate and power are found apart, on a grid over their
priors. A domain that its own stage trains has broken where it ends below half of where it started. Leaves out: domains
left out of training, what is left of a broken one (both keep their priors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.fit.forest import Tree
from mopdsim.fit.posterior import Posterior
from mopdsim.quality.learning import breakdown_hazard, paced
from mopdsim.recipes.recipe import Rl

BROKEN = 0.5  # of the score before
_WIDTHS = np.linspace(-3.0, 3.0, 61)  # of every prior, around its middle


def breaking(posterior: Posterior, trees: Sequence[Tree]) -> Mapping[str, tuple[float, float]]:
    """Value and sd of `breaking_rate`, `breaking_power` and, if sizes differ, `breaking_size`; empty if no RL
    stage of the trees ended with a test. The trees may include runs that the posterior did not use; of the
    posterior only constants are read."""
    calibration = posterior.latents.calibration
    rate, power, size = (
        calibration.parameters[name].prior for name in ("breaking_rate", "breaking_power", "breaking_size")
    )
    widths_S = _WIDTHS if any(tree.relative_size != 1 for tree in trees) else np.zeros(1)
    log_rate_R = np.log(rate.value) + rate.sd * _WIDTHS
    power_P = power.value + power.sd * _WIDTHS
    size_S = size.value + size.sd * widths_S
    log_RPS = -0.5 * (_WIDTHS[:, None, None] ** 2 + _WIDTHS[:, None] ** 2 + widths_S**2)
    grid = {
        "breaking_rate": np.exp(log_rate_R)[:, None, None],
        "breaking_power": power_P[:, None],
        "breaking_size": size_S,
    }
    seen = list(_outcomes(posterior, trees, grid))
    if not seen:
        return {}
    for hazard_RPS, broken in seen:
        log_RPS = log_RPS + (np.log(-np.expm1(-hazard_RPS) + 1e-300) if broken else -hazard_RPS)
    weight_RPS = np.exp(log_RPS - log_RPS.max())
    weight_RPS /= weight_RPS.sum()
    middle_rate, sd_rate = _moments(log_rate_R, weight_RPS.sum(axis=(1, 2)))
    found = {
        "breaking_rate": (float(np.exp(middle_rate)), sd_rate),
        "breaking_power": _moments(power_P, weight_RPS.sum(axis=(0, 2))),
    }
    if len(size_S) > 1:
        found["breaking_size"] = _moments(size_S, weight_RPS.sum(axis=(0, 1)))
    return found


def _moments(value_G: Array, weight_G: Array) -> tuple[float, float]:
    mean = float(weight_G @ value_G)
    return mean, float(np.sqrt(weight_G @ (value_G - mean) ** 2))


def _outcomes(
    posterior: Posterior, trees: Sequence[Tree], constants: Mapping[str, Array]
) -> Iterator[tuple[Array, bool]]:
    """The hazard at every rate, power and size, and whether a domain broke: of each domain that a tested RL stage
    trained."""
    fitted = posterior.latents.world(0, posterior.x_L[:, None]).constants
    for tree in trees:
        slower = tree.relative_size ** -constants["breaking_size"]
        own = {**constants, "breaking_rate": constants["breaking_rate"] * slower}
        ends = {
            point.stage: {score.domain: score.passed / score.n for score in point.scores}
            for point in tree.points
            if point.effort is None
        }
        for stage in tree.recipe.stages:
            if not isinstance(stage, Rl) or not {stage.name, stage.init} <= ends.keys():
                continue
            amounts = tree.recipe.amounts[stage.name]
            effort = paced(tree.efforts[stage.name], amounts, tree.recipe.amounts_name, stage.kind, fitted)
            hazard_RPS = breakdown_hazard(effort, amounts, tree.recipe.amounts_name, own)
            if hazard_RPS is None:
                continue
            for name in stage.domains:
                yield hazard_RPS, ends[stage.name][name] < BROKEN * ends[stage.init][name]
