"""`program`: write a tiny program that turns one text into another; any program that does so is right.

The prompt reads `p:abcd>dcb`, input and target. A program is a sequence of at most MOST_STEPS letters, run from
left to right by `run`:

    R  reverse                      abc -> cba
    L  rotate left by one           abc -> bca
    D  drop the first character     abc -> bc
    C  copy the first character     abc -> aabc

Length counts the steps of the program that made the target. Demonstrations give the shortest program, the
first in the order RLDC.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import product
from typing import Final

from trainer.tasks.tiny.text import Skill, distinct_letters, text_family

OPERATIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "R": lambda text: text[::-1],
    "L": lambda text: text[1:] + text[:1],
    "D": lambda text: text[1:],
    "C": lambda text: text[:1] + text,
}
MOST_STEPS: Final = 4
INPUT_LENGTH: Final = 4


def run(program: str, text: str) -> str | None:
    """What `program` makes of `text`; None for an unknown operation."""
    for step in program:
        if step not in OPERATIONS:
            return None
        text = OPERATIONS[step](text)
    return text


def draw_problem(rng: random.Random, steps: int) -> str:
    """`input>target` where `steps` operations lead from one to the other; they differ and neither is empty."""
    start = distinct_letters(rng, INPUT_LENGTH)
    while True:
        program = "".join(rng.choices(list(OPERATIONS), k=steps))
        target = run(program, start)
        if target and target != start:
            return f"{start}>{target}"


def shortest_program(content: str) -> str:
    for steps in range(1, MOST_STEPS + 1):
        for program in map("".join, product(OPERATIONS, repeat=steps)):
            if does(content, program):
                return program
    raise ValueError(f"no program of {MOST_STEPS} steps for {content!r}")


def does(content: str, response: str) -> bool:
    """Does the program `response` turn the input into the target within MOST_STEPS steps?"""
    start, target = content.split(">")
    return len(response) <= MOST_STEPS and run(response, start) == target


PROGRAM = Skill(
    marker="p",
    draw=draw_problem,
    solve=shortest_program,
    check=does,
    symbols="".join(OPERATIONS),
    length=(1, 1),
    lengths=(1, MOST_STEPS),
    corruption=0.35,
)
FAMILIES = {"program": text_family(PROGRAM)}
