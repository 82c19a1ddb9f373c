"""Losses of the tokens of rollouts as gradients are taken of them (`trainer.batch.update`): functions of the logits at
some positions. Leaves out: the formulas (`trainer.losses.losses`), losses against teachers (`trainer.stages.targets`).

Axes: B rows, T response tokens, N positions (flat index b * T + t), M all of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from trainer.batch.rollout import Rollouts
from trainer.batch.score import Scored
from trainer.losses.losses import Loss, cross_entropy, policy_gradient, token_logprob

Objective = Callable[[Tensor, Tensor], Loss]  # of logits_NV and index_N


def likelihood(rollouts: Rollouts, weight_BT: Tensor) -> Objective:
    """The cross entropy of the tokens."""
    token_M, weight_M = rollouts.response_BT.flatten(), weight_BT.flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        return cross_entropy(logits_NV, token_M[index_N], weight_M[index_N])

    return loss_of


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """The KL against a model at the sampling temperature, as a term of the loss."""

    reference: Scored
    temperature: float
    coefficient: float


def surrogate(
    rollouts: Rollouts,
    advantage_BT: Tensor,
    weight_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    penalty: Penalty | None = None,
) -> Objective:
    """The clipped policy gradient of advantages; the clip is DAPO's where none is given."""
    token_M, weight_M = rollouts.response_BT.flatten(), weight_BT.flatten()
    behaviour_M, advantage_M = rollouts.logprob_BT.flatten(), advantage_BT.flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        logprob_N, entropy_N = token_logprob(logits_NV, token_M[index_N])
        towards_N = None
        if penalty is not None:
            reference_NV = penalty.reference.at(index_N, penalty.temperature)
            towards_N, _ = token_logprob(reference_NV, token_M[index_N])
        loss, metrics = policy_gradient(
            logprob_N,
            behaviour_M[index_N],
            advantage_M[index_N],
            weight_M[index_N],
            clip_low=clip_low,
            clip_high=clip_high,
            reference_N=towards_N,
            kl_coefficient=0.0 if penalty is None else penalty.coefficient,
        )
        return loss, {**metrics, "entropy_sum": entropy_N.sum()}

    return loss_of
