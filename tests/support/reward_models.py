"""What tests of reward models and of PPO share: short settings, states of an answer, a random head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from small_world import (
    SETTINGS,
)
from torch import Tensor

from trainer.batch.heads import add_head, head_of
from trainer.model.policy import Policy

QUICK = SETTINGS.model_copy(update={"evaluate_every": 99, "checkpoint_every": 99, "probes": ()})


def with_random_head(of: Policy) -> Policy:
    add_head(of)
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in head_of(of).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise))
    return of


def states(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """The module's own last hidden states at the last prompt token and at every response token."""
    out = model(input_ids=torch.tensor([[*prompt, *response]]), output_hidden_states=True)
    return out.hidden_states[-1][0, len(prompt) - 1 :]
