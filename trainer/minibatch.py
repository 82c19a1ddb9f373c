"""Some prompts of a batch, with all their rows. Leaves out: batches themselves (`trainer.batch`).

Axes: U prompts, B rows, M rows of a part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.batch import Batch


def minibatches(batch: Batch, kept_U: Tensor, count: int) -> list[tuple[Batch, Tensor]]:
    """The kept prompts in `count` parts, each ordered by domain, with their row_M; empty parts are left out."""
    prompt_U = kept_U.nonzero().squeeze(1)
    parts = []
    for number in range(count):
        chosen = prompt_U[number::count]
        if not len(chosen):
            continue
        row_M = (chosen[:, None] * batch.group + torch.arange(batch.group, device=chosen.device)).flatten()
        edges = {
            name: (int((row_M < span.start).sum()), int((row_M < span.stop).sum()))
            for name, span in batch.spans.items()
        }
        part = Batch(
            items=tuple(batch.items[u] for u in chosen.tolist()),
            rollouts=batch.rollouts.rows(row_M),
            reward_B=batch.reward_B[row_M],
            spans={name: slice(a, b) for name, (a, b) in edges.items() if b > a},
        )
        parts.append((part, row_M))
    return parts
