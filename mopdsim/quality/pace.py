"""How far training gets with its compute, by learning rate and batch relative to the usual ones, and when RL
breaks.

Progress goes with FLOPs times rate^a times batch^-b. Adam's steps have the length of the rate whatever the gradient, so
that at equal FLOPs a higher rate and a smaller batch go farther: a = b = 1 where the length of steps is what limits
training, a = b = 0 where samples are. Both exponents are fitted. Leaves out: schedules (weighting FLOPs by a decaying
rate fitted our runs no better), amounts of other sets than `tiny`, whose rates and batches are taken as usual: no run
of ours tells what others do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.quality.step import Effort
from mopdsim.recipes.amounts import Amounts, AmountsName, SpendingKind, default_amounts

LEARNING: frozenset[SpendingKind] = frozenset({"rl", "sft", "distill", "preference"})
# a judge is as good as its comparisons are many, whatever the rate
BREAKING_COMPUTE = 1e5  # FLOPs per active parameter: about the C_mid of a tiny domain


def paced(
    effort: Effort, amounts: Amounts, usual: AmountsName, kind: SpendingKind, constants: Mapping[str, Array]
) -> Effort:
    """The effort as the set's usual learning rate and batch would have spent it."""
    if usual != "tiny" or kind not in LEARNING:
        return effort
    base = default_amounts(usual, kind)
    rate = amounts.learning_rate / base.learning_rate
    batch = _rows(amounts) / _rows(base)
    factor_N = rate ** constants["rate_exponent"] * batch ** -constants["batch_exponent"]
    return Effort(compute_N=effort.compute_N * factor_N, tokens_N=effort.tokens_N * factor_N)


def _rows(amounts: Amounts) -> int:
    return amounts.prompts_per_step * amounts.rollouts_per_prompt


def breakdown_hazard(
    effort: Effort, amounts: Amounts, usual: AmountsName, constants: Mapping[str, Array]
) -> Array | None:
    """The hazard that RL at this rate loses a domain during the stage, (N,): (rate / r0)^m sqrt(C / C0), with
    C the paced compute. The square root is the distance of a random walk. None for amounts that were never
    measured."""
    if usual != "tiny":
        return None
    relative_N = amounts.learning_rate / constants["breaking_rate"]
    length_N = np.sqrt(effort.compute_N / BREAKING_COMPUTE)
    return np.asarray(relative_N ** constants["breaking_power"] * length_N)
