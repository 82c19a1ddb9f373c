"""A scalar head on a policy's states: the value function of PPO, and the score of a reward model.

The head is a submodule of the policy's model, one linear map called `value_head`, so that the optimiser, checkpoints
and saved weights carry it: a reward model on disk is a Hugging Face directory with two more tensors. It starts at
zero, and is worked out in float32 whatever the policy computes in. Leaves out: what it is trained on
(`trainer.stages.reward_model`, `trainer.stages.rl`).

Axes: B rows, T response length, N positions, D hidden width.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from mopdsim.base.errors import UsageError
from trainer.batch.rollout import Rollouts
from trainer.batch.update import hidden_states
from trainer.model.loading import load_policy
from trainer.model.policy import Policy

HEAD = "value_head"


def add_head(policy: Policy) -> None:
    """Give the policy's model a head of zeros."""
    width = cast(Tensor, policy.head.weight).shape[1]
    head = nn.Linear(width, 1, device=policy.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    policy.model.add_module(HEAD, head)


def drop_head(policy: Policy) -> None:
    """Make the policy's model a plain language model again."""
    delattr(policy.model, HEAD)


def head_of(policy: Policy) -> nn.Linear:
    return cast(nn.Linear, policy.model.get_submodule(HEAD))


def scalars(policy: Policy, hidden_ND: Tensor) -> Tensor:
    """(..., D) to (...): the head's numbers, float32, differentiable."""
    head = head_of(policy)
    return F.linear(hidden_ND.float(), head.weight, head.bias).squeeze(-1)


@torch.no_grad()
def values(policy: Policy, rollouts: Rollouts, *, micro_batch_rows: int | None = None) -> Tensor:
    """value_BT: the head at the state each trained token was drawn from; 0 elsewhere."""
    value_BT = scalars(policy, hidden_states(policy, rollouts, micro_batch_rows=micro_batch_rows))
    return value_BT.masked_fill(~rollouts.trained_BT, 0.0)


@torch.no_grad()
def scores(policy: Policy, rollouts: Rollouts, *, micro_batch_rows: int | None = None) -> Tensor:
    """score_B: the head at the state that has read the whole response, observations included."""
    ends = endings(rollouts)
    hidden_BTD = hidden_states(policy, ends, micro_batch_rows=micro_batch_rows)
    return scalars(policy, hidden_BTD[ends.trained_BT])


def endings(rollouts: Rollouts) -> Rollouts:
    """The same rows, one place longer; only the place after the last present token is marked as trained."""
    length_B1 = rollouts.present_BT.sum(1, keepdim=True)
    place_L = torch.arange(rollouts.response_BT.shape[1] + 1, device=length_B1.device)

    def longer(x_BT: Tensor) -> Tensor:
        return F.pad(x_BT, (0, 1))

    return replace(
        rollouts,
        response_BT=longer(rollouts.response_BT),
        present_BT=longer(rollouts.present_BT),
        trained_BT=place_L == length_B1,
        logprob_BT=longer(rollouts.logprob_BT),
    )


def load_reward_model(source: Path, **options: Any) -> Policy:
    """A policy with its scalar head; options: of `load_policy`. UsageError where the weights have none."""
    from transformers.utils import logging

    tensors = _head_tensors(source)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the head is no part of the architecture and would be reported as unexpected
    try:
        policy = load_policy(source, **options)
    finally:
        logging.set_verbosity(verbosity)
    add_head(policy)
    head_of(policy).load_state_dict(tensors)
    return policy


def _head_tensors(source: Path) -> dict[str, Tensor]:
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                if name.startswith(f"{HEAD}."):
                    tensors[name.removeprefix(f"{HEAD}.")] = file.get_tensor(name)
    if set(tensors) != {"weight", "bias"}:
        raise UsageError(
            f"{source}: no reward model, its weights have no {HEAD!r}: give the output of a reward_model stage"
        )
    return tensors
