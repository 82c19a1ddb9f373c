"""The reading of an honest test: rows apart by kind and rate, signs with ties, and the rule that needs no simulator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studies.designs.skill.contest import SWITCH
from studies.honest.baselines import Cell
from studies.honest.held_out import Contest, Trial
from studies.honest.reading import read

CELL = Cell(strategy="mopd", domain="a", trained=("a",), start={"a": 0.3}, specialist={"a": {"a": 0.6}})
CALM, RASH = 1e-3, 5e-3


def trial(study: str, low: float, median: float, high: float, rate: float = CALM) -> Trial:
    """Of a score of .5, whose own expert has .6."""
    ensemble = (low, low, *[median] * 7, high, high)
    return Trial(
        study=study, run="r", condition="c", seed=0, cell=CELL, ensemble=ensemble, truth=0.5, items=100, rate=rate
    )  # fmt: skip


def contest(predicted: dict[str, float], measured: dict[str, float], rate: float = CALM) -> Contest:
    return Contest(
        condition="c", seeds=(0,), held_out=True, predicted=predicted, measured=measured,
        gaps={"mixed_rl - mopd": (-5.0, 5.0)}, errors={"mixed_rl": 0.03, "mopd": 0.04}, rate=rate,
    )  # fmt: skip


TRIALS = [
    trial("choice_again", 0.4, 0.5, 0.6),
    trial("choice_again", 0.4, 0.8, 0.9, RASH),
    trial("gain", 0.4, 0.55, 0.6),
]
CONTESTS = [
    contest({"mixed_rl": 0.7, "mopd": 0.6}, {"mixed_rl": 0.80, "mopd": 0.78}),
    contest({"mixed_rl": 0.7, "mopd": 0.6}, {"mixed_rl": 0.40, "mopd": 0.60}, SWITCH),
    contest({"mixed_rl": 0.7, "mopd": 0.6}, {"mixed_rl": 0.60, "mopd": 0.60}),
]
FOUND = read(TRIALS, CONTESTS)


def test_new_studies_come_first_and_rates_stand_apart_each_with_its_winner() -> None:
    rows = [(row["held out"], row["rates"], row["scores"], row["winner"]) for row in FOUND["scores"]]
    assert rows == [
        ("new studies", "ordinary", 1, "simulator"),
        ("new studies", "bold", 1, "own expert"),
        ("near repeats", "ordinary", 1, "simulator"),
    ]
    assert FOUND["scores"][1]["simulator"] == pytest.approx(30) and FOUND["scores"][1]["80% covers"] == 1


def test_differences_have_sign_error_and_coverage_and_a_tie_is_no_sign() -> None:
    row, whole = FOUND["differences"]
    assert (row["sign right"], row["sign wrong"], row["tie on one side"]) == (1, 1, 1)
    assert row["simulator"] == pytest.approx((8 + 30 + 10) / 3)
    assert row["no difference"] == pytest.approx((2 + 20 + 0) / 3) and row["winner"] == "no difference"
    assert row["80% covers"] == pytest.approx(2 / 3)
    assert whole == {**row, "difference": "all"}


def test_signs_are_counted_apart_where_a_difference_is_beyond_two_standard_errors() -> None:
    """Of 2, -20 and 0 points the second alone lies beyond twice the 5 points of two errors, 3 and 4; it is said wrong,
    and right where the forecast is turned."""
    assert (FOUND["differences"][0]["beyond 2 errors"], FOUND["differences"][0]["of them right"]) == (1, 0)
    turned = [replace(one, predicted={"mixed_rl": 0.6, "mopd": 0.7}) for one in CONTESTS]
    found = read(TRIALS, turned)
    assert (found["differences"][0]["beyond 2 errors"], found["differences"][0]["of them right"]) == (1, 1)


def test_regret_stands_beside_the_rule_of_the_rate() -> None:
    lost = {row["way to choose"]: row["points lost"] for row in FOUND["regret"]}
    assert lost["the simulator"] == pytest.approx(20 / 3) == lost["always mixed_rl"]
    assert lost["mixed_rl, but mopd at 0.004 or more"] == pytest.approx(0.0)
    assert {row["winner"] for row in FOUND["regret"]} == {"mixed_rl, but mopd at 0.004 or more"}
