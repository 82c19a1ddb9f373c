"""Short questions in plain English with exact answers, for models that read English: `ask:KIND?dial=value`.

    ask:smallest?count=3   What is the smallest of these numbers: 45, 12, 78?   12
    ask:swap               Swap these two words: green table                    table green

A `Question` is pure functions of its content, a tuple of words or of numbers as text, and of its dials (whole numbers
such as `count`). Some come in pairs of rivals, which want opposite answers to the same content. Ambiguity: a kind that
has a rival words its question so that the two cannot be told apart with probability `ambiguity`, as the tiny domains do
(`trainer.tasks.tiny`).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mopdsim.base.errors import NotFoundError, did_you_mean
from trainer.tasks.base import Item, Options, Procedural, shared_dials

SCHEME: Final = "ask"
Content = tuple[str, ...]
Dials = Mapping[str, int]

_NOUNS: Final = """
    actor airport album alarm anchor angel animal ankle apple arrow artist author badge baker ball banana band bank
    banner barn barrel basin basket bean bear beard bed bell belt bird blanket block boat bone book boot border
    bottle bowl boy bracelet bread brick bridge broom brother bucket builder bullet button cabin cable cage cake
    camel camera camp canal candle captain car card carpet carrot cart castle cat cave ceiling cellar chain chair
    chapter chart cheek chef chicken circle clerk clock cloud clown coal coast coat coin collar comb
    cookie corner cottage cotton cousin cow crab cradle crater cream creek crop crowd crown cup curtain cushion dancer
    daughter desert desk diamond diner doctor dog doll dollar donkey door dragon drawer dream driver drum duck
    eagle ear editor egg elbow engine envelope eye factor farm farmer father feather fence field finger flag flame
    floor flower flute forest fork fossil fountain friend frog fruit garden gate ghost giant gift girl glove goat
    grape guest guitar hair hall hammer hand harbor hat hawk heart helmet hill hook horn horse hospital hotel hour
    house hunter insect island jacket jar jewel judge jungle kettle key king kitchen kite kitten ladder lake lamp
    lawyer leader legend lemon letter lion lizard lock lord machine magnet map market mask meadow meal medal
    melon minute mirror monkey month moon mother motor mountain muffin museum nail napkin neck needle nest net
    nickel night notebook nurse oak ocean office olive onion orange orchard organ oven owl owner package page painter
    palace pan panda panel paper parent parrot pearl pen pencil pepper piano picture pigeon pillow pilot pin
    pipe pirate planet plate pocket poem poet pond pool potter prince printer pumpkin puppet puzzle queen question
    rabbit radio raft ranger rat razor ribbon rider ring river road robot rocket roof room rope rose ruler sailor
    salad sandal school scooter screen seal seat secret seed shadow sheet shell ship shirt shoe shop
    shoulder shovel signal singer sister skirt slipper snail snake soldier song soup spider spoon squirrel stable
    stair stamp star station stone store storm stove stream street student summer sweater swing sword table
    tailor teacher temple tent theater thread throat throne thumb ticket tiger tile timer toad toe tomb tool towel tower
    town toy tractor trail train tree truck trumpet tunnel turtle uncle valley vase vest village violin wagon waiter
    wall wallet walnut weapon well whale wheel whistle wing winter wizard worker wrist writer yard zebra
    badger blossom canyon carpenter chimney cricket dolphin eyebrow falcon gallon hamster hornet
"""
NOUNS: Final = tuple(_NOUNS.split())
"""Common English nouns, each with a plural in plain s."""
WORDS: Final = (*NOUNS, *(f"{noun}s" for noun in NOUNS))
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LEAST_WORDS: Final = 5  # of an answer that counts as a sentence


def equal(answer: str, response: str) -> bool:
    """Is the response the answer, character by character?"""
    return response == answer


def in_a_sentence(answer: str, response: str) -> bool:
    """Has the response LEAST_WORDS words or more, and is its last number the answer?"""
    numbers = re.findall(r"\d+", response)
    return len(response.split()) >= LEAST_WORDS and bool(numbers) and numbers[-1] == answer


@dataclass(frozen=True, kw_only=True)
class Question:
    """One kind of question.

    draw    (rng, dials) -> content
    word    content -> the question
    solve   content -> the right answer
    check   (answer, response) -> is it right? The response comes without outer white space
    bare    content -> the question as its rival asks it too; None where it has no rival
    dials   name -> default; ranges stand in the table of domains
    say     how a demonstrator words the answer
    tokens  most new tokens, the end of sequence included
    """

    draw: Callable[[random.Random, Dials], Content]
    word: Callable[[Content], str]
    solve: Callable[[Content], str]
    check: Callable[[str, str], bool] = equal
    bare: Callable[[Content], str] | None = None
    dials: Mapping[str, int] = field(default_factory=dict)
    say: str = "{}"
    tokens: int = 12


def _numbers(rng: random.Random, digits: int, count: int) -> Content:
    """Different numbers of so many digits."""
    return tuple(map(str, rng.sample(range(10 ** (digits - 1), 10**digits), count)))


def _words(rng: random.Random, count: int) -> Content:
    """Different words."""
    return tuple(rng.sample(WORDS, count))


def _multiples(rng: random.Random, most: int) -> Content:
    """Two numbers whose greatest common divisor is as likely to be any from 2 to `most`: no constant answer pays."""
    divisor, left, right = rng.randint(2, most), 0, 0
    while math.gcd(left, right) != 1 or left == right:
        left, right = rng.randint(1, 9), rng.randint(1, 9)
    return str(divisor * left), str(divisor * right)


def _unequal(rng: random.Random) -> Content:
    """Two words of different lengths."""
    while True:
        left, right = _words(rng, 2)
        if len(left) != len(right):
            return left, right


def _reckon(function: Callable[[int, int], int], content: Content) -> str:
    left, right = map(int, content)
    return str(function(left, right))


def _later(day: str, days: str) -> str:
    return DAYS[(DAYS.index(day) + int(days)) % len(DAYS)]


_COUNT: Final = {"count": 3}
_DIGITS: Final = {"digits": 2}

_SMALLEST = Question(
    draw=lambda rng, dials: _numbers(rng, dials["digits"], dials["count"]),
    word=lambda content: f"What is the smallest of these numbers: {', '.join(content)}?",
    bare=lambda content: f"Choose one of these numbers: {', '.join(content)}.",
    solve=lambda content: min(content, key=int),
    dials={**_COUNT, **_DIGITS},
)
_LARGER = Question(
    draw=lambda rng, dials: _numbers(rng, dials["digits"], 2),
    word=lambda content: f"Which number is larger: {content[0]} or {content[1]}?",
    bare=lambda content: f"Choose a number: {content[0]} or {content[1]}.",
    solve=lambda content: max(content, key=int),
    dials=_DIGITS,
)
_SUM = Question(
    draw=lambda rng, dials: _numbers(rng, dials["digits"], 2),
    word=lambda content: f"What is {content[0]} plus {content[1]}?",
    solve=lambda content: _reckon(lambda left, right: left + right, content),
    dials=_DIGITS,
)
_AFTER = Question(
    draw=lambda rng, dials: _numbers(rng, dials["digits"], 1),
    word=lambda content: f"What number comes after {content[0]}?",
    solve=lambda content: str(int(content[0]) + 1),
    dials={"digits": 4},
)
_FIRST_LETTER = Question(
    draw=lambda rng, dials: _words(rng, dials["count"]),
    word=lambda content: f"What is the first letter of: {', '.join(content)}?",
    solve=lambda content: " ".join(word[0] for word in content),
    dials={"count": 1},
)
_CAPITALS = Question(
    draw=lambda rng, dials: _words(rng, dials["count"]),
    word=lambda content: f"Write in capital letters: {' '.join(content)}",
    bare=lambda content: f"Write again: {' '.join(content)}",
    solve=lambda content: " ".join(content).upper(),
    dials={"count": 2},
    tokens=24,
)
_SHORT = Question(
    draw=_LARGER.draw,
    word=lambda content: f"{_LARGER.word(content)} Answer with the number alone.",
    bare=_LARGER.word,
    solve=_LARGER.solve,
    dials=_DIGITS,
    tokens=32,
)

QUESTIONS: Final[Mapping[str, Question]] = {
    "smallest": _SMALLEST,
    "largest": replace(
        _SMALLEST,
        word=lambda content: f"What is the largest of these numbers: {', '.join(content)}?",
        solve=lambda content: max(content, key=int),
    ),
    "larger": _LARGER,
    "smaller": replace(
        _LARGER,
        word=lambda content: f"Which number is smaller: {content[0]} or {content[1]}?",
        solve=lambda content: min(content, key=int),
    ),
    "gcd": Question(
        draw=lambda rng, dials: _multiples(rng, dials["most"]),
        word=lambda content: f"What is the greatest common divisor of {content[0]} and {content[1]}?",
        solve=lambda content: _reckon(math.gcd, content),
        dials={"most": 9},
    ),
    "sum": _SUM,
    "difference": replace(
        _SUM,
        word=lambda content: f"What is the difference between {content[0]} and {content[1]}?",
        solve=lambda content: _reckon(lambda left, right: abs(left - right), content),
    ),
    "after": _AFTER,
    "before": replace(
        _AFTER,
        word=lambda content: f"What number comes before {content[0]}?",
        solve=lambda content: str(int(content[0]) - 1),
    ),
    "day": Question(
        draw=lambda rng, dials: (rng.choice(DAYS), str(rng.randint(2, dials["days"]))),
        word=lambda content: f"Today is {content[0]}. Which day is it in {content[1]} days?",
        solve=lambda content: _later(*content),
        dials={"days": 99},
    ),
    "swap": Question(
        draw=lambda rng, dials: _words(rng, 2),
        word=lambda content: f"Swap these two words: {' '.join(content)}",
        solve=lambda content: " ".join(content[::-1]),
        tokens=16,
    ),
    "backwards": Question(
        draw=lambda rng, dials: _words(rng, dials["count"]),
        word=lambda content: f"Write these words in reverse order: {' '.join(content)}",
        solve=lambda content: " ".join(content[::-1]),
        dials={"count": 3},
        tokens=32,
    ),
    "nth": Question(
        draw=lambda rng, dials: (rng.choice(PLACES[: dials["count"]]), *_words(rng, dials["count"])),
        word=lambda content: f"What is the {content[0]} word of this list: {', '.join(content[1:])}?",
        solve=lambda content: content[1 + PLACES.index(content[0])],
        dials={"count": 4},
    ),
    "first_letter": _FIRST_LETTER,
    "last_letter": replace(
        _FIRST_LETTER,
        draw=lambda rng, dials: tuple(rng.sample(NOUNS, dials["count"])),  # a plural would give it away
        word=lambda content: f"What is the last letter of: {', '.join(content)}?",
        solve=lambda content: " ".join(word[-1] for word in content),
        dials={"count": 2},
    ),
    "capitals": _CAPITALS,
    "small_letters": replace(
        _CAPITALS,
        word=lambda content: f"Write in small letters: {' '.join(content)}",
        solve=lambda content: " ".join(content),
    ),
    "longer": Question(
        draw=lambda rng, dials: _unequal(rng),
        word=lambda content: f"Which word is longer: {content[0]} or {content[1]}?",
        solve=lambda content: max(content, key=len),
    ),
    "letters": Question(
        draw=lambda rng, dials: _words(rng, 1),
        word=lambda content: f"How many letters are in the word {content[0]}?",
        solve=lambda content: str(len(content[0])),
    ),
    "short": _SHORT,
    "explained": replace(
        _SHORT,
        word=lambda content: f"{_LARGER.word(content)} Answer in a sentence.",
        check=in_a_sentence,
        say="The larger number is {}.",
    ),
}

FORM: Final = tuple(
    f"{SCHEME}:{kind}" for kind in QUESTIONS if kind not in ("short", "explained", "small_letters")
)
"""Domains whose demonstrations teach a model the form of short answers: the start of a real model."""


@dataclass(frozen=True, kw_only=True)
class AskTask(Procedural):
    """One kind of question at a difficulty. dials: name and value of each of the kind's own."""

    kind: str
    dials: tuple[tuple[str, int], ...]
    ambiguity: float

    @property
    def question(self) -> Question:
        """What the kind asks."""
        return QUESTIONS[self.kind]

    def draw(self, rng: random.Random) -> Content:
        return self.question.draw(rng, dict(self.dials))

    def split_text(self, content: Content) -> str:
        """The same in whatever order: a question with its words exchanged is no news to who was trained on it."""
        return " ".join(sorted(content))

    def build(self, content: Content, rng: random.Random) -> Item:
        question, told = self.question, rng.random() >= self.ambiguity
        word = question.word if told or question.bare is None else question.bare
        return Item(
            domain=self.spec, prompt=word(content), answer=question.solve(content), data={"content": content}
        )

    def demonstrate(self, item: Item, rng: random.Random) -> tuple[str, ...]:
        """The answer; when corrupted, that to another question."""
        question = self.question
        if rng.random() >= self.corruption:
            return (question.say.format(item.answer),)
        return (self.wrong_answer(item, lambda: question.say.format(question.solve(self.draw(rng)))),)

    def grade(self, item: Item, turns: Sequence[str]) -> float:
        (response,) = turns
        return float(self.question.check(item.answer, response.strip()))


def ask_task(options: Options) -> AskTask:
    """The task of an `ask:` spec. NotFoundError for an unknown kind, UsageError for a bad dial."""
    kind = options.argument
    if kind not in QUESTIONS:
        raise NotFoundError(f"ask has no question {kind!r}{did_you_mean(kind, QUESTIONS)}")
    question = QUESTIONS[kind]
    dials = tuple((name, options.whole(name, default)) for name, default in question.dials.items())
    ambiguity = 0.0 if question.bare is None else options.number("ambiguity", 0.0)
    return AskTask(
        kind=kind,
        dials=dials,
        ambiguity=ambiguity,
        **shared_dials(options, corruption=0.0, max_new_tokens=question.tokens),
    )
