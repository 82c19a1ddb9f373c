"""At which learning rate RL breaks, by the likelihood of what broke and what did not.

A domain breaks or not, so that the walk has no slope in it and rate and power are found apart, on a grid over their
priors. A domain that its own stage trains has broken where it ends below half of where it started. Leaves out: domains
left out of training, what is left of a broken one (both keep their priors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mopdsim.fitting.forest import Tree
from mopdsim.fitting.posterior import Posterior
from mopdsim.interference import Array
from mopdsim.quality.pace import breakdown_hazard, paced
from mopdsim.recipe import Rl

BROKEN = 0.5  # of the score before
_WIDTHS = np.linspace(-3.0, 3.0, 121)  # of both priors, around their middles


def breaking(posterior: Posterior, trees: Sequence[Tree]) -> Mapping[str, tuple[float, float]]:
    """Value and sd of `breaking_rate` and `breaking_power`; nothing where no RL of the trees ended with a test. They
    may be more trees than those of the posterior, of which only constants are taken."""
    calibration = posterior.latents.calibration
    rate, power = (calibration.parameters[name].prior for name in ("breaking_rate", "breaking_power"))
    log_rate_R = np.log(rate.value) + rate.sd * _WIDTHS
    power_P = power.value + power.sd * _WIDTHS
    log_RP = -0.5 * (_WIDTHS[:, None] ** 2 + _WIDTHS**2)
    seen = list(
        _outcomes(posterior, trees, {"breaking_rate": np.exp(log_rate_R)[:, None], "breaking_power": power_P})
    )
    if not seen:
        return {}
    for hazard_RP, broken in seen:
        log_RP = log_RP + (np.log(-np.expm1(-hazard_RP) + 1e-300) if broken else -hazard_RP)
    weight_RP = np.exp(log_RP - log_RP.max())
    weight_RP /= weight_RP.sum()
    middle_rate, sd_rate = _moments(log_rate_R, weight_RP.sum(axis=1))
    middle_power, sd_power = _moments(power_P, weight_RP.sum(axis=0))
    return {
        "breaking_rate": (float(np.exp(middle_rate)), sd_rate),
        "breaking_power": (middle_power, sd_power),
    }


def _moments(value_G: Array, weight_G: Array) -> tuple[float, float]:
    mean = float(weight_G @ value_G)
    return mean, float(np.sqrt(weight_G @ (value_G - mean) ** 2))


def _outcomes(
    posterior: Posterior, trees: Sequence[Tree], constants: Mapping[str, Array]
) -> Iterator[tuple[Array, bool]]:
    """The hazard at every rate and power, and whether a domain broke: of each domain that a tested RL stage trained."""
    fitted = posterior.latents.world(0, posterior.x_L[:, None]).constants
    for tree in trees:
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
            hazard_RP = breakdown_hazard(effort, amounts, tree.recipe.amounts_name, constants)
            if hazard_RP is None:
                continue
            for name in stage.domains:
                yield hazard_RP, ends[stage.name][name] < BROKEN * ends[stage.init][name]
