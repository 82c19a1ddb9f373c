"""Batches of answers that somebody else wrote: the domains' demonstrators, or a dataset.

Leaves out: which answers (`trainer.batch.dataset`), training on them (`trainer.stages.sft`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from trainer.batch.batch import Batch, spans_of
from trainer.batch.rollout import Row, collected
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
    rows = []
    for item, name, turns_of_item, cut in zip(items, domains, said, truncated, strict=True):
        row = Row()
        for turn in range(1, len(turns_of_item) + 1):
            more = turn < len(turns_of_item)
            row.add(next(ids)[: -1 if cut and not more else None], trained=True)
            reply = tasks[name].observe(item, turns_of_item[:turn]) if more else None
            if reply is not None:
                row.add(policy.chat.observation(reply), trained=False)
        rows.append(row)
    return Batch(
        items=tuple(items),
        rollouts=collected(policy, policy.chat.prompts([item.prompt for item in items]), 1, rows),
        reward_B=torch.ones(len(items), device=policy.device),
        spans=spans_of(domains, 1),
    )
