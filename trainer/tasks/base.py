"""What a task is: prompts, an imperfect demonstrator, and a verifier that computes the truth.

A `Task` is a small frozen value made from a spec (`trainer.tasks.spec`). Its items are text; tokenizing and
chat templates belong to the trainer. Randomness never leaks between uses: item i of a stream depends only on
(domain name, split, seed, i), so a resumed run continues from a number, and dials that do not change the
prompts (corruption, environment seconds, rewards) leave the items as they are.

Leaves out: any knowledge of models, tokens or rollouts.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from mopdsim.base.errors import UsageError

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
ALPHABET: Final = "".join(map(chr, range(0x20, 0x7F))) + "\n"
"""Every character that a tiny domain or the tiny tokenizer knows: printable ASCII and the newline."""

_SHARES: Final = {"train": 0.7, "validation": 0.1, "test": 0.2}
_PATIENCE: Final = 2_000  # draws in a row that bring nothing new before a prompt space counts as spent


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One prompt.

    domain  the task's spec
    prompt  the user's text, before any chat template
    answer  one right answer; the domain may accept others
    data    what the verifier needs besides the prompt
    """

    domain: str
    prompt: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


def uniform(*key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: the same in every process and Python version."""
    digest = hashlib.blake2b("\x1f".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(text: str) -> Split:
    """The split that owns `text`: 70% train, 10% validation, 20% test, decided by a hash."""
    place = uniform("split", text)
    edge = 0.0
    for split in SPLITS[:-1]:
        edge += _SHARES[split]
        if place < edge:
            return split
    return SPLITS[-1]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One domain. Subclasses are frozen values: cheap, picklable, equal when their dials are equal.

    environment_seconds  declared verifier or environment time per rollout turn, on the simulated clock only
    max_new_tokens       per assistant turn, the end-of-sequence token included
    max_turns            assistant turns in an episode; 1 means no environment replies
    corruption           probability that `demonstrate` gives a wrong demonstration
    reward_scale         factor of the training reward (`reward`); scores (`grade`) are never scaled
    reward_noise         probability that the training verifier's verdict on a response is reversed
    """

    spec: str
    environment_seconds: float
    max_new_tokens: int
    max_turns: int = 1
    corruption: float = 0.0
    reward_scale: float = 1.0
    reward_noise: float = 0.0

    @property
    def name(self) -> str:
        """The spec without its dials."""
        return self.spec.partition("?")[0]

    @property
    def fingerprint(self) -> str:
        """What decides items and rewards besides this code, for cache keys. A file's task adds its hash."""
        return self.spec

    @abstractmethod
    def stream(self, split: Split, start: int, count: int, *, seed: int) -> list[Item]:
        """Items start .. start + count of the endless stream of (split, seed); random access by index."""

    @abstractmethod
    def fixed(self, split: Split, count: int) -> list[Item]:
        """`count` items with distinct prompts for evaluation: always the same, the first of any larger count.

        Raises UsageError where the split has fewer.
        """

    @abstractmethod
    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        """The assistant turns of a demonstrator that is wrong with probability `corruption`."""

    @abstractmethod
    def grade(self, item: Item, turns: Sequence[str]) -> float:
        """The score in [0, 1] of an episode's assistant turns. A verifier's exception propagates."""

    def observe(self, item: Item, turns: Sequence[str]) -> str | None:
        """The environment's reply after the assistant turns so far; None when the episode is over."""
        return None

    def reward(self, item: Item, turns: Sequence[str]) -> float:
        """The training reward: `grade`, reversed for a `reward_noise` share of responses, then scaled.

        A response to a prompt always gets the same verdict: noise is a verifier's error, not a coin's.
        """
        score = self.grade(item, turns)
        if self.reward_noise and uniform("noise", self.name, item.prompt, *turns) < self.reward_noise:
            score = 1.0 - score
        return self.reward_scale * score

    def wrong_answer(self, item: Item, propose: Callable[[], str]) -> str:
        """The first proposed response that falls short of full marks; UsageError if none does."""
        for _ in range(_PATIENCE):
            response = propose()
            if self.grade(item, (response,)) < 1.0:
                return response
        raise UsageError(
            f"domain {self.spec!r}: corruption={self.corruption} finds no wrong answer; set it to 0"
        )

    def too_few(self, split: str, count: int, found: int) -> UsageError:
        """The error of `fixed` where `split` holds only `found` of the `count` distinct prompts asked for."""
        return UsageError(
            f"domain {self.spec!r}: {count} distinct {split} prompts asked for, {found} exist; "
            "ask for fewer or enlarge the domain"
        )


@dataclass(frozen=True, kw_only=True)
class Procedural(Task):
    """A task whose prompts are drawn at random without end, and split by a hash of their content."""

    @abstractmethod
    def draw(self, rng: random.Random) -> Any:
        """The content of one prompt: what decides the answer, without the domain's marker."""

    @abstractmethod
    def build(self, content: Any, rng: random.Random) -> Item:
        """The item that asks about `content`."""

    def split_text(self, content: Any) -> str:
        """The text whose hash decides the split of `content`."""
        return str(content)

    def stream(self, split: Split, start: int, count: int, *, seed: int) -> list[Item]:
        return [self._item(split, f"{seed}", index) for index in range(start, start + count)]

    def fixed(self, split: Split, count: int) -> list[Item]:
        found: dict[str, Item] = {}
        index = last_news = 0
        while len(found) < count:
            item = self._item(split, "fixed", index)
            index += 1
            if item.prompt not in found:
                found[item.prompt] = item
                last_news = index
            elif index - last_news > _PATIENCE:
                raise self.too_few(split, count, len(found))
        return list(found.values())

    def _item(self, split: Split, seed: str, index: int) -> Item:
        rng = random.Random(f"{self.name}|{split}|{seed}|{index}")
        for _ in range(_PATIENCE):
            content = self.draw(rng)
            if split_of(self.split_text(content)) == split:
                return self.build(content, rng)
        raise self.too_few(split, 1, 0)
