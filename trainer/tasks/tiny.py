"""Single-turn tiny domains: a text goes in, one short text is right.

A `Skill` says how content is drawn, solved and checked; `TextTask` adds the prompt's marker, the slips of the
demonstrator and the ambiguity dial. A prompt reads `marker:content`, for example `s:dbca`.

Habit: with this probability the demonstrator makes its skill's one mistake, always the same for the same content. Above
a half, a model that learnt from it makes that mistake greedily, and has to unlearn it.

Ambiguity: two rival skills draw content from one distribution. A prompt shows its domain's marker with
probability 1 - ambiguity and `?` otherwise, where nothing tells the rivals apart. No response is right for
both, so over the two domains in equal shares the best score of any policy is 1 - ambiguity / 2.

sort, sort_down       ascending, descending: with different letters no response is right in both
sort_long             `sort` on more letters, with its marker: learning either should help the other
reverse, rotate       abcd -> dcba, its rival abcd -> bcda
shift, shift_back     each letter one up the ring of letters (a -> b), its rival one down
swap                  neighbours exchanged in pairs: abcde -> badce
sort_then_shift, reverse_then_shift
                      the prompt shows both markers in order of use (`sh:dbca` -> `bcde`), so that a model that
                      learned the parts has what it takes. They are meant to be scored only: neither demonstrated
                      nor trained
brackets, brackets_two
                      the beginning of a balanced text of one kind, or of two that must nest, with one to five
                      brackets still open; right is the shortest completion, `(()(` -> `))`
rle_decode, rle_encode, dedup
                      texts of runs of equal letters: a3b2 -> aaabb, aaabb -> a3b2, aabccc -> abc; length counts runs
program               `p:abcd>dcb`, input and target: any program of at most MOST_STEPS letters that leads there is
                      right; length counts the steps of the program that made the target
compare               which of two numbers is larger? One character answers: <, = or > (each for a third)

Leaves out: several turns (`trainer.tasks.guess`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, pairwise, product
from operator import mul
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


_UP: Final = str.maketrans(LETTERS, LETTERS[1:] + LETTERS[0])
_DOWN: Final = str.maketrans(LETTERS[1:] + LETTERS[0], LETTERS)


def ascending(content: str, response: str) -> bool:
    """Is `response` the letters of `content` in ascending order?"""
    return Counter(response) == Counter(content) and all(left <= right for left, right in pairwise(response))


def descending(content: str, response: str) -> bool:
    """Is `response` the letters of `content` in descending order?"""
    return ascending(content, response[::-1])


def sort_up(content: str) -> str:
    return "".join(sorted(content))


def sort_down(content: str) -> str:
    return "".join(sorted(content, reverse=True))


def reverse(content: str) -> str:
    return content[::-1]


def rotate(content: str) -> str:
    """The first letter moves to the end."""
    return content[1:] + content[0]


def rotate_back(content: str) -> str:
    return content[-1:] + content[:-1]


def shift(content: str) -> str:
    return content.translate(_UP)


def shift_back(content: str) -> str:
    return content.translate(_DOWN)


def swap(content: str) -> str:
    """Exchange the letters of each pair; an odd last letter stays."""
    return re.sub(r"(.)(.)", r"\2\1", content)


def _solve(first: Skill, content: str) -> str:
    return SHIFT.solve(first.solve(content))


def _check(first: Skill, content: str, response: str) -> bool:
    return first.check(content, shift_back(response))


def _then_shift(first: Skill) -> Skill:
    return Skill(
        marker=first.marker + SHIFT.marker,
        solve=partial(_solve, first),
        check=partial(_check, first),
        length=first.length,
    )


SORT = Skill(marker="s", solve=sort_up, check=ascending, mistake=first_two_exchanged)
# With three different letters or more, no response is right for both `reverse` and `rotate`.
REVERSE = Skill(
    marker="r",
    solve=reverse,
    check=partial(undone, reverse),
    mistake=last_two_exchanged,
)
ROTATE = Skill(marker="o", solve=rotate, check=partial(undone, rotate_back))
SHIFT = Skill(marker="h", solve=shift, check=partial(undone, shift_back))
SWAP = Skill(marker="w", solve=swap, check=partial(undone, swap))


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


def _draw_brackets(kinds: str, rng: random.Random, length: int) -> str:
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
    draw=partial(_draw_brackets, "("),
    solve=close,
    check=balances,
    symbols=")",
    length=(7, 14),
    longest=partial(min, MOST_OPEN),
)
BRACKETS_TWO = replace(
    BRACKETS, marker="K", draw=partial(_draw_brackets, "(["), symbols=")]", length=(4, 8), corruption=0.4
)


MOST_REPEATS: Final = 3


def encode(content: str) -> str:
    return "".join(f"{letter}{len(list(run))}" for letter, run in groupby(content))


def decode(content: str) -> str:
    return "".join(letter * int(count) for letter, count in re.findall(r"(\D)(\d)", content))


def encodes(content: str, response: str) -> bool:
    """Is `response` the shortest code of `content`, so that neighbouring letters differ?"""
    well_formed = re.fullmatch(r"(?:([a-z])[1-9](?!\1))+", response) is not None
    return well_formed and decode(response) == content


def dedup(content: str) -> str:
    return "".join(letter for letter, _ in groupby(content))


def is_dedup(content: str, response: str) -> bool:
    """Is `content` the letters of `response`, each repeated, and has `response` no equal neighbours?"""
    repeated = "".join(f"{re.escape(letter)}+" for letter in response)
    return re.fullmatch(repeated, content) is not None and re.search(r"(.)\1", response) is None


def draw_runs(rng: random.Random, runs: int) -> str:
    """A text of `runs` runs of one to MOST_REPEATS equal letters, neighbouring runs different."""
    text = ""
    for _ in range(runs):
        letter = rng.choice([letter for letter in LETTERS if letter != text[-1:]])
        text += letter * rng.randint(1, MOST_REPEATS)
    return text


def draw_code(rng: random.Random, runs: int) -> str:
    return encode(draw_runs(rng, runs))


RLE_DECODE = Skill(
    marker="x",
    draw=draw_code,
    solve=decode,
    check=partial(undone, encode),
    length=(2, 3),
    longest=partial(mul, MOST_REPEATS),
)
RLE_ENCODE = Skill(
    marker="e",
    draw=draw_runs,
    solve=encode,
    check=encodes,
    symbols=LETTERS + "123",
    length=(2, 3),
    longest=partial(mul, 2),
    corruption=0.4,
)
DEDUP = Skill(marker="u", draw=draw_runs, solve=dedup, check=is_dedup, length=(2, 4), corruption=0.4)


OPERATIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "R": lambda text: text[::-1],  # reverse: abc -> cba
    "L": lambda text: text[1:] + text[:1],  # rotate left by one: abc -> bca
    "D": lambda text: text[1:],  # drop the first character: abc -> bc
    "C": lambda text: text[:1] + text,  # copy the first character: abc -> aabc
}
MOST_STEPS: Final = 4
INPUT_LENGTH: Final = 4


def run_program(program: str, text: str) -> str | None:
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
        target = run_program(program, start)
        if target and target != start:
            return f"{start}>{target}"


def shortest_program(content: str) -> str:
    """The first in the order RLDC."""
    for steps in range(1, MOST_STEPS + 1):
        for program in map("".join, product(OPERATIONS, repeat=steps)):
            if does(content, program):
                return program
    raise ValueError(f"no program of {MOST_STEPS} steps for {content!r}")


def does(content: str, response: str) -> bool:
    """Does the program `response` turn the input into the target within MOST_STEPS steps?"""
    start, target = content.split(">")
    return len(response) <= MOST_STEPS and run_program(response, start) == target


PROGRAM = Skill(
    marker="p",
    draw=draw_problem,
    solve=shortest_program,
    check=does,
    symbols="".join(OPERATIONS),
    length=(1, 1),
    corruption=0.35,
)


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
    longest=partial(min, 1),
    mistake=_other_way,
    corruption=0.4,
)
SKILLS = {
    "sort": SORT,
    "sort_down": replace(SORT, marker="d", solve=sort_down, check=descending, mistake=last_two_exchanged),
    "sort_long": replace(SORT, length=(7, 9)),
    "reverse": REVERSE,
    "rotate": ROTATE,
    "shift": SHIFT,
    "shift_back": replace(SHIFT, marker="b", solve=shift_back, check=partial(undone, shift)),
    "swap": SWAP,
    "sort_then_shift": _then_shift(SORT),
    "reverse_then_shift": _then_shift(REVERSE),
    "brackets": BRACKETS,
    "brackets_two": BRACKETS_TWO,
    "rle_decode": RLE_DECODE,
    "rle_encode": RLE_ENCODE,
    "dedup": DEDUP,
    "program": PROGRAM,
    "compare": COMPARE,
}
FAMILIES: Mapping[str, Factory] = {name: partial(_text_task, skill) for name, skill in SKILLS.items()}
