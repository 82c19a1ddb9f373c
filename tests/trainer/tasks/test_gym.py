"""The reasoning-gym adapter on a few families, and its guard against graders that evaluate responses."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import UsageError
from trainer.tasks import SPLITS, task
from trainer.tasks.gym import (
    EVALUATES_ARITHMETIC,
    EVALUATES_LITERALS,
    HASH_ORDERED,
    PAYS_FOR_DIGITS,
    PAYS_FOR_NEARNESS,
    REJECTS_BY_RAISING,
    extracted,
    is_arithmetic,
)

SPECS = ["spell_backward", "chain_sum?min_terms=2&max_terms=3&max_digits=2", "number_sorting", "maze"]
GARBAGE = [
    "",
    " ",
    "a",
    "1 2",
    "[[",
    "{}",
    '{"a": 1}',
    "[[1, 2], [3]]",
    "null",
    "0",
    "-1",
    "1/0",
    "é∞",
    "1\n2",
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_family_keeps_the_promises_of_a_task(spec: str) -> None:
    domain = task(f"reasoning_gym:{spec}")
    assert pickle.loads(pickle.dumps(domain)) == domain == task(domain.spec)
    items = domain.fixed("test", 60)
    assert len({item.prompt for item in items}) == 60
    assert items[:20] == domain.fixed("test", 20)
    assert domain.stream("train", 0, 10, seed=1)[5:] == domain.stream("train", 5, 5, seed=1)
    for item in items:
        assert domain.observe(item, domain.demonstrate(item, random.Random(0))) is None
        assert domain.grade(item, domain.demonstrate(item, random.Random(0))) == 1.0
        assert domain.grade(item, ["~"]) < 0.2
    prompts = {split: {item.prompt for item in domain.stream(split, 0, 150, seed=2)} for split in SPLITS}
    for left, right in itertools.combinations(SPLITS, 2):
        assert not prompts[left] & prompts[right]


def test_corrupted_demonstrations_are_other_items_answers() -> None:
    domain = task("reasoning_gym:spell_backward?corruption=0.5")
    rng = random.Random(0)
    scores = [
        domain.grade(item, domain.demonstrate(item, rng)) for item in domain.stream("train", 0, 400, seed=0)
    ]
    assert sum(score == 1.0 for score in scores) / 400 == pytest.approx(0.5, abs=0.1)


def test_configuration_reaches_the_family() -> None:
    domain = task(
        "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&allow_negation=false"
    )
    for item in domain.stream("train", 0, 50, seed=0):
        left, sign, right = item.prompt.removeprefix(
            "State the final answer to the following arithmetic problem: "
        ).split()[:3]
        assert int(item.answer) == int(left) + int(right) * (1 if sign == "+" else -1)
    prompts = [task(f"reasoning_gym:spell_backward?seed={seed}").fixed("test", 5) for seed in (0, 1)]
    assert prompts[0] != prompts[1]


@pytest.mark.parametrize(
    ("part", "response", "graded"),
    [
        ("tags", "I think <answer>3</answer>, no: <answer> 41\n</answer> it is", " 41\n"),
        ("tags", "41", ""),
        ("number", "It is 7 and not 12; so -3.5.", "-3.5"),
        ("number", "The answer is 2.", "2"),
        ("number", "none", ""),
        ("line", "Let me see.\n41\n\n", "41"),
        ("line", "", ""),
        ("whole", "a\nb", "a\nb"),
    ],
)
def test_parts_of_a_response(part: str, response: str, graded: str) -> None:
    assert extracted(response, part) == graded


def test_a_question_that_asks_for_its_number_is_paid_for_the_number() -> None:
    """`chain_sum` says 'State the final answer'; its grader pays by the share of a response that is the answer."""
    domain = task("reasoning_gym:chain_sum?min_terms=2&max_terms=2")
    whole = task("reasoning_gym:chain_sum?min_terms=2&max_terms=2&extract=whole")
    for item in domain.fixed("test", 20):
        said = f"The answer is {item.answer}."
        assert domain.grade(item, [said]) == domain.grade(item, [item.answer]) == 1.0
        assert whole.grade(item, [said]) < 0.5
        assert domain.grade(item, [f"{item.answer} or {int(item.answer) + 1}"]) < 0.2


def test_a_question_for_words_is_graded_whole_unless_told() -> None:
    plain, tagged = (task(f"reasoning_gym:spell_backward{dials}") for dials in ("", "?extract=tags"))
    (item,) = plain.stream("train", 0, 1, seed=0)
    assert plain.grade(item, [f"<answer>{item.answer}</answer>"]) < 1.0
    assert tagged.grade(item, [f"So: <answer>{item.answer}</answer>"]) == 1.0
    with pytest.raises(UsageError, match="extract=tag must be one of auto, tags, number, line, whole"):
        task("reasoning_gym:spell_backward?extract=tag")


def test_a_family_without_reference_answers_cannot_be_demonstrated() -> None:
    domain = task("reasoning_gym:graph_color")
    (item,) = domain.stream("train", 0, 1, seed=0)
    with pytest.raises(UsageError, match="no reference answers"):
        domain.demonstrate(item, random.Random(0))
    assert domain.grade(item, ["{}"]) < 1.0


@pytest.mark.parametrize("family", sorted(REJECTS_BY_RAISING))
def test_responses_that_cannot_be_read_score_zero(family: str) -> None:
    domain = task(f"reasoning_gym:{family}")
    (item,) = domain.stream("train", 0, 1, seed=0)
    assert all(domain.grade(item, [said]) < 1.0 for said in GARBAGE)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(PAYS_FOR_NEARNESS | PAYS_FOR_DIGITS))
def test_a_constant_reply_earns_little_where_graders_paid_for_nearness(family: str) -> None:
    domain = task(f"reasoning_gym:{family}?extract=whole")
    items = domain.stream("train", 0, 60, seed=0)
    for said in ("0", "0.5", "nan", "NaN+1j", "inf", "", "none", "8" * 380, "1e998", "0, 0"):
        assert sum(domain.grade(item, [said]) for item in items) / len(items) <= 0.25, said
    assert all(domain.grade(item, [item.answer]) == 1.0 for item in items)


def test_other_exceptions_of_a_grader_propagate() -> None:
    domain = task("reasoning_gym:spell_backward")
    (item,) = domain.stream("train", 0, 1, seed=0)
    with pytest.raises(KeyError):
        domain.grade(type(item)(domain=domain.spec, prompt="x", answer="y", data={"entry": {}}), ["z"])


@pytest.mark.parametrize("family", sorted((EVALUATES_LITERALS | EVALUATES_ARITHMETIC) - HASH_ORDERED))
def test_responses_never_run(family: str, tmp_path: Path) -> None:
    domain = task(f"reasoning_gym:{family}")
    (item,) = domain.stream("train", 0, 1, seed=0)
    trace = tmp_path / "ran"
    for said in (
        f"open({str(trace)!r}, 'w')",
        f"[open({str(trace)!r}, 'w')]",
        "9**9**9**9**9",
        "exp(exp(exp(9**9)))",
    ):
        assert domain.grade(item, [said]) < 0.2
    assert not trace.exists()
    assert domain.grade(item, [item.answer]) == 1.0


def test_literal_lists_keep_their_partial_credit() -> None:
    domain = task("reasoning_gym:string_insertion")
    (item,) = domain.stream("train", 0, 1, seed=0)
    assert domain.grade(item, [repr(list(item.answer))]) == 0.1


def test_countdown_accepts_every_right_expression() -> None:
    domain = task("reasoning_gym:countdown?min_numbers=2&max_numbers=3")
    for item in domain.stream("train", 0, 10, seed=0):
        assert domain.grade(item, [f"({item.answer})"]) == 1.0
        assert domain.grade(item, [f"{item.answer} + 1"]) < 0.2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "9**9**9",
        "(9**9)**9",
        "2**101",
        "9" * 10 + "00",
        "x.y",
        "[1]",
        "f(1)",
        "exp(exp(9))",
        "1 if 2 else 3",
        "lambda: 0",
        "'a'*9",
        "9<<9",
        "1;2",
        "sin(x, 1)",
        "sin(x=1)",
        "x[0]",
        "+".join("1" * 300),
        "(" * 300,
        "2**(9*99)",
        "1e400",
        "True",
        "\0",
    ],
)
def test_not_plain_arithmetic(text: str) -> None:
    assert not is_arithmetic(text)


@pytest.mark.parametrize(
    "text", ["1", "-1.5", "3*x**2 + C", "(1 + 2)*3 - 4/5", "exp(x)*sin(3*x)/2", "x**(-1/2)", "x**99"]
)
def test_plain_arithmetic(text: str) -> None:
    assert is_arithmetic(text)


@given(st.text("0123456789+-*/(). x", max_size=40))
def test_what_passes_is_cheap_to_evaluate(text: str) -> None:
    """The promise itself: numbers that come out of what passes have at most some thousand digits."""
    if is_arithmetic(text) and "x" not in text:
        try:
            value = eval(text)  # arithmetic only, as just established
        except (ZeroDivisionError, OverflowError, TypeError):
            return
        assert isinstance(value, complex | float) or abs(value) < 10 ** (9 * 100 * 20)


@pytest.mark.slow
def test_families_in_hash_order_need_a_fixed_hash_seed() -> None:
    code = (
        "from mopdsim.base.errors import UsageError\n"
        "from trainer.tasks import task\n"
        "try: print([item.prompt for item in task('reasoning_gym:ransom_note').fixed('test', 3)])\n"
        "except UsageError as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}

    def prints(**more: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment | more, check=True
        ).stdout

    assert "start with PYTHONHASHSEED=0" in prints()
    assert "ransom" in (first := prints(PYTHONHASHSEED="0"))
    assert prints(PYTHONHASHSEED="0") == first
