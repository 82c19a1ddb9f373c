"""Short questions in plain English with exact answers, for models that read English: `ask:KIND?dial=value`.

    ask:smallest?count=3   What is the smallest of these numbers: 45, 12, 78?   12
    ask:swap               Swap these two words: green table                    table green

Kinds and their dials stand in `trainer.tasks.ask.questions`. Ambiguity: a kind that has a rival words its question so
that the two cannot be told apart with probability `ambiguity`, as the tiny domains do (`trainer.tasks.tiny.text`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mopdsim.base.errors import NotFoundError, did_you_mean
from trainer.tasks.ask.questions import QUESTIONS, Content, Question
from trainer.tasks.base import Item, Procedural
from trainer.tasks.spec import Options, shared_dials

SCHEME: Final = "ask"
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

    def bayes_score(self) -> float:
        """1 - ambiguity / 2: the best average over this domain and its rival in equal shares."""
        return 1.0 - self.ambiguity / 2.0


def ask_task(options: Options) -> AskTask:
    """The task of an `ask:` spec. NotFoundError for an unknown kind, UsageError for a bad dial."""
    kind = options.argument
    if kind not in QUESTIONS:
        raise NotFoundError(f"ask has no question {kind!r}{did_you_mean(kind, QUESTIONS)}")
    question = QUESTIONS[kind]
    dials = tuple(
        (name, options.whole(name, default, least=least, most=most))
        for name, (default, least, most) in question.dials.items()
    )
    ambiguity = 0.0 if question.bare is None else options.number("ambiguity", 0.0, most=1.0)
    return AskTask(
        kind=kind,
        dials=dials,
        ambiguity=ambiguity,
        **shared_dials(options, corruption=0.0, max_new_tokens=question.tokens),
    )
