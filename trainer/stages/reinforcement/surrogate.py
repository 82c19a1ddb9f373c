"""What GRPO and PPO have in common: a batch's signal, the clipped policy gradient, log-probs of the reference.

Leaves out: where advantages come from (`trainer.stages.reinforcement.grpo`, `trainer.stages.reinforcement.ppo`), the
steps on them (`trainer.stages.reinforcement.rl`).

Axes: U prompts, B rows, T response tokens, N positions (flat index b * T + t), M rows of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mopdsim.recipes.recipe import Rl
from trainer.batch.bank import Bank
from trainer.batch.batch import Batch, spread
from trainer.batch.rollout import Rollouts
from trainer.batch.update import LossOf
from trainer.losses.losses import Loss, policy_gradient, token_logprob, token_weights
from trainer.stages.loop import Trainee


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
    reference: Callable[[Tensor], Tensor] | None = None,
) -> LossOf:
    """The clipped policy gradient. reference: a model's log-prob of the tokens at index_N, for a KL in the loss."""
    token_M, behaviour_M = rollouts.response_BT.flatten(), rollouts.logprob_BT.flatten()
    weight_M = token_weights(rollouts.trained_BT, stage.normalizer).flatten()
    advantage_M = advantage_BT.flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        logprob_N, entropy_N = token_logprob(logits_NV, token_M[index_N])
        loss, metrics = policy_gradient(
            logprob_N,
            behaviour_M[index_N],
            advantage_M[index_N],
            weight_M[index_N],
            clip_low=stage.clip_low,
            clip_high=stage.clip_high,
            reference_logprob_N=None if reference is None else reference(index_N),
            kl_coefficient=0.0 if reference is None else stage.kl_coefficient,
        )
        return loss, {**metrics, "entropy_sum": entropy_N.sum()}

    return loss_of


def reference_logprobs(
    trainee: Trainee, bank: Bank, name: str, rollouts: Rollouts
) -> Callable[[Tensor], Tensor]:
    """index_N -> logprob_N at the sampling temperature; logits are rebuilt for the positions that are asked for."""
    settings, meter = trainee.job.settings, trainee.meter
    token_M = rollouts.response_BT.flatten()
    with meter.phase("scoring", trainee.policy.device):
        scored = bank.score(name, rollouts, micro_batch_rows=settings.micro_batch_rows)
    meter.count("scoring", trainee.policy, rollouts)

    @torch.no_grad()
    def logprobs(index_N: Tensor) -> Tensor:
        logits_NV = scored.logits(scored.hidden_MD[index_N]) / settings.temperature
        return token_logprob(logits_NV, token_M[index_N])[0]

    return logprobs
