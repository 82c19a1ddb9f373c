"""Close what is open: `brackets` with one kind, `brackets_two` with two kinds that must nest.

The content is the beginning of a balanced text with one to five brackets still open; right is the shortest
completion, `(()(` -> `))`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Final

from trainer.tasks.tiny.text import Skill, text_family

CLOSING: Final = {"(": ")", "[": "]"}
MOST_OPEN: Final = 5
_OPEN_PROBABILITY: Final = 0.6


def still_open(text: str) -> str | None:
    """The brackets that `text` leaves open, outermost first; None where a bracket closes what is not open."""
    stack: list[str] = []
    for symbol in text:
        if symbol in CLOSING:
            stack.append(symbol)
        elif not stack or CLOSING[stack.pop()] != symbol:
            return None
    return "".join(stack)


def close(content: str) -> str:
    """The shortest completion that balances `content`."""
    return "".join(CLOSING[symbol] for symbol in reversed(still_open(content) or ""))


def balances(content: str, response: str) -> bool:
    """Does `response` balance `content` without opening anything new?"""
    return set(response) <= set(CLOSING.values()) and still_open(content + response) == ""


def _draw(kinds: str, rng: random.Random, length: int) -> str:
    while True:
        text, stack = "", ""
        for _ in range(length):
            if not stack or rng.random() < _OPEN_PROBABILITY:
                stack += rng.choice(kinds)
                text += stack[-1]
            else:
                text += CLOSING[stack[-1]]
                stack = stack[:-1]
        if 1 <= len(stack) <= MOST_OPEN:
            return text


BRACKETS = Skill(
    marker="k",
    draw=partial(_draw, "("),
    solve=close,
    check=balances,
    symbols=")",
    length=(7, 14),
    lengths=(1, 20),
    longest=partial(min, MOST_OPEN),
)
BRACKETS_TWO = replace(
    BRACKETS, marker="K", draw=partial(_draw, "(["), symbols=")]", length=(4, 8), corruption=0.4
)
FAMILIES = {"brackets": text_family(BRACKETS), "brackets_two": text_family(BRACKETS_TWO)}
