"""What a task is: prompts, an imperfect demonstrator, and a verifier that computes the truth; and how it is written.

A `Task` is a small frozen value made from a spec. Its items are text; tokenizing and chat templates belong to the
trainer. Randomness never leaks between uses: item i of a stream depends only on
(domain name, split, seed, i), so a resumed run continues from a number, and dials that do not change the
prompts (corruption, environment seconds, rewards) leave the items as they are.

    spec = NAME ["?" key "=" value {"&" key "=" value}]
    NAME = a tiny domain | "ask:" question | "reasoning_gym:" family | "jsonl:" path

A family's factory asks an `Options` for each dial it knows; `close` then refuses every key nobody asked for.
The ranges of dials that a forecast reads too stand in the table of domains (`mopdsim.facts.domains`).
Leaves out: which names exist (`trainer.tasks`), any knowledge of models, tokens or rollouts.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from mopdsim.base.errors import UsageError, did_you_mean
from mopdsim.facts.domains import dials_of

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

    max_new_tokens       per assistant turn, the end-of-sequence token included
    max_turns            assistant turns in an episode; 1 means no environment replies
    corruption           probability that `demonstrate` gives a wrong demonstration
    reward_scale         factor of the training reward (`reward`); scores (`grade`) are never scaled
    reward_noise         probability that the training verifier's verdict on a response is reversed
    """

    spec: str
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


class Options:
    """The dials of one spec, read by name. A bad value is a UsageError naming key, value and rule."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.name, _, rest = spec.partition("?")
        self.scheme, _, self.argument = self.name.partition(":")
        self._ends = dials_of(self.name)
        self._values: dict[str, str] = {}
        self._known: set[str] = set()
        if not self.name:
            raise UsageError(f"task spec {spec!r} has no name; write NAME or NAME?key=value&key=value")
        for part in rest.split("&") if rest else []:
            key, equals, value = part.partition("=")
            if not (key and equals and value):
                raise UsageError(
                    f"task spec {spec!r}: {part!r} is not key=value; write NAME?key=value&key=..."
                )
            if key in self._values:
                raise UsageError(f"task spec {spec!r}: {key} is given twice; keep one")
            self._values[key] = value

    @property
    def given(self) -> dict[str, str]:
        """The keys not yet read, with their texts."""
        return {key: value for key, value in self._values.items() if key not in self._known}

    def has(self, key: str) -> bool:
        """Whether the domains' table gives this task such a dial."""
        return key in self._ends

    def error(self, key: str, rule: str) -> UsageError:
        """The UsageError that says what `key` must be."""
        return UsageError(f"task spec {self.spec!r}: {key}={self._values.get(key)} must be {rule}")

    def number(self, key: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """A finite number in [least, most], or within what the domains' table says of this dial."""
        least, most = self._ends.get(key, (least, most))
        text = self._read(key)
        if text is None:
            return default
        rule = "a number" + (f" from {least:g}" * (least > -math.inf)) + (f" to {most:g}" * (most < math.inf))
        try:
            value = float(text)
        except ValueError:
            raise self.error(key, rule) from None
        if not (least <= value <= most and math.isfinite(value)):
            raise self.error(key, rule)
        return value

    def whole(self, key: str, default: int, *, least: float = 0, most: float = 0) -> int:
        """A whole number in [least, most], or within what the domains' table says of this dial."""
        least, most = self._ends.get(key, (least, most))
        text = self._read(key)
        if text is None:
            return default
        if not (re.fullmatch(r"-?[0-9]{1,18}", text) and least <= int(text) <= most):
            raise self.error(key, f"a whole number from {least} to {most}")
        return int(text)

    def span(self, key: str, default: tuple[int, int]) -> tuple[int, int]:
        """A range `low-high` of whole numbers, or one number, within what the domains' table says of this dial."""
        least, most = self._ends[key]
        text = self._read(key)
        if text is None:
            return default
        example = f"{key}={default[0]}-{default[1]}"
        rule = f"a whole number or a range low-high within {least}-{most}, such as {example}"
        parts = text.split("-")
        if len(parts) > 2 or not all(re.fullmatch("[0-9]{1,18}", part) for part in parts):
            raise self.error(key, rule)
        low, high = int(parts[0]), int(parts[-1])
        if not least <= low <= high <= most:
            raise self.error(key, rule)
        return low, high

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of `choices`."""
        text = self._read(key)
        if text is None:
            return default
        if text not in choices:
            raise self.error(key, f"one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return text

    def text(self, key: str, default: str) -> str:
        """Any text."""
        text = self._read(key)
        return default if text is None else text

    def close(self, *, also: Iterable[str] = ()) -> None:
        """Refuse the keys that nobody read; `also` names further keys that exist, for the hint."""
        for key in self.given:
            known = self._known.union(also)
            hint = did_you_mean(key, known)
            raise UsageError(f"task spec {self.spec!r}: {key} is not a dial of {self.name}{hint}")

    def _read(self, key: str) -> str | None:
        self._known.add(key)
        return self._values.get(key)


Factory = Callable[[Options], Task]


def shared_dials(options: Options, *, corruption: float, max_new_tokens: int) -> dict[str, Any]:
    """The fields that every Task has, read from the spec with a family's defaults."""
    return {
        "spec": options.spec,
        "max_new_tokens": options.whole("max_new_tokens", max_new_tokens),
        "corruption": options.number("corruption", corruption),
        "reward_scale": options.number("reward_scale", 1.0),
        "reward_noise": options.number("reward_noise", 0.0),
    }
