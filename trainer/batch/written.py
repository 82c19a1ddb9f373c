"""Batches of answers that somebody else wrote: the domains' demonstrators, or a dataset.

Leaves out: which answers (`trainer.batch.dataset`), training on them (`trainer.stages.sft`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from trainer.batch.batch import Batch, spans_of
from trainer.batch.rollout import Rollouts, left_pad
from trainer.model.policy import Policy
from trainer.tasks import Item, Task


def demonstrated(
    policy: Policy, tasks: Mapping[str, Task], items: Sequence[Item], *, domains: Sequence[str], seed: int
) -> Batch:
    """The domains' demonstrators in the policy's place: their turns are what is trained."""
    said = demonstrations(tasks, items, domains=domains, seed=seed)
    return replayed(policy, tasks, items, said, domains=domains, truncated=[False] * len(items))


def demonstrations(
    tasks: Mapping[str, Task], items: Sequence[Item], *, domains: Sequence[str], seed: int
) -> list[tuple[str, ...]]:
    """The turns that each item's demonstrator gives."""
    return [
        tasks[name].demonstrate(item, random.Random(f"{seed}/{place}"))
        for place, (item, name) in enumerate(zip(items, domains, strict=True))
    ]


def replayed(
    policy: Policy,
    tasks: Mapping[str, Task],
    items: Sequence[Item],
    said: Sequence[Sequence[str]],
    *,
    domains: Sequence[str],
    truncated: Sequence[bool],
) -> Batch:
    """Given turns in the policy's place, observations between them: the turns are what is trained.

    truncated: answers whose last turn was cut off, so that no end-of-sequence belongs behind it.
    """
    ids = iter(policy.chat.turns([text for turns in said for text in turns]))
    tokens: list[list[int]] = []
    trained: list[list[bool]] = []
    for item, name, turns_of_item, cut in zip(items, domains, said, truncated, strict=True):
        row: list[int] = []
        mask: list[bool] = []
        for turn in range(1, len(turns_of_item) + 1):
            more = turn < len(turns_of_item)
            own = next(ids)[: -1 if cut and not more else None]
            row, mask = row + own, mask + [True] * len(own)
            reply = tasks[name].observe(item, turns_of_item[:turn]) if more else None
            if reply is not None:
                observed = policy.chat.observation(reply)
                row, mask = row + observed, mask + [False] * len(observed)
        tokens.append(row)
        trained.append(mask)
    return Batch(
        items=tuple(items),
        rollouts=_written(policy, policy.chat.prompts([item.prompt for item in items]), tokens, trained),
        reward_B=torch.ones(len(items), device=policy.device),
        spans=spans_of(domains, 1),
    )


def _written(
    policy: Policy, prompts: list[list[int]], tokens: list[list[int]], trained: list[list[bool]]
) -> Rollouts:
    """Rollouts that somebody else wrote (no behaviour log-probs)."""
    prompt_BP, mask_BP = left_pad(prompts, policy)
    width = max(map(len, tokens))
    response_BT = torch.tensor(
        [row + [policy.pad_id] * (width - len(row)) for row in tokens], device=policy.device
    )
    trained_BT = torch.tensor([row + [False] * (width - len(row)) for row in trained], device=policy.device)
    length_B = torch.tensor([len(row) for row in tokens], device=policy.device)
    return Rollouts(
        prompt_BP=prompt_BP,
        prompt_mask_BP=mask_BP,
        response_BT=response_BT,
        present_BT=torch.arange(width, device=policy.device) < length_B[:, None],
        trained_BT=trained_BT,
        logprob_BT=torch.zeros_like(response_BT, dtype=torch.float32),
        truncated_B=torch.zeros(len(tokens), dtype=torch.bool, device=policy.device),
        group=1,
    )
