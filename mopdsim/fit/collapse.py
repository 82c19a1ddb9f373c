"""Whether distillations collapsed, and what that says of the distance at which they do.

A collapse happens or not, so that it is kept out of the walk and its middle found apart: by the likelihood of what
happened at the distances that the fitted walk gives. Leaves out: the hazard's width, which is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.facts.domains import Estimate
from mopdsim.fit.forest import Tree
from mopdsim.fit.posterior import Posterior
from mopdsim.quality.caps import collapse_hazard
from mopdsim.quality.distillation import distance
from mopdsim.quality.walk import walk
from mopdsim.recipes.recipe import Distill

# of the prior, around its middle: far up, since nothing may have collapsed
_WIDTHS = np.linspace(-2.0, 12.0, 1401)


def collapse_middle(posterior: Posterior, *, source: str) -> Estimate | None:
    """Of the hazard, nats a token; None without on-policy distillations. A student that ends below its start has
    collapsed."""
    calibration = posterior.latents.calibration
    prior = calibration.parameters["collapse_middle"].prior
    seen = [pair for place in range(len(posterior.latents.trees)) for pair in _outcomes(posterior, place)]
    if not seen:
        return None
    log_middle_G = np.log(prior.value) + prior.sd * _WIDTHS
    log_G: Array = -0.5 * _WIDTHS**2
    for nats, collapsed in seen:
        hazard_G = collapse_hazard(np.array(nats), np.exp(log_middle_G))
        log_G = log_G + np.log(np.clip(hazard_G if collapsed else 1 - hazard_G, 1e-300, 1.0))
    weight_G = np.exp(log_G - log_G.max())
    weight_G /= weight_G.sum()
    mean = float(weight_G @ log_middle_G)
    sd = float(np.sqrt(weight_G @ (log_middle_G - mean) ** 2))
    return Estimate(value=float(np.exp(mean)), sd=sd, grade="fitted", source=source)


def _outcomes(posterior: Posterior, place: int) -> Iterator[tuple[float, bool]]:
    """Of each on-policy distillation of a tree with a test at its end: the farthest teacher's distance, collapsed."""
    tree = posterior.latents.trees[place]
    world = posterior.latents.world(place, posterior.x_L[:, None])
    states = walk(tree.recipe, world, tree.efforts, explain=False)
    for stage in tree.recipe.stages:
        if not isinstance(stage, Distill) or not stage.on_policy:
            continue
        before, after = (_mean(tree, name, stage) for name in (stage.init, stage.name))
        if before is not None and after is not None:
            distances = [distance(name, stage.init, states) for name in stage.teacher_names]
            yield float(np.max(distances)), after < before


def _mean(tree: Tree, name: str, stage: Distill) -> float | None:
    """The test score at a stage's end over the domains distilled, None where it was not measured."""
    for point in tree.points:
        if point.stage == name and point.effort is None:
            found = {score.domain: score.passed / score.n for score in point.scores}
            return float(np.mean([found[domain] for domain in stage.domains]))
    return None
