"""GRPO (2402.03300): the baseline of an answer is the mean of its prompt's other answers. With the choices of DAPO.

Leaves out: sampling, judging and stepping (`trainer.stages.reinforcement.rl`).

Axes: U prompts, B rows, T response tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mopdsim.recipes.recipe import Rl
from trainer.batch.bank import Bank
from trainer.batch.batch import Batch
from trainer.batch.update import LossOf
from trainer.losses.losses import group_advantages
from trainer.stages.loop import Trainee
from trainer.stages.reinforcement.surrogate import Signal, reference_logprobs, reward_weight, surrogate


def signal(trainee: Trainee, stage: Rl, bank: Bank | None, batch: Batch) -> Signal:
    """Group advantages of the judged rewards; the KL is a term of the loss."""
    advantage_B, zero_signal_U = group_advantages(
        batch.reward_B,
        batch.group,
        stage.advantage_scale,
        batch.domain_ids().to(batch.reward_B.device),
    )
    advantage_B = advantage_B * reward_weight(batch, stage)
    advantage_BT = advantage_B[:, None].expand(batch.rollouts.response_BT.shape)

    def loss_of(part: Batch, row_M: Tensor) -> LossOf:
        reference = None
        if bank is not None:
            reference = reference_logprobs(trainee, bank, stage.init, part.rollouts)
        return surrogate(stage, part.rollouts, advantage_BT[row_M], reference=reference)

    by_domain = {
        name: {"zero_signal": float(zero_signal_U[prompts].float().mean())}
        for name, span in batch.spans.items()
        for prompts in [slice(span.start // batch.group, span.stop // batch.group)]
    }
    return Signal(
        advantage_BT=advantage_BT,
        kept_U=~zero_signal_U if stage.zero_signal == "drop" else torch.ones_like(zero_signal_U),
        loss_of=loss_of,
        metrics={"zero_signal": float(zero_signal_U.float().mean())},
        by_domain=by_domain,
    )
