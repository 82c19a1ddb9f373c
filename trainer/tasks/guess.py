"""`guess`: find a hidden letter in a few turns; the environment says where it lies.

The prompt lists letters in order (`g:bcfhjkl`), one of them hidden. Each assistant turn guesses one; the
reply is `+` (the hidden letter comes later) or `-` (earlier). The episode ends when the guess is right, is
not a single character, or was the last of `turns`. Prompts say nothing about the hidden letter: with n
letters and t turns no policy finds it with probability above min(1, (2^t - 1) / n), which halving reaches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final

from trainer.tasks.base import Item, Options, Procedural, shared_dials

LATER: Final = "+"
EARLIER: Final = "-"


@dataclass(frozen=True, kw_only=True)
class GuessTask(Procedural):
    """Guessing among `length` letters in `max_turns` turns."""

    length: tuple[int, int]

    def draw(self, rng: random.Random) -> str:
        return "".join(sorted(rng.sample(ascii_lowercase, rng.randint(*self.length))))

    def build(self, content: str, rng: random.Random) -> Item:
        hidden = rng.choice(content)
        return Item(domain=self.spec, prompt=f"g:{content}", answer=hidden, data={"letters": content})

    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        """Halving, cut short when turns run out; corrupted, a wrong guess at random in every turn."""
        letters: str = item.data["letters"]
        if rng.random() < self.corruption:
            wrong = letters.replace(item.answer, "")
            return tuple(rng.choice(wrong) for _ in range(self.max_turns))
        turns: list[str] = []
        reply: str | None = ""
        while reply is not None:
            if turns:
                found = letters.index(turns[-1])
                letters = letters[found + 1 :] if reply == LATER else letters[:found]
            turns.append(letters[(len(letters) - 1) // 2])
            reply = self.observe(item, turns)
        return tuple(turns)

    def grade(self, item: Item, turns: Sequence[str]) -> float:
        return float(len(turns) <= self.max_turns and turns[-1] == item.answer)

    def observe(self, item: Item, turns: Sequence[str]) -> str | None:
        guess = turns[-1]
        if guess == item.answer or len(guess) != 1 or len(turns) >= self.max_turns:
            return None
        return LATER if guess < item.answer else EARLIER


def guess_task(options: Options) -> GuessTask:
    """The task of a `guess` spec. UsageError for a bad dial."""
    length = options.span("length", (4, 5))
    turns = options.whole("turns", 3)
    dials = shared_dials(options, corruption=0.4, max_new_tokens=2)
    return GuessTask(length=length, max_turns=turns, **dials)
