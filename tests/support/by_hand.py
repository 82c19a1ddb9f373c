"""REINFORCE worked out row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from small_world import (
    Step,
    logprobs_of,
    written_rows,
)
from torch import Tensor

GROUP = 4


def reinforce(
    model: Any,
    step: Step,
    advantages: Sequence[float],
    *,
    normalizer: str = "token",
    temperature: float = 1.0,
) -> Tensor:
    """- sum_b A_b sum_t log p(y_t), over the trained tokens (or, per row, their number, over the rows)."""
    rows = written_rows(step.batch)
    tokens = sum(sum(trained) for *_, trained in rows)
    total = torch.zeros((), dtype=torch.float64)
    for (_, prompt, response, trained), advantage in zip(rows, advantages, strict=True):
        logprob_TV = logprobs_of(model, prompt, response, temperature)
        logprob_T = logprob_TV.gather(1, torch.tensor(response)[:, None])[:, 0][torch.tensor(trained)]
        share = 1 / tokens if normalizer == "token" else 1 / (len(rows) * sum(trained))
        total = total - advantage * share * logprob_T.sum()
    return total


def centred(step: Step) -> list[list[float]]:
    """The rewards of each group less their mean."""
    reward_GR = step.batch.reward_B.view(-1, GROUP).double()
    return (reward_GR - reward_GR.mean(1, keepdim=True)).tolist()


def by_group(step: Step) -> list[float]:
    scaled = [
        [x / max(math.sqrt(sum(y * y for y in row) / GROUP), 1e-12) for x in row] for row in centred(step)
    ]
    return [x for row in scaled for x in row]
