"""The `ask` domains against answers worked out another way, and what a generated family must keep apart."""

from __future__ import annotations

import itertools
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.facts.domains import RIVALS, dials_of
from trainer.tasks import SPLITS, Item, task
from trainer.tasks.ask import FORM, PLACES, QUESTIONS, WORDS, AskTask

every_kind = pytest.mark.parametrize("kind", sorted(QUESTIONS))


def numbers(prompt: str) -> list[int]:
    return [int(text) for text in re.findall(r"\d+", prompt)]


def words(prompt: str) -> list[str]:
    """What stands behind the last colon, or after the last 'word'."""
    tail = prompt.rpartition(":")[2] or prompt
    return re.findall(r"[a-z]+", tail.replace(" or ", " "))


def divisors(number: int) -> set[int]:
    return {each for each in range(1, number + 1) if number % each == 0}


def day(prompt: str) -> str:
    """By the calendar of a real year."""
    found = re.search(r"is ([A-Z]\w+)\. .* in (\d+) days", prompt)
    assert found
    start = next(
        each for each in (date(2024, 1, n) for n in range(1, 8)) if each.strftime("%A") == found.group(1)
    )
    return (start + timedelta(days=int(found.group(2)))).strftime("%A")


def at_place(prompt: str) -> str:
    place = next(place for place, name in enumerate(PLACES) if f"the {name} word" in prompt)
    return words(prompt)[place]


INDEPENDENT: dict[str, Callable[[str], str]] = {
    "smallest": lambda prompt: str(sorted(numbers(prompt))[0]),
    "largest": lambda prompt: str(sorted(numbers(prompt))[-1]),
    "larger": lambda prompt: str(sorted(numbers(prompt))[1]),
    "smaller": lambda prompt: str(sorted(numbers(prompt))[0]),
    "gcd": lambda prompt: str(max(divisors(numbers(prompt)[0]) & divisors(numbers(prompt)[1]))),
    "sum": lambda prompt: str(sum(numbers(prompt))),
    "difference": lambda prompt: str(max(numbers(prompt)) - min(numbers(prompt))),
    "after": lambda prompt: str(numbers(prompt)[0] + 1),
    "before": lambda prompt: str(numbers(prompt)[0] - 1),
    "day": day,
    "swap": lambda prompt: " ".join(reversed(words(prompt))),
    "backwards": lambda prompt: " ".join(reversed(words(prompt))),
    "nth": at_place,
    "first_letter": lambda prompt: " ".join(word[0] for word in words(prompt)),
    "last_letter": lambda prompt: " ".join(word[-1] for word in words(prompt)),
    "capitals": lambda prompt: " ".join(words(prompt)).upper(),
    "small_letters": lambda prompt: " ".join(words(prompt)),
    "longer": lambda prompt: sorted(words(prompt), key=len)[1],
    "letters": lambda prompt: str(len(prompt.removesuffix("?").split()[-1])),
    "short": lambda prompt: str(sorted(numbers(prompt))[1]),
    "explained": lambda prompt: str(sorted(numbers(prompt))[1]),
}
"""The answer to each question, read off its text without the family's own code."""


@every_kind
def test_answers_are_right_and_demonstrators_too(kind: str) -> None:
    domain, rng = task(f"ask:{kind}"), random.Random(0)
    for item in domain.fixed("test", 60) + domain.stream("train", 0, 200, seed=1):
        assert item.answer == INDEPENDENT[kind](item.prompt), item
        (said,) = domain.demonstrate(item, rng)
        assert domain.grade(item, [f" {said}\n"]) == 1.0
        assert domain.grade(item, [""]) == domain.grade(item, [said + "0"]) == 0.0


@every_kind
def test_hard_dials_keep_the_answers_right(kind: str) -> None:
    dials = "&".join(f"{name}={dials_of(f'ask:{kind}')[name][1]}" for name in QUESTIONS[kind].dials)
    domain = task(f"ask:{kind}?{dials}" if dials else f"ask:{kind}")
    for item in domain.stream("train", 0, 50, seed=1):
        assert item.answer == INDEPENDENT[kind](item.prompt), item


@every_kind
def test_a_split_never_sees_the_content_of_another(kind: str) -> None:
    domain = task(f"ask:{kind}")

    def content(item: Item) -> tuple[str, ...]:
        return tuple(sorted(item.data["content"]))

    seen = {split: {content(item) for item in domain.stream(split, 0, 400, seed=4)} for split in SPLITS}
    for left, right in itertools.combinations(SPLITS, 2):
        assert seen[left] and not seen[left] & seen[right]


@every_kind
def test_there_are_prompts_enough_to_score(kind: str) -> None:
    domain = task(f"ask:{kind}")
    assert len({item.prompt for item in domain.fixed("test", 100)}) == 100
    assert len(domain.fixed("validation", 40)) == 40


@every_kind
def test_no_constant_reply_pays(kind: str) -> None:
    """The commonest answer earns at most .3, so that what is learnt is the question."""
    items = task(f"ask:{kind}").stream("train", 0, 1000, seed=0)
    (_, count), *_ = Counter(item.answer for item in items).most_common(1)
    assert count <= 300


@every_kind
def test_ask_tasks_are_values_with_random_access(kind: str) -> None:
    domain = task(f"ask:{kind}?corruption=0.5")
    assert pickle.loads(pickle.dumps(domain)) == domain == task(domain.spec)
    assert domain != task(f"ask:{kind}")
    assert domain.stream("train", 0, 10, seed=3)[5:] == domain.stream("train", 5, 5, seed=3)
    items = domain.stream("train", 0, 300, seed=0)
    right = [domain.grade(item, domain.demonstrate(item, random.Random(n))) for n, item in enumerate(items)]
    assert 0.4 < sum(right) / 300 < 0.6


@pytest.mark.parametrize("pair", [pair for pair in RIVALS if pair[0].startswith("ask:")])
def test_rivals_want_opposite_answers_to_questions_that_look_alike(pair: tuple[str, str]) -> None:
    left, right = (task(f"{spec}?ambiguity=1") for spec in pair)
    named = [task(spec) for spec in pair]
    assert isinstance(left, AskTask) and isinstance(right, AskTask)
    rng = random.Random(0)
    for seed in range(50):
        content = left.draw(random.Random(seed))
        assert right.draw(random.Random(seed)) == content
        one, other = (domain.build(content, rng) for domain in (left, right))
        assert one.prompt == other.prompt
        said = [domain.demonstrate(item, rng) for domain, item in ((left, one), (right, other))]
        assert left.grade(one, said[0]) == right.grade(other, said[1]) == 1.0
        assert left.grade(one, said[1]) == right.grade(other, said[0]) == 0.0
    assert named[0].fixed("test", 1)[0].prompt != named[1].fixed("test", 1)[0].prompt


def test_the_dial_is_the_share_of_questions_that_do_not_name_their_task() -> None:
    items = task("ask:smallest?ambiguity=0.3").stream("train", 0, 1500, seed=0)
    bare = sum("smallest" not in item.prompt for item in items) / len(items)
    assert abs(bare - 0.3) <= 4 * (0.3 * 0.7 / len(items)) ** 0.5


def test_an_explained_answer_is_a_sentence_that_ends_in_the_number() -> None:
    domain = task("ask:explained")
    (item,) = domain.stream("train", 0, 1, seed=0)
    other = next(number for number in map(str, numbers(item.prompt)) if number != item.answer)
    for said, score in (
        (f"Of the two, {other} is smaller than {item.answer}.", 1.0),
        (f"Of the two, {item.answer} is larger than {other}.", 0.0),
        (f"It is {item.answer}.", 0.0),
        (item.answer, 0.0),
    ):
        assert domain.grade(item, [said]) == score


def test_the_start_sees_many_forms_and_nothing_that_is_scored() -> None:
    assert len(FORM) >= 16 and len(set(FORM)) == len(FORM)
    trained = {
        tuple(sorted(item.data["content"]))
        for spec in FORM
        for item in task(spec).stream("train", 0, 300, seed=0)
    }
    scored = {tuple(sorted(item.data["content"])) for spec in FORM for item in task(spec).fixed("test", 100)}
    assert not trained & scored
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize(
    ("spec", "error", "found"),
    [
        ("ask:smalest", NotFoundError, "did you mean 'smallest'"),
        ("ask:", NotFoundError, "no question ''"),
        ("ask:smallest?count=1", UsageError, "count=1 must be a whole number from 2 to 12"),
        ("ask:swap?count=3", UsageError, "count is not a dial of ask:swap"),
        ("ask:gcd?ambiguity=0.5", UsageError, "ambiguity is not a dial of ask:gcd"),
    ],
)
def test_bad_ask_specs_say_what_is_wrong(spec: str, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=re.escape(found)):
        task(spec)
