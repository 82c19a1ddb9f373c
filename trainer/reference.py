"""Log-probs of sampled tokens under the model that a policy is held to.

Axes: B rows, T response tokens, N positions (flat index b * T + t).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.bank import Bank
from trainer.loop import Trainee
from trainer.losses import token_logprob
from trainer.rollout import Rollouts


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
