"""The table of domains is sourced, sound and complete for the trainer's tasks; users' facts replace its
numbers.
"""

from __future__ import annotations

import pytest
from reasoning_gym.factory import DATASETS

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.facts.domains import FACTS, GRADES, SCOPES, Estimate, dials_of, domain, domains, scope_of
from trainer.tasks import FAMILIES, ask, task


@pytest.mark.parametrize("name", domains())
def test_every_row_is_sound_and_sourced(name: str) -> None:
    row = domains()[name]
    assert row.scope in SCOPES
    assert 0 < row.start.value < row.asymptote.value < 1
    for key in FACTS:
        estimate = getattr(row, key)
        if isinstance(estimate, Estimate):
            assert (
                estimate.grade in GRADES
                and len(estimate.source) > 5
                and estimate.sd >= 0
                and estimate.value > 0
            )


def test_the_trainers_tasks_are_all_in_the_table() -> None:
    assert {family: domain(family).scope for family in FAMILIES} == dict.fromkeys(FAMILIES, "tiny")
    for scheme, kinds in (("ask", ask.QUESTIONS), ("reasoning_gym", DATASETS)):
        assert {domain(f"{scheme}:{kind}").scope for kind in kinds} == {"small"}
        assert set(domains()[f"{scheme}:"].kinds) == set(kinds)
    assert domain("jsonl:prompts.jsonl?verifier=exact").scope == "small"


def test_published_numbers_are_the_published_ones() -> None:
    assert domain("math").start.value == pytest.approx(0.4542)  # 2606.30406, AIME25
    assert domain("if").start.value == pytest.approx(0.4269)  # 2606.30406, IFBench
    assert domain("code").start.value == pytest.approx(0.775)  # 2601.02780 table 7


def test_a_spec_keeps_its_name_and_finds_its_row() -> None:
    row = domain("sort?length=4-7&ambiguity=0.5")
    assert (row.name, row.row) == ("sort?length=4-7&ambiguity=0.5", "sort")
    assert domain("swe_verified").row == "swe"


def test_an_unknown_domain_names_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'math'"):
        domain("maths")
    with pytest.raises(
        NotFoundError, match=r"'ask:larges': ask has no task 'larges' \(did you mean 'largest'"
    ):
        domain("ask:larges?digits=3")
    with pytest.raises(NotFoundError, match="reasoning_gym has no task ''"):
        domain("reasoning_gym:")


def test_one_frontier_domain_makes_a_frontier_forecast() -> None:
    assert scope_of({name: domain(name) for name in ("sort", "math")}) == "frontier"
    assert scope_of({name: domain(name) for name in ("sort", "shift")}) == "tiny"


def test_facts_replace_numbers_and_carry_their_grade() -> None:
    row = domain("math").with_facts({"start": [0.3, 0.4], "response_tokens": 5000, "turns": 2})
    assert row.start.value == pytest.approx(0.35) and row.start.sd == pytest.approx(0.05 / 1.2816, rel=1e-4)
    assert (row.response_tokens.value, row.response_tokens.sd, row.response_tokens.grade) == (
        5000,
        0,
        "measured",
    )
    assert row.turns == 2
    assert row.demonstrated.value == pytest.approx(0.35 + (row.asymptote.value - 0.35) / 4)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"start": 1.2}, "start = 1.2: must be a finite number from 0 to 1"),
        ({"start": float("nan")}, "start = nan: must be a finite number"),
        ({"start": True}, "start = True: must be a finite number"),
        ({"start": 0.9}, "asymptote 0.565 is below start 0.9"),
        ({"strat": 0.3}, "did you mean 'start'"),
        ({"response_tokens": 0}, "must be a finite number above 0"),
        ({"response_tokens": [9, 3]}, "P10 is above P90"),
        ({"turns": 1.5}, "whole number"),
    ],
)
def test_bad_facts_are_one_clear_sentence(facts: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        domain("math").with_facts(facts)


def test_the_mean_length_lies_below_the_longest() -> None:
    """A limit below the mean is refused, both keys named; a mean given beside it is taken."""
    with pytest.raises(UsageError, match=r"max_response_tokens 100 is below response_tokens [\d,]+"):
        domain("math").with_facts({"max_response_tokens": 100})
    short = domain("math").with_facts({"max_response_tokens": 100, "response_tokens": 60})
    assert short.response_tokens.value == 60


TASKS = [*FAMILIES, *(f"ask:{kind}" for kind in ask.QUESTIONS)]


@pytest.mark.parametrize("name", TASKS)
def test_a_forecast_takes_the_dials_that_training_takes(name: str) -> None:
    """Every dial at its ends, just beyond them, and as no number: `task` reads the options one by one."""
    for key, (least, most) in dials_of(name).items():
        for value in (least, most, least - 1, most + 1, "x", "nan", "", f"{least}-{most}"):
            spec = f"{name}?{key}={value}"
            try:
                task(spec)
            except UsageError:
                with pytest.raises(UsageError, match=f"{key}"):
                    domain(spec)
            else:
                assert domain(spec).name == spec
    for reader in (domain, task):
        with pytest.raises(UsageError, match="nodial is not a dial"):
            reader(f"{name}?nodial=1")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("sort?length=99", "length=99 must be a whole number from 2 to 12, or a range"),
        ("sort?lenght=4", r"lenght is not a dial of sort \(did you mean 'length'\?\)"),
        ("sort_long?ambiguity=0.5", "ambiguity is not a dial of sort_long"),
        ("sort?length=4&length=5", "a dial is given twice"),
        (
            "math?level=5",
            "level is not a dial of math: give a domain of your own another name, and like = 'math'",
        ),
        ("reasoning_gym:gcd?corruption=2", "corruption=2 must be a number from 0 to 1"),
    ],
)
def test_a_dial_that_does_not_exist_is_refused(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        domain(spec)


def test_dials_that_only_a_task_knows_are_left_to_it() -> None:
    for spec in ("reasoning_gym:chain_sum?min_terms=2", "jsonl:prompts.jsonl?verifier=numeric"):
        assert domain(spec).name == spec
