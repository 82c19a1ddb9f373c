"""The clipped policy gradient, and PPO as InstructGPT ran it (2203.02155, 1909.08593).

PPO has a value head, GAE, and the KL as a penalty of each token's reward: a token earns -kl_coefficient (log pi - log
pi_ref), the last one the judge's reward too; pi_ref is the model that the stage starts from. The value is a head on the
policy's own states, dropped before the weights are saved. Leaves out: sampling, judging and stepping
(`trainer.stages.rl`), the formulas (`trainer.losses.feedback`).

Axes: U prompts, B rows, T response tokens, N positions (flat index b * T + t), M rows of a part, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mopdsim.recipes.recipe import Rl
from trainer.batch.batch import Batch, spread
from trainer.batch.heads import add_head, drop_head, scalars, values, without_head
from trainer.batch.rollout import Rollouts
from trainer.batch.score import Bank, Scored, logprobs
from trainer.batch.update import LossOf
from trainer.losses.feedback import adapted, advantages_over_time, clipped_value, explained_variance, whitened
from trainer.losses.losses import Loss, policy_gradient, token_logprob, token_weights
from trainer.stages.loop import Hooks, Trainee

HOOKS = Hooks(prepare=add_head, finish=lambda trainee: drop_head(trainee.policy))


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a judged batch teaches.

    kept_U: the prompts that are learnt from. loss_of: the loss of some of the rows, given that part and its row_M; it
    reads states in place of logits where `of_states`. by_domain: more to log of a domain.
    """

    advantage_BT: Tensor
    kept_U: Tensor
    loss_of: Callable[[Batch, Tensor], LossOf]
    of_states: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    by_domain: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def reward_weight(batch: Batch, stage: Rl) -> Tensor:
    """weight_B: the factor of each row's domain on its advantages."""
    weights = [stage.reward_weights.get(name, 1.0) for name in batch.spans]
    return spread(batch.spans, weights).to(batch.reward_B)


def surrogate(
    stage: Rl,
    rollouts: Rollouts,
    advantage_BT: Tensor,
    *,
    reference: Scored | None = None,
    temperature: float = 1.0,
) -> Callable[[Tensor, Tensor], Loss]:
    """The clipped policy gradient. reference: a model whose KL is a term of the loss, at the sampling temperature."""
    token_M, behaviour_M = rollouts.response_BT.flatten(), rollouts.logprob_BT.flatten()
    weight_M = token_weights(rollouts.trained_BT, stage.normalizer).flatten()
    advantage_M = advantage_BT.flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        logprob_N, entropy_N = token_logprob(logits_NV, token_M[index_N])
        towards_N = None
        if reference is not None:
            towards_N, _ = token_logprob(reference.at(index_N, temperature), token_M[index_N])
        loss, metrics = policy_gradient(
            logprob_N,
            behaviour_M[index_N],
            advantage_M[index_N],
            weight_M[index_N],
            clip_low=stage.clip_low,
            clip_high=stage.clip_high,
            reference_N=towards_N,
            kl_coefficient=0.0 if reference is None else stage.kl_coefficient,
        )
        return loss, {**metrics, "entropy_sum": entropy_N.sum()}

    return loss_of


def signal(trainee: Trainee, stage: Rl, bank: Bank | None, batch: Batch) -> Signal:
    """Advantages of the judged rewards and the KL penalty over the values at sampling, whitened over the batch."""
    policy, meter, rollouts = trainee.policy, trainee.meter, batch.rollouts
    with meter.phase("scoring", policy.device):
        value_BT = values(policy, rollouts, micro_batch_rows=trainee.job.settings.micro_batch_rows)
    meter.count("scoring", policy, without_head(rollouts))
    reward_BT = at_the_end(batch.reward_B, rollouts.trained_BT)
    metrics: dict[str, float] = {}
    kl_of: dict[str, dict[str, float]] = {}
    if bank is not None:
        reference = trainee.score(bank, stage.init, rollouts)
        ratio_BT = rollouts.logprob_BT - logprobs(
            reference, rollouts, temperature=trainee.job.settings.temperature
        )
        coefficient = trainee.memory.get("kl_coefficient", stage.kl_coefficient)
        kl = _mean(ratio_BT, rollouts)
        reward_BT = reward_BT - coefficient * ratio_BT
        metrics |= {"reference_kl": kl, "kl_coefficient": coefficient}
        kl_of = {
            name: {"reference_kl": _mean(ratio_BT[span], rollouts.rows(span))}
            for name, span in batch.spans.items()
        }
        if stage.kl_target is not None:
            trainee.memory["kl_coefficient"] = adapted(coefficient, kl, stage.kl_target)
    advantage_BT, return_BT = advantages_over_time(
        reward_BT, value_BT, rollouts.trained_BT, discount=stage.discount, gae_lambda=stage.gae_lambda
    )
    metrics |= {
        "explained_variance": explained_variance(value_BT, return_BT, rollouts.trained_BT),
        "return": _mean(return_BT, rollouts),
    }
    advantage_BT = whitened(advantage_BT, rollouts.trained_BT) * reward_weight(batch, stage)[:, None]

    def loss_of(part: Batch, row_M: Tensor) -> LossOf:
        return _with_value(
            trainee, stage, part.rollouts, advantage_BT[row_M], value_BT[row_M], return_BT[row_M]
        )

    return Signal(
        advantage_BT=advantage_BT,
        kept_U=torch.ones(len(batch.items), dtype=torch.bool, device=policy.device),
        loss_of=loss_of,
        of_states=True,
        metrics=metrics,
        by_domain=kl_of,
    )


def at_the_end(reward_B: Tensor, trained_BT: Tensor) -> Tensor:
    """reward_BT: each row's reward at its last trained token, 0 elsewhere."""
    last_BT = trained_BT & (trained_BT.flip(1).cumsum(1).flip(1) == 1)
    return reward_B[:, None] * last_BT


def _mean(x_BT: Tensor, rollouts: Rollouts) -> float:
    return float(x_BT[rollouts.trained_BT].mean())


def _with_value(
    trainee: Trainee, stage: Rl, rollouts: Rollouts, advantage_BT: Tensor, value_BT: Tensor, return_BT: Tensor
) -> LossOf:
    """The policy's loss and the value's, of the states that both read."""
    policy, temperature = trainee.policy, trainee.job.settings.temperature
    policy_loss = surrogate(stage, rollouts, advantage_BT)
    old_M, return_M = value_BT.flatten(), return_BT.flatten()
    weight_M = token_weights(rollouts.trained_BT, stage.normalizer).flatten()

    def loss_of(hidden_ND: Tensor, index_N: Tensor) -> Loss:
        loss, metrics = policy_loss(policy.logits(hidden_ND, temperature=temperature), index_N)
        value_loss, more = clipped_value(
            scalars(policy, hidden_ND),
            old_M[index_N],
            return_M[index_N],
            weight_M[index_N],
            clip=stage.value_clip,
        )
        return loss + stage.value_coefficient * value_loss, {**metrics, **more}

    return loss_of
