"""Single-turn tiny domains: a text goes in, one short text is right.

A `Skill` says how content is drawn, solved and checked; `TextTask` adds the prompt's marker, the slips of the
demonstrator and the ambiguity dial. A prompt reads `marker:content`, for example `s:dbca`.

Habit: with this probability the demonstrator makes its skill's one mistake, always the same for the same content. Above
a half, a model that learnt from it makes that mistake greedily, and has to unlearn it.

Ambiguity: two rival skills draw content from one distribution. A prompt shows its domain's marker with
probability 1 - ambiguity and `?` otherwise, where nothing tells the rivals apart. No response is right for
both, so over the two domains in equal shares the best score of any policy is 1 - ambiguity / 2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from trainer.tasks.base import Factory, Item, Options, Procedural, shared_dials

LETTERS: Final = "abcdefghijkl"
UNMARKED: Final = "?"


def distinct_letters(rng: random.Random, length: int) -> str:
    """`length` different letters in random order."""
    return "".join(rng.sample(LETTERS, length))


def undone(inverse: Callable[[str], str], content: str, response: str) -> bool:
    """Does the inverse of a skill lead from `response` back to `content`?"""
    return inverse(response) == content


def without_last(answer: str) -> str:
    """It stops one character too early."""
    return answer[:-1]


def first_two_exchanged(answer: str) -> str:
    """Of an answer whose first two characters differ."""
    return answer[1] + answer[0] + answer[2:]


def last_two_exchanged(answer: str) -> str:
    """Of an answer whose last two characters differ."""
    return answer[:-2] + answer[-1] + answer[-2]


@dataclass(frozen=True, kw_only=True)
class Skill:
    """What a text domain asks. Functions are module-level, so that tasks pickle.

    draw     (rng, length) -> content
    solve    content -> one right answer
    check    (content, response) -> is it right? Judges the response itself rather than comparing with `solve`
    symbols  characters of answers, from which slips are made
    length   default range of content lengths, in the skill's own unit
    longest  length -> characters of its longest answer
    mistake  right answer -> the wrong one that a demonstrator with a habit gives
    """

    marker: str
    draw: Callable[[random.Random, int], str] = distinct_letters
    solve: Callable[[str], str]
    check: Callable[[str, str], bool]
    symbols: str = LETTERS
    length: tuple[int, int] = (4, 6)
    longest: Callable[[int], int] = int
    mistake: Callable[[str], str] = without_last
    corruption: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TextTask(Procedural):
    """A skill at a difficulty. See the module for `ambiguity` and `habit`. The spec's name decides the skill."""

    skill: Skill = field(compare=False, repr=False)
    length: tuple[int, int]
    ambiguity: float
    habit: float = 0.0

    def draw(self, rng: random.Random) -> str:
        return self.skill.draw(rng, rng.randint(*self.length))

    def build(self, content: str, rng: random.Random) -> Item:
        marker = self.skill.marker if rng.random() >= self.ambiguity else UNMARKED
        prompt = f"{marker}:{content}"
        answer = self.skill.solve(content)
        return Item(domain=self.spec, prompt=prompt, answer=answer, data={"content": content})

    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        if self.habit and rng.random() < self.habit:
            return (self.skill.mistake(item.answer),)
        if rng.random() >= self.corruption:
            return (item.answer,)
        longest = self.skill.longest(self.length[1])
        return (self.wrong_answer(item, lambda: slip(item.answer, self.skill.symbols, longest, rng)),)

    def grade(self, item: Item, turns: Sequence[str]) -> float:
        (response,) = turns
        return float(self.skill.check(item.data["content"], response))


def text_family(skill: Skill) -> Factory:
    """The factory of a skill's domain."""
    return partial(_text_task, skill)


def _text_task(skill: Skill, options: Options) -> TextTask:
    length = options.span("length", skill.length)
    ambiguity = options.number("ambiguity", 0.0) if options.has("ambiguity") else 0.0
    habit = options.number("habit", 0.0)
    tokens = skill.longest(length[1]) + 1
    dials = shared_dials(options, corruption=skill.corruption, max_new_tokens=tokens)
    return TextTask(skill=skill, length=length, ambiguity=ambiguity, habit=habit, **dials)


def slip(answer: str, symbols: str, longest: int, rng: random.Random) -> str:
    """`answer` with one edit: a character replaced, left out, put in or exchanged with its neighbour."""
    place = rng.randrange(len(answer))
    edits = ["replace"]
    if len(answer) > 1:
        edits += ["omit", "exchange"]
    if len(answer) < longest:
        edits.append("insert")
    match rng.choice(edits):
        case "replace":
            return answer[:place] + rng.choice(symbols) + answer[place + 1 :]
        case "omit":
            return answer[:place] + answer[place + 1 :]
        case "insert":
            return answer[:place] + rng.choice(symbols) + answer[place:]
        case _:
            place = min(place, len(answer) - 2)
            return answer[:place] + answer[place + 1] + answer[place] + answer[place + 2 :]
