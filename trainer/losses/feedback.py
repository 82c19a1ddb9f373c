"""What is learnt from judgements: Bradley-Terry, advantages over time, the value's loss, control of the KL penalty.

Pure functions, as in `trainer.losses.losses`: weights carry all normalisation, metrics are detached sums. Leaves out:
who judges (`trainer.stages.reward_model`), the policy's own loss (`trainer.losses.losses.policy_gradient`).

Axes: B rows, T response tokens, N positions, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.losses import Loss

KL_GAIN = 0.1  # of the proportional controller (1909.08593, section 2.2)
KL_ERROR = 0.2  # largest relative error that it reacts to
LEAST_VARIANCE = 1e-8


def bradley_terry(better_P: Tensor, worse_P: Tensor, weights_P: Tensor) -> Loss:
    """-sum w log sigmoid(better - worse), the scores of pairs: P(better beats worse) = sigmoid(difference).

    A constant added to all scores changes nothing. Metrics: correct_count (a tie counts half), gap_sum.
    """
    gap_P = better_P - worse_P
    metrics = {
        "correct_count": ((gap_P > 0).float() + 0.5 * (gap_P == 0).float()).sum(),
        "gap_sum": gap_P.detach().sum(),
    }
    return -(weights_P * F.logsigmoid(gap_P)).sum(), metrics


def advantages_over_time(
    reward_BT: Tensor, value_BT: Tensor, trained_BT: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """(advantage_BT, return_BT) of generalised advantage estimation (1506.02438, equation 16), 0 where not trained:

        delta_t = r_t + discount V_t+1 - V_t,   A_t = sum_l (discount lambda)^l delta_t+l,   return_t = A_t + V_t

    A step of time is a trained token: observations between turns take none. After the last one V is 0.
    """
    advantage_BT = torch.zeros_like(value_BT)
    next_value_B = next_advantage_B = torch.zeros_like(value_BT[:, 0])
    for t in reversed(range(value_BT.shape[1])):
        trained_B, value_B = trained_BT[:, t], value_BT[:, t]
        delta_B = reward_BT[:, t] + discount * next_value_B - value_B
        own_B = delta_B + discount * gae_lambda * next_advantage_B
        advantage_BT[:, t] = torch.where(trained_B, own_B, 0.0)
        next_advantage_B = torch.where(trained_B, own_B, next_advantage_B)
        next_value_B = torch.where(trained_B, value_B, next_value_B)
    return advantage_BT, torch.where(trained_BT, advantage_BT + value_BT, 0.0)


def whitened(x_BT: Tensor, trained_BT: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the trained tokens, 0 elsewhere; numbers that are all equal become 0."""
    x_M = x_BT[trained_BT]
    centred_BT = torch.where(trained_BT, x_BT - x_M.mean(), 0.0)
    return centred_BT * (x_M.var(correction=0) + LEAST_VARIANCE).rsqrt()


def clipped_value(
    value_N: Tensor, old_N: Tensor, return_N: Tensor, weights_N: Tensor, *, clip: float
) -> Loss:
    """sum w max((V - R)^2, (clip(V) - R)^2) / 2, clip(V) within `clip` of the value at sampling (PPO2's).

    Metrics: value_loss_sum (unweighted), value_clip_count.
    """
    near_N = old_N + (value_N - old_N).clamp(-clip, clip)
    free_N, held_N = (value_N - return_N).square(), (near_N - return_N).square()
    loss_N = torch.maximum(free_N, held_N) / 2
    metrics = {"value_loss_sum": loss_N.detach().sum(), "value_clip_count": (held_N > free_N).sum()}
    return (weights_N * loss_N).sum(), metrics


def explained_variance(value_BT: Tensor, return_BT: Tensor, trained_BT: Tensor) -> float:
    """1 - Var(return - value) / Var(return) over the trained tokens; 0 where returns do not vary."""
    value_M, return_M = value_BT[trained_BT], return_BT[trained_BT]
    whole = float(return_M.var(correction=0))
    if whole <= LEAST_VARIANCE:
        return 0.0
    return 1 - float((return_M - value_M).var(correction=0)) / whole


def adapted(kl_coefficient: float, kl: float, target: float) -> float:
    """The coefficient after a batch whose KL was `kl` (1909.08593): x (1 + KL_GAIN e), e = clip(kl / target - 1)."""
    error = min(max(kl / target - 1, -KL_ERROR), KL_ERROR)
    return kl_coefficient * (1 + KL_GAIN * error)
