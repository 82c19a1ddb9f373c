"""A batch of prompts of several domains with their rollouts and rewards.

Rows are ordered by domain, so that a domain is a slice. Leaves out: answers that the policy did not sample
(`trainer.batch.written`), what is learnt from a batch.
Axes: B rows (prompt u has rows u * group ... u * group + group - 1), T response length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mopdsim.base.errors import DivergenceError, Interrupted, MopdError
from trainer.batch.rollout import Rollouts, generate, prompt_rows, stacked, turns
from trainer.model import processes
from trainer.model.policy import Policy
from trainer.tasks import Item, Split, Task

Grader = Callable[[Task, Item, list[str]], float]


def graded_by_reward(task: Task, item: Item, said: list[str]) -> float:
    """What training learns from."""
    return task.reward(item, said)


def graded_by_score(task: Task, item: Item, said: list[str]) -> float:
    """What evaluation counts."""
    return task.grade(item, said)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Prompts, rows and rewards. `spans` maps a domain to its slice of rows."""

    items: tuple[Item, ...]
    rollouts: Rollouts
    reward_B: Tensor  # float32, on the rollouts' device
    spans: Mapping[str, slice]

    @property
    def group(self) -> int:
        return self.rollouts.group

    def domain_ids(self) -> Tensor:
        """domain_B: the place of each row's domain in `spans`."""
        return spread(self.spans, range(len(self.spans))).long()


def spread(spans: Mapping[str, slice], values: Sequence[float]) -> Tensor:
    """value_B: a value per domain, repeated over the domain's rows."""
    value_B = torch.zeros(max(span.stop for span in spans.values()))
    for span, value in zip(spans.values(), values, strict=True):
        value_B[span] = value
    return value_B


def allocate(
    shares: Mapping[str, float], count: int, *, owed: dict[str, float], cursors: dict[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """(counts, cursors before): split `count` prompts by shares, what was rounded off before first.

    Updates `owed`, what rounding left to each, and moves `cursors` on.
    """
    whole = sum(shares.values())
    exact = {name: share / whole * count + owed.get(name, 0.0) for name, share in shares.items()}
    counts = {name: max(0, math.floor(value)) for name, value in exact.items()}
    by_rest = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in by_rest[: max(0, count - sum(counts.values()))]:
        counts[name] += 1
    owed.update({name: exact[name] - counts[name] for name in shares})
    start = {name: cursors.get(name, 0) for name in shares}
    cursors.update({name: start[name] + counts[name] for name in shares})
    return counts, start


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a step asks, ordered by domain. start: the place of each domain's first prompt in its stream."""

    items: Sequence[Item]
    domains: Sequence[str]  # of each item
    start: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Prompts of each domain that may be asked, those of which there is none here too."""
        return {name: self.domains.count(name) for name in self.start}

    def __getitem__(self, part: slice) -> Prompts:
        return replace(self, items=self.items[part], domains=self.domains[part])


def draw(
    tasks: Mapping[str, Task],
    counts: Mapping[str, int],
    cursors: Mapping[str, int],
    *,
    split: Split,
    seed: int,
) -> list[Item]:
    """The next `counts` items of each domain's stream, ordered by domain."""
    return [
        item
        for name, count in counts.items()
        if count
        for item in tasks[name].stream(split, cursors[name], count, seed=seed)
    ]


def sample(
    policy: Policy,
    tasks: Mapping[str, Task],
    items: Sequence[Item],
    *,
    domains: Sequence[str],
    rollouts_per_prompt: int,
    temperature: float,
    seed: int,
    grader: Grader = graded_by_reward,
    forbidden_F: Tensor | None = None,
) -> Batch:
    """Sample, and grade what follows each turn's thoughts; several processes answer some of the prompts each, and all
    have all answers.

    `domains` names each item's domain (a key of `tasks`), in the order of the items; the ids `forbidden_F` are never
    drawn.
    Raises MopdError with the prompt and completion when a verifier fails, DivergenceError on a non-finite reward.
    """
    own = processes.share_of(len(items))
    found = (
        _answered(
            policy,
            tasks,
            items[own],
            domains[own],
            used=[tasks[name] for name in dict.fromkeys(domains)],
            place=(own.start, len(items)),
            rollouts_per_prompt=rollouts_per_prompt,
            temperature=temperature,
            seed=seed,
            grader=grader,
            forbidden_F=forbidden_F,
        )
        if own.stop > own.start
        else None
    )
    if processes.count() > 1:
        parts = [part for part in processes.gathered(found and (found[0].on("cpu"), found[1])) if part]
        whole = stacked([part[0] for part in parts], policy.pad_id, group=rollouts_per_prompt)
        found = whole.on(policy.device), [reward for part in parts for reward in part[1]]
    assert found is not None
    return Batch(
        items=tuple(items),
        rollouts=found[0],
        reward_B=torch.tensor(found[1], dtype=torch.float32, device=policy.device),
        spans=spans_of(domains, rollouts_per_prompt),
    )


def _answered(
    policy: Policy,
    tasks: Mapping[str, Task],
    items: Sequence[Item],
    domains: Sequence[str],
    *,
    used: Sequence[Task],
    rollouts_per_prompt: int,
    grader: Grader,
    **options: Any,
) -> tuple[Rollouts, list[float]]:
    """Answers to some of a batch's prompts, and their rewards. used: the tasks of the whole batch."""

    def observe(row: int, said: list[str]) -> list[int] | None:
        place = row // rollouts_per_prompt
        answers = [policy.chat.answer(turn) for turn in said]
        with _shown(tasks[domains[place]], items[place], answers):
            reply = tasks[domains[place]].observe(items[place], answers)
        return None if reply is None else policy.chat.observation(reply)

    rollouts = generate(
        policy,
        policy.chat.prompts([item.prompt for item in items]),
        rollouts_per_prompt=rollouts_per_prompt,
        max_new_tokens=max(task.max_new_tokens for task in used),
        max_turns=max(task.max_turns for task in used),
        observe=observe,
        **options,
    )
    said = [[policy.chat.answer(turn) for turn in row] for row in turns(policy, rollouts)]
    return rollouts, [
        _graded(grader, tasks[domains[b // rollouts_per_prompt]], items[b // rollouts_per_prompt], said[b])
        for b in range(len(said))
    ]


def part_of(batch: Batch, row_M: Tensor, *, group: int) -> Batch:
    """Some rows of a batch, ordered by domain, `group` of them to a prompt."""
    spans, first = {}, 0
    for name, span in batch.spans.items():
        if count := int(((row_M >= span.start) & (row_M < span.stop)).sum()):
            spans[name] = slice(first, first + count)
            first += count
    return Batch(
        items=tuple(batch.items[row // batch.group] for row in row_M[::group].tolist()),
        rollouts=replace(batch.rollouts.rows(row_M), group=group),
        reward_B=batch.reward_B[row_M],
        spans=spans,
    )


def select(batch: Batch, kept_B: Tensor) -> Batch:
    """The kept rows, each as a prompt of its own."""
    return part_of(batch, kept_B.nonzero().squeeze(1), group=1)


def passing(batch: Batch, passed_B: Tensor) -> Batch:
    """The prompts with a row that passed; of their other rows nothing is present, and nothing is trained."""
    passed_UG = passed_B.view(-1, batch.group)
    row_M = passed_UG.any(1).repeat_interleave(batch.group).nonzero().squeeze(1)
    part, passed_M1 = part_of(batch, row_M, group=batch.group), passed_B[row_M, None]
    rollouts = replace(
        part.rollouts,
        present_BT=part.rollouts.present_BT & passed_M1,
        trained_BT=part.rollouts.trained_BT & passed_M1,
    )
    return replace(part, rollouts=rollouts)


def join(policy: Policy, parts: Sequence[Batch]) -> Batch:
    """One-domain batches of groups of one size, one after the other."""
    group = parts[0].group
    items = [item for part in parts for item in part.items]
    domains = [domain for part in parts for domain in part.spans for _ in part.items]
    rollouts = stacked([part.rollouts for part in parts], policy.pad_id, group=group)
    reward_B = torch.cat([part.reward_B for part in parts])
    return Batch(items=tuple(items), rollouts=rollouts, reward_B=reward_B, spans=spans_of(domains, group))


def with_prompts_of(rollouts: Rollouts, reader: Policy, items: Sequence[Item]) -> Rollouts:
    """The same responses to prompts rendered by another model's chat template."""
    prompts = reader.chat.prompts([item.prompt for item in items])
    return Rollouts(**{**vars(rollouts), **prompt_rows(prompts, reader, rollouts.group)})


def rows_for(reader: Policy, writer: Policy, batch: Batch, row_M: Tensor) -> Rollouts:
    """Some rows, their prompts in the reader's chat template where that is not the writer's."""
    part = batch.rollouts.rows(row_M)
    if reader.tokenizer.chat_template == writer.tokenizer.chat_template:
        return part
    return with_prompts_of(
        part, reader, [batch.items[row // batch.group] for row in row_M[:: part.group].tolist()]
    )


def spans_of(domains: Sequence[str], group: int) -> dict[str, slice]:
    """The rows of each domain, given each item's domain; its items must be consecutive."""
    spans: dict[str, slice] = {}
    for name in dict.fromkeys(domains):
        places = [place for place, domain in enumerate(domains) if domain == name]
        if places[-1] - places[0] + 1 != len(places):
            raise ValueError(f"items of {name!r} are not consecutive")
        spans[name] = slice(places[0] * group, (places[-1] + 1) * group)
    return spans


def _graded(grader: Grader, task: Task, item: Item, said: list[str]) -> float:
    with _shown(task, item, said):
        reward = float(grader(task, item, said))
    if not math.isfinite(reward):
        raise DivergenceError(
            f"the verifier of {task.spec!r} gave reward {reward} for {item.prompt!r} -> {said!r}"
        )
    return reward


@contextmanager
def _shown(task: Task, item: Item, said: Sequence[str]) -> Iterator[None]:
    """A task's own exception, with what it failed on."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        raise MopdError(
            f"the verifier of {task.spec!r} failed with {type(error).__name__}: {error}; "
            f"prompt {item.prompt!r}, completion {list(said)!r}"
        ) from error


def minibatches(batch: Batch, kept_U: Tensor, count: int) -> list[tuple[Batch, Tensor]]:
    """The kept prompts in `count` parts, each ordered by domain, with their row_M; empty parts are left out."""
    prompt_U = kept_U.nonzero().squeeze(1)
    parts = []
    for number in range(count):
        chosen = prompt_U[number::count]
        if not len(chosen):
            continue
        row_M = (chosen[:, None] * batch.group + torch.arange(batch.group, device=chosen.device)).flatten()
        parts.append((part_of(batch, row_M, group=batch.group), row_M))
    return parts
