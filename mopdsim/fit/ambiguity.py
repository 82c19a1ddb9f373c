"""K along the ambiguity dial, from runs of two rivals together and of each alone, replicated over seeds.

A pair of runs counts where both rivals were trained from the same base together, and each of them alone, with as many
updates and as many of a domain's prompts in each. The mean gain of the pair, in logits, is e^K times the mean gain of
the two alone, K(d) = K0 - k d, with a Gaussian error: of the finite tests, and one of common size between replicates.
k, K0 and that size are found on a grid over their priors. A power of d was tried and dropped: it was found at .92, sd
.21. Their likelihood stands apart from the large fit, in which
what rivals do to each other could also be booked to transfer. Leaves out: which of two rivals wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mopdsim.base.arrays import logit
from mopdsim.belief.calibration import Calibration
from mopdsim.facts.domains import RIVALS, ambiguity, rivalry, undialled
from mopdsim.fit.forest import Tree
from mopdsim.recipes.stage import BASE, Rl

FALL = "ambiguity_conflict"
_GRID = np.linspace(-3.0, 3.0, 41)  # prior standard deviations
_AT_ZERO = 0.1 * np.linspace(-2.0, 2.0, 21)  # K0 of rivals whose prompts are marked, sd .1
_SPREADS = np.geomspace(0.02, 0.6, 15)  # between replicates, logits of a mean gain


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """A pair's mean gain in logits together and alone, each with its variance of a finite test, at a dial."""

    dial: float
    together: float
    alone: float
    variance_together: float
    variance_alone: float


def along_the_dial(trees: Sequence[Tree], calibration: Calibration) -> Mapping[str, tuple[float, float]]:
    """Value and sd of k, on the scale of its prior; empty where no replicate has an ambiguous prompt."""
    seen = [replicate for tree in trees for replicate in replicates(tree)]
    if not any(replicate.dial > 0 for replicate in seen):
        return {}
    prior = calibration.parameters[FALL].prior
    log_k = np.log(prior.value) + prior.sd * _GRID
    k = np.exp(log_k)[:, None, None]
    zero = _AT_ZERO[:, None]
    cost = _GRID[:, None, None] ** 2 + (zero / 0.1) ** 2
    for one in seen:
        factor = np.exp(zero - k * one.dial)
        variance = one.variance_together + factor**2 * one.variance_alone + _SPREADS**2
        cost = cost + (one.together - factor * one.alone) ** 2 / variance + np.log(variance)
    weight = np.exp(-0.5 * (cost - cost.min()))
    marginal = weight.sum(axis=(1, 2)) / weight.sum()
    mean = float(marginal @ log_k)
    return {FALL: (float(np.exp(mean)), float(np.sqrt(marginal @ (log_k - mean) ** 2)))}


def replicates(tree: Tree) -> Iterator[Replicate]:
    """The comparisons that a tree holds, those at dial 0 among them."""
    ends = {
        point.stage: {score.domain: (score.passed / score.n, score.n) for score in point.scores}
        for point in tree.points
        if point.effort is None
    }
    stages = [
        stage
        for stage in tree.recipe.stages
        if isinstance(stage, Rl) and stage.init == BASE and stage.name in ends and BASE in ends
    ]
    for joint in stages:
        if len(joint.domains) != 2 or not _rivals(*joint.domains):
            continue
        alone = {name: _alone(tree, stages, joint, name) for name in joint.domains}
        if any(stage is None for stage in alone.values()):
            continue
        pairs = {
            "together": [(ends[joint.name][name], ends[BASE][name]) for name in joint.domains],
            "alone": [(ends[stage.name][name], ends[BASE][name]) for name, stage in alone.items() if stage],
        }
        gains = {way: _mean_gain(rows) for way, rows in pairs.items()}
        if gains["alone"][0] <= 0:
            continue
        yield Replicate(
            dial=rivalry(*joint.domains),
            together=gains["together"][0],
            alone=gains["alone"][0],
            variance_together=gains["together"][1],
            variance_alone=gains["alone"][1],
        )


def _rivals(one: str, other: str) -> bool:
    """Whether two domains are rivals at any dial, both at the same."""
    rows = {undialled(spec) for spec in (one, other)}
    others = any("?" in spec and "ambiguity" not in spec for spec in (one, other))
    return any(rows == set(pair) for pair in RIVALS) and ambiguity(one) == ambiguity(other) and not others


def _alone(tree: Tree, stages: Sequence[Rl], joint: Rl, name: str) -> Rl | None:
    """The run of one domain with as many updates at the same rate, and as many of its prompts in each."""
    wanted = tree.recipe.amounts[joint.name]
    prompts = wanted.prompts_per_step * joint.domains[name] / sum(joint.domains.values())
    for stage in stages:
        amounts = tree.recipe.amounts[stage.name]
        if (
            list(stage.domains) == [name]
            and amounts.steps == wanted.steps
            and amounts.learning_rate == wanted.learning_rate
            and amounts.prompts_per_step == prompts
            and amounts.max_flops is None
            and wanted.max_flops is None
        ):
            return stage
    return None


def _mean_gain(rows: Sequence[tuple[tuple[float, int], tuple[float, int]]]) -> tuple[float, float]:
    """Mean gain in logits and its variance from tests of so many prompts. rows: (end, start), each (rate, prompts)."""
    gains, variances = [], []
    for (end, count), (start, of) in rows:
        gains.append(_logit(end, count) - _logit(start, of))
        variances.append(sum(1 / (n * max(q * (1 - q), 0.01)) for q, n in ((end, count), (start, of))))
    return float(np.mean(gains)), float(np.sum(variances)) / len(rows) ** 2


def _logit(rate: float, count: int) -> float:
    """Of a share of so many prompts, half a prompt from either end."""
    return float(logit((rate * count + 0.5) / (count + 1)))
