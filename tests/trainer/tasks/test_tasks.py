"""The tiny domains against truth computed another way, and every promise of `trainer.tasks.base.Task`."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.tasks import (
    ALPHABET,
    FAMILIES,
    PROBES,
    SPLITS,
    Item,
    Split,
    Task,
    task,
)
from trainer.tasks.base import split_of
from trainer.tasks.guess import GuessTask
from trainer.tasks.tiny import (
    MOST_STEPS,
    OPERATIONS,
    UNMARKED,
    TextTask,
    does,
    run_program,
    shortest_program,
)

every_domain = pytest.mark.parametrize("name", sorted(FAMILIES))


def content_of(item: Item) -> str:
    return item.prompt.partition(":")[2]


def balanced_by_cancelling(text: str) -> bool:
    while (shorter := text.replace("()", "").replace("[]", "")) != text:
        text = shorter
    return text == ""


def moved(content: str, by: int) -> str:
    return "".join(chr((ord(letter) - ord("a") + by) % 12 + ord("a")) for letter in content)


def spelled_out(code: str) -> str:
    return "".join(code[place] * int(code[place + 1]) for place in range(0, len(code), 2))


def counted(content: str) -> str:
    out = ""
    while content:
        rest = content.lstrip(content[0])
        out += f"{content[0]}{len(content) - len(rest)}"
        content = rest
    return out


INDEPENDENT: dict[str, Callable[[str, str], bool]] = {
    "sort": lambda content, said: tuple(said) == min(itertools.permutations(content)),
    "sort_down": lambda content, said: tuple(said) == max(itertools.permutations(content)),
    "reverse": lambda content, said: list(said) == [content[-1 - place] for place in range(len(content))],
    "rotate": lambda content, said: list(said) == [(content * 2)[place + 1] for place in range(len(content))],
    "shift": lambda content, said: said == moved(content, 1),
    "shift_back": lambda content, said: said == moved(content, -1),
    "brackets": lambda content, said: balanced_by_cancelling(content + said) and not set(said) & set("(["),
    "brackets_two": lambda content, said: (
        balanced_by_cancelling(content + said) and not set(said) & set("([")
    ),
    "rle_decode": lambda content, said: said == spelled_out(content),
    "rle_encode": lambda content, said: said == counted(content),
    "swap": lambda content, said: (
        said == "".join(content[min(place ^ 1, len(content) - 1)] for place in range(len(content)))
    ),
    "dedup": lambda content, said: said == "".join(counted(content)[::2]),
    "program": lambda content, said: said in all_programs(content),
    "compare": lambda content, said: said in {"<", "=", ">"} and holds(content, said),
    "sort_then_shift": lambda content, said: tuple(said) == tuple(moved("".join(sorted(content)), 1)),
    "reverse_then_shift": lambda content, said: said == moved(content, 1)[::-1],
}
"""The definition of each single-turn domain, written without its module."""


def holds(content: str, relation: str) -> bool:
    left, right = content.split(",")
    assert len(left) == len(right)  # then numbers are ordered as their texts are
    return {"<": left < right, "=": left == right, ">": left > right}[relation]


def all_programs(content: str) -> set[str]:
    """Every right program, by a breadth-first walk over texts held as tuples."""
    start, target = (tuple(part) for part in content.split(">"))
    reached: dict[str, tuple[str, ...]] = {"": start}
    for steps in range(MOST_STEPS):
        for program in [program for program in reached if len(program) == steps]:
            text = reached[program]
            reached[program + "R"] = tuple(reversed(text))
            reached[program + "L"] = (*text[1:], *text[:1])
            reached[program + "D"] = text[1:]
            reached[program + "C"] = (*text[:1], *text)
    return {program for program, text in reached.items() if text == target}


def episode(domain: Task, item: Item, said: tuple[str, ...]) -> float:
    """Play `said` through the environment, which must end the episode at the last turn and not before."""
    for count in range(1, len(said)):
        reply = domain.observe(item, said[:count])
        assert reply is not None
        assert set(reply) <= set(ALPHABET)
    assert domain.observe(item, said) is None
    assert len(said) <= domain.max_turns
    return domain.grade(item, said)


@every_domain
def test_a_clean_demonstrator_is_always_right_and_fits(name: str) -> None:
    domain = task(f"{name}?corruption=0")
    rng = random.Random(1)
    for item in domain.fixed("test", 400):
        said = domain.demonstrate(item, rng)
        assert episode(domain, item, said) == 1.0
        assert max(map(len, said)) + 1 <= domain.max_new_tokens
        assert set(item.prompt).union(*said) <= set(ALPHABET)


@every_domain
@pytest.mark.parametrize("corruption", [0.25, 0.6, 1.0])
def test_corruption_is_the_share_of_wrong_demonstrations(name: str, corruption: float) -> None:
    domain = task(f"{name}?corruption={corruption}")
    rng = random.Random(2)
    items = domain.stream("train", 0, 500, seed=0)
    said = [domain.demonstrate(item, rng) for item in items]
    right = sum(episode(domain, item, turns) for item, turns in zip(items, said, strict=True)) / len(items)
    assert abs(right - (1 - corruption)) <= 4 * (corruption * (1 - corruption) / len(items)) ** 0.5
    assert all(len(turn) + 1 <= domain.max_new_tokens for turns in said for turn in turns)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"guess"}))
def test_a_habit_is_one_wrong_answer_to_each_prompt(name: str) -> None:
    domain = task(f"{name}?corruption=0&habit=0.6")
    rng = random.Random(2)
    items = domain.stream("train", 0, 1500, seed=0)
    said = [domain.demonstrate(item, rng) for item in items]
    wrong = [(item, turns) for item, turns in zip(items, said, strict=True) if not domain.grade(item, turns)]
    assert abs(len(wrong) / len(items) - 0.6) <= 4 * (0.6 * 0.4 / len(items)) ** 0.5
    always = task(f"{name}?corruption=0&habit=1")
    assert all(always.demonstrate(item, rng) == turns for item, turns in wrong)
    assert all(len(turn) + 1 <= domain.max_new_tokens for turns in said for turn in turns)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"guess", "sort_long"}))
def test_verifiers_agree_with_an_independent_definition(name: str) -> None:
    domain = task(f"{name}?corruption=0.7")
    rng = random.Random(3)
    assert isinstance(domain, TextTask)
    judged = []
    for item in domain.stream("validation", 0, 150, seed=1):
        near = domain.demonstrate(item, rng)[0]
        noise = "".join(rng.choices(domain.skill.symbols, k=rng.randint(1, len(item.answer))))
        for said in (item.answer, near, noise, "", item.answer[::-1], item.answer * 2, content_of(item)):
            assert domain.grade(item, [said]) == float(INDEPENDENT[name](content_of(item), said)), (
                item,
                said,
            )
            judged.append(domain.grade(item, [said]))
    assert 0.1 < sum(judged) / len(judged) < 0.9


@pytest.mark.slow
@every_domain
def test_splits_are_disjoint(name: str) -> None:
    domain = task(name)
    contents = {
        split: {content_of(item) for item in domain.stream(split, 0, 3000, seed=4)} for split in SPLITS
    }
    for left, right in itertools.combinations(SPLITS, 2):
        assert not contents[left] & contents[right]


def test_a_content_belongs_to_one_split_in_every_domain() -> None:
    """Rivals, longer forms and probes never train on what another scores."""
    specs = ["sort", "sort_down?ambiguity=0.5", "reverse", "sort_then_shift"]
    trained = {content_of(item) for spec in specs for item in task(spec).stream("train", 0, 2000, seed=0)}
    scored = {content_of(item) for spec in specs for item in task(spec).fixed("test", 1000)}
    assert not trained & scored


@every_domain
def test_streams_are_random_access(name: str) -> None:
    domain = task(name)
    assert domain.stream("train", 0, 10, seed=3)[5:] == domain.stream("train", 5, 5, seed=3)
    assert domain.stream("train", 10**9, 1, seed=3) == domain.stream("train", 10**9, 1, seed=3)
    assert domain.stream("train", 0, 20, seed=3) != domain.stream("train", 0, 20, seed=4)


@every_domain
def test_fixed_items_are_distinct_and_stable(name: str) -> None:
    domain = task(name)
    items = domain.fixed("test", 500)
    assert len({item.prompt for item in items}) == 500
    assert items == task(name).fixed("test", 500)
    assert items[:100] == domain.fixed("test", 100)
    assert all(item.domain == name for item in items)


@every_domain
def test_dials_beside_the_prompts_leave_the_items_alone(name: str) -> None:
    plain = task(name).stream("train", 0, 50, seed=0)
    dialled = task(f"{name}?corruption=0.1&reward_scale=0.5&reward_noise=0.1")
    assert [item.prompt for item in dialled.stream("train", 0, 50, seed=0)] == [item.prompt for item in plain]


@every_domain
def test_tasks_are_values(name: str) -> None:
    spec = f"{name}?corruption=0.25&max_new_tokens=12"
    domain = task(spec)
    assert domain.spec == spec
    assert task(domain.spec) == domain == pickle.loads(pickle.dumps(domain))
    assert domain != task(name)
    assert (domain.corruption, domain.max_new_tokens) == (0.25, 12)


def test_items_do_not_depend_on_the_process() -> None:
    code = (
        "import sys; from trainer.tasks import FAMILIES, task\n"
        "tasks = [task(name) for name in FAMILIES]\n"
        "print([[i.prompt for i in t.stream('test', 0, 3, seed=5) + t.fixed('test', 3)] for t in tasks])\n"
        "print([name for name in ('torch', 'transformers', 'reasoning_gym') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    prompts, imported = done.stdout.splitlines()
    domains = [task(name) for name in FAMILIES]
    assert prompts == str(
        [[item.prompt for item in d.stream("test", 0, 3, seed=5) + d.fixed("test", 3)] for d in domains]
    )
    assert imported == "[]"


def test_markers_tell_domains_apart() -> None:
    markers = {name: task(name).fixed("test", 1)[0].prompt.partition(":")[0] for name in FAMILIES}
    assert markers["sort_long"] == markers.pop("sort")  # one skill, two lengths
    assert len(set(markers.values())) == len(markers)


def test_probes_are_composed() -> None:
    for spec in ("compare", "sort_long", *PROBES):
        with pytest.raises(UsageError, match="ambiguity"):  # they have no rival
            task(f"{spec}?ambiguity=1")
    for probe, skills in PROBES.items():
        assert set(skills) <= set(FAMILIES) - set(PROBES)
        marker = "".join(task(skill).fixed("test", 1)[0].prompt[0] for skill in skills)
        assert task(probe).fixed("test", 1)[0].prompt.startswith(f"{marker}:")


@pytest.mark.parametrize("pair", [("sort", "sort_down"), ("reverse", "rotate"), ("shift", "shift_back")])
def test_rivals_without_markers_cannot_be_told_apart(pair: tuple[str, str]) -> None:
    left, right = (task(f"{name}?ambiguity=1") for name in pair)
    assert isinstance(left, TextTask) and isinstance(right, TextTask)
    for seed in range(50):
        content = left.draw(random.Random(seed))
        assert right.draw(random.Random(seed)) == content
        one, other = (domain.build(content, random.Random(seed)) for domain in (left, right))
        assert one.prompt == other.prompt == f"{UNMARKED}:{content}"
        assert left.grade(one, [other.answer]) == right.grade(other, [one.answer]) == 0.0


@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_the_best_policy_reaches_one_less_half_the_ambiguity(ambiguity: float) -> None:
    """The best policy obeys a marker and commits to ascending order without one."""
    count = 3000
    scores = []
    for name in ("sort", "sort_down"):
        domain = task(f"{name}?ambiguity={ambiguity}")
        for item in domain.stream("train", 0, count, seed=6):
            marker, content = item.prompt.split(":")
            said = "".join(sorted(content, reverse=marker == "d"))
            scores.append(domain.grade(item, [said]))
    best = sum(scores) / len(scores)
    assert abs(best - (1 - ambiguity / 2)) <= 4 * (ambiguity * (1 - ambiguity)) ** 0.5 / (2 * count**0.5)


@given(st.text("RLDCx", max_size=6), st.text("abc", max_size=4))
def test_interpreter_on_any_program(program: str, text: str) -> None:
    made = run_program(program, text)
    assert (made is None) == ("x" in program)
    if made is not None:
        copied = program.count("C") if text else 0
        assert len(made) <= len(text) + copied


@pytest.mark.parametrize(
    ("program", "made"),
    [
        ("", "abc"),
        ("R", "cba"),
        ("L", "bca"),
        ("D", "bc"),
        ("C", "aabc"),
        ("RD", "ba"),
        ("DR", "cb"),
        ("LLL", "abc"),
        ("DDDC", ""),
        ("z", None),
        ("Rz", None),
    ],
)
def test_interpreter_by_hand(program: str, made: str | None) -> None:
    assert run_program(program, "abc") == made


def test_any_program_that_does_it_is_right() -> None:
    assert shortest_program("abc>cba") == "R"
    assert does("abc>cba", "R") and does("abc>cba", "RRR") and does("abcd>dabc", "LLL")
    assert not does("abc>cba", "RRRRR"), "longer than allowed"
    assert not does("abc>cba", "") and not does("abc>cba", "r")
    assert set("RLDC") == set(OPERATIONS)


@pytest.mark.parametrize("letters", range(2, 12))
@pytest.mark.parametrize("turns", range(1, 5))
def test_halving_finds_as_many_letters_as_any_strategy(letters: int, turns: int) -> None:
    def found(count: int, left: int) -> int:
        """Most letters out of `count` that some strategy finds in `left` turns, by dynamic programming."""
        if not count or not left:
            return 0
        return max(1 + found(below, left - 1) + found(count - 1 - below, left - 1) for below in range(count))

    domain = task(f"guess?length={letters}&turns={turns}&corruption=0")
    (first,) = domain.stream("train", 0, 1, seed=0)
    content = first.data["letters"]
    right = {
        item.answer: domain.grade(item, domain.demonstrate(item, random.Random(0)))
        for hidden in content
        for item in [replace(first, answer=hidden)]
    }
    assert sum(right.values()) == found(letters, turns)


def test_guess_by_hand() -> None:
    domain = task("guess")
    assert isinstance(domain, GuessTask)
    item = Item(domain="guess", prompt="g:bdfhk", answer="h", data={"letters": "bdfhk"})
    assert domain.observe(item, ["f"]) == "+"
    assert domain.observe(item, ["f", "k"]) == "-"
    assert domain.observe(item, ["f", "k", "h"]) is None
    assert domain.grade(item, ["f", "k", "h"]) == domain.grade(item, ["h"]) == 1.0
    assert domain.observe(item, ["f", "k", "d"]) is None, "turns are spent"
    assert domain.observe(item, ["fh"]) is None and domain.observe(item, [""]) is None, "not one letter"
    assert domain.grade(item, ["f", "k", "d"]) == domain.grade(item, ["hh"]) == 0.0


@given(st.lists(st.text("abcxyz!", max_size=2), min_size=8, max_size=8), st.integers(0, 50))
def test_guess_always_ends(said: list[str], index: int) -> None:
    domain = task("guess")
    (item,) = domain.stream("train", index, 1, seed=0)
    ended = [domain.observe(item, said[:count]) is None for count in range(1, domain.max_turns + 1)]
    assert ended[-1]


def test_reward_noise_is_a_lasting_error_and_scale_a_factor() -> None:
    noisy = task("sort?reward_noise=0.2&reward_scale=3")
    items = noisy.stream("train", 0, 3000, seed=0)
    rewards = [noisy.reward(item, [item.answer]) for item in items]
    assert set(rewards) == {0.0, 3.0}
    assert sum(rewards) / 3 / len(items) == pytest.approx(0.8, abs=0.03)
    assert rewards == [noisy.reward(item, [item.answer]) for item in items]
    assert all(noisy.grade(item, [item.answer]) == 1.0 for item in items)
    assert all(task("sort").reward(item, [item.answer]) == 1.0 for item in items[:50])


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("srot", NotFoundError, ["'srot'", "did you mean 'sort'"]),
        ("", UsageError, ["no name"]),
        ("?length=3", UsageError, ["no name"]),
        ("sort?lenght=4", UsageError, ["lenght", "did you mean 'length'"]),
        ("brackets?ambiguity=0.5", UsageError, ["ambiguity is not a dial of brackets"]),
        ("sort?length", UsageError, ["'length' is not key=value"]),
        ("sort?length=", UsageError, ["not key=value"]),
        ("sort?length=4&length=5", UsageError, ["length is given twice"]),
        ("sort?length=6-4", UsageError, ["length=6-4", "2-12"]),
        ("sort?length=4-99", UsageError, ["length=4-99", "2-12"]),
        ("sort?length=-3", UsageError, ["length=-3"]),
        ("sort?length=²", UsageError, ["length=²"]),
        ("sort?length=a-b", UsageError, ["length=a-b", "such as length=4-6"]),
        ("sort?corruption=1.5", UsageError, ["corruption=1.5", "from 0 to 1"]),
        ("sort?corruption=nan", UsageError, ["corruption=nan"]),
        ("sort?reward_scale=inf", UsageError, ["reward_scale=inf"]),
        ("sort?reward_scale=-1", UsageError, ["reward_scale=-1", "from 0.001"]),
        ("sort?environment_seconds=2", UsageError, ["environment_seconds is not a dial of sort"]),
        ("sort?max_new_tokens=0", UsageError, ["max_new_tokens=0", "from 1 to"]),
        ("guess?turns=2.5", UsageError, ["turns=2.5", "from 1 to 8"]),
        ("reasoning_gym:chain_smu", NotFoundError, ["did you mean 'chain_sum'"]),
        ("reasoning_gym:chain_sum?min_term=2", UsageError, ["did you mean 'min_terms'"]),
        ("reasoning_gym:chain_sum?min_terms=x", UsageError, ["min_terms=x"]),
        ("reasoning_gym:chain_sum?min_terms=9&max_terms=2", UsageError, ["max_terms must be >= min_terms"]),
        ("reasoning_gym:composite", UsageError, ["nested"]),
        ("reasoning_gym:game_of_life_halting", UsageError, ["accepts every response"]),
        ("gym:chain_sum", NotFoundError, ["gym:chain_sum"]),
        ("jsonl:nowhere.jsonl", NotFoundError, ["nowhere.jsonl is not a file"]),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as raised:
        task(spec)
    for word in words:
        assert word in str(raised.value)


@given(st.text(max_size=30) | st.text("sort?length=0123456789-&.:", max_size=30).map("sort?".__add__))
def test_any_spec_is_a_task_or_a_clear_error(spec: str) -> None:
    try:
        assert task(spec).spec == spec
    except (UsageError, NotFoundError) as error:
        assert str(error)


def test_small_prompt_spaces_are_refused_rather_than_repeated() -> None:
    with pytest.raises(UsageError, match=r"'sort\?length=2': 400 distinct test prompts asked for, \d+ exist"):
        task("sort?length=2").fixed("test", 400)
    with pytest.raises(UsageError, match="1 distinct"):
        task("brackets?length=1").stream(empty_split("("), 0, 1, seed=0)


def empty_split(only_content: str) -> Split:
    """A split that does not own the one content there is."""
    return next(split for split in SPLITS if split != split_of(only_content))


def test_split_shares() -> None:
    owners = [split_of(str(number)) for number in range(20_000)]
    shares = {split: owners.count(split) / len(owners) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.015)
