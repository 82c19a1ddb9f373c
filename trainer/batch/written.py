"""Batches of answers that somebody else wrote: the domains' demonstrators, or a dataset that rejection sampling kept.

    data/  samples.jsonl   a line per answer: domain, prompt, turns, score, index, truncated
           about.json      how many were kept of each domain that was sampled

index: the prompt's place in its domain's training stream, from which its item is drawn again, so that a verifier or
an environment has all it needs. Leaves out: what is kept (`trainer.stages.rejection`), training on it
(`trainer.stages.sft`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mopdsim.base.errors import MopdError
from trainer.batch.batch import Batch, spans_of
from trainer.batch.rollout import Row, collected
from trainer.files.atomic import atomic_directory, write_json
from trainer.model.policy import Policy
from trainer.tasks import Item, Task

SAMPLES, ABOUT = "samples.jsonl", "about.json"


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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer. turns: the assistant's, without special tokens. truncated: the last one was cut off."""

    domain: str
    prompt: str
    turns: tuple[str, ...]
    score: float
    index: int
    truncated: bool

    def line(self) -> str:
        return json.dumps(asdict(self), allow_nan=False) + "\n"

    def item(self, task: Task, *, seed: int) -> Item:
        """The item that was answered. MopdError where the domain's stream no longer holds it."""
        (item,) = task.stream("train", self.index, 1, seed=seed)
        if item.prompt != self.prompt:
            raise MopdError(
                f"domain {self.domain!r}: training prompt {self.index} is {item.prompt!r}, but the data holds an "
                f"answer to {self.prompt!r}: the domain has changed since; sample again into another --store"
            )
        return item


def write(directory: Path, parts: Sequence[Path], domains: Iterable[str]) -> None:
    """The dataset of some files of lines, complete or not at all. domains: all that were sampled."""
    kept = dict.fromkeys(domains, 0)
    with atomic_directory(directory) as partial:
        with (partial / SAMPLES).open("w", encoding="utf-8") as file:
            for part in parts:
                with part.open(encoding="utf-8") as lines:
                    for line in lines:
                        kept[json.loads(line)["domain"]] += 1
                        file.write(line)
        write_json(partial / ABOUT, {"domains": kept})


class Kept:
    """The samples of some datasets by domain. Each epoch reads all of a domain's in an order of its own."""

    def __init__(self, directories: Iterable[Path], *, seed: Callable[..., int]) -> None:
        self.samples: dict[str, list[Sample]] = {}
        for directory in directories:
            for domain in json.loads((directory / ABOUT).read_text())["domains"]:
                self.samples.setdefault(domain, [])
            with (directory / SAMPLES).open(encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    self.samples[row["domain"]].append(Sample(**{**row, "turns": tuple(row["turns"])}))
        self._seed = seed
        self._order: dict[str, tuple[int, list[int]]] = {}  # the epoch read last, by domain

    def take(self, domain: str, start: int, count: int) -> list[Sample]:
        """Samples start .. start + count of the domain's endless sequence of epochs."""
        own = self.samples[domain]
        found = []
        for place in range(start, start + count):
            epoch, position = divmod(place, len(own))
            if self._order.get(domain, (-1, []))[0] != epoch:
                order = random.Random(self._seed("data", domain, epoch)).sample(range(len(own)), len(own))
                self._order[domain] = (epoch, order)
            found.append(own[self._order[domain][1][position]])
        return found
