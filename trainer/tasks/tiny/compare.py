"""`compare`: which of two numbers is larger? One character answers: <, = or > (each for a third)."""

from __future__ import annotations

import random
from functools import partial

from trainer.tasks.tiny.text import Skill, text_family


def draw_numbers(rng: random.Random, digits: int) -> str:
    """Two numbers of `digits` digits, `left,right`; less, equal and greater are equally likely."""
    numbers = range(10 ** (digits - 1), 10**digits)
    low, high = sorted(rng.sample(numbers, 2))
    left, right = rng.choice([(low, high), (low, low), (high, low)])
    return f"{left},{right}"


def compare(content: str) -> str:
    left, right = map(int, content.split(","))
    return "<" if left < right else ">" if left > right else "="


def is_relation(content: str, response: str) -> bool:
    return response == compare(content)


def _other_way(relation: str) -> str:
    """The larger for the smaller; of equal ones the first is called larger."""
    return "<" if relation == ">" else ">"


COMPARE = Skill(
    marker="c",
    draw=draw_numbers,
    solve=compare,
    check=is_relation,
    symbols="<=>",
    length=(2, 2),
    lengths=(1, 6),
    longest=partial(min, 1),
    mistake=_other_way,
    corruption=0.4,
)
FAMILIES = {"compare": text_family(COMPARE)}
