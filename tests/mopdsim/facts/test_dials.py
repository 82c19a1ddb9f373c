"""Settings of a domain's dials that nobody studied lie between those that were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import Estimate, between, domain, nearest

STUDIED = ("sort", "sort?ambiguity=0.5", "sort?ambiguity=1", "reverse", "sort?habit=0.6")


@pytest.mark.parametrize(
    ("wanted", "weights"),
    [
        ("sort?ambiguity=1", {"sort?ambiguity=1": 1.0}),
        ("sort?ambiguity=0.75", {"sort?ambiguity=0.5": 0.5, "sort?ambiguity=1": 0.5}),
        ("sort?ambiguity=0.6", {"sort?ambiguity=0.5": 0.8, "sort?ambiguity=1": 0.2}),
        ("sort?habit=0.7", {"sort?habit=0.6": 1.0}),
        ("rotate", {}),
    ],
)
def test_weights_go_with_the_inverse_of_the_distance(wanted: str, weights: dict[str, float]) -> None:
    assert nearest(wanted, STUDIED) == pytest.approx(weights)


def test_means_are_of_logarithms_where_a_quantity_is_positive() -> None:
    drawn = {"a": np.array([1.0]), "b": np.array([100.0])}
    assert between({"a": 0.5, "b": 0.5}, drawn, positive=True) == pytest.approx(10.0)
    assert between({"a": 0.5, "b": 0.5}, drawn) == pytest.approx(50.5)


def test_a_world_meets_an_unseen_setting_between_its_neighbours() -> None:
    def found(value: float) -> dict[str, Estimate]:
        return {"midpoint": Estimate(value=value, sd=0.0, grade="fitted", source="here")}

    facts = {"tiny": {"sort?ambiguity=0.5": found(1e4), "sort?ambiguity=1": found(4e4)}}
    calibration = replace(default_calibration(), facts=facts, correlations={})
    unseen = domain("sort?ambiguity=0.75")
    assert calibration.draw_fact(unseen, "midpoint", "tiny", seed=0, draws=3) == pytest.approx(2e4)
    assert calibration.draw_fact(domain("reverse"), "midpoint", "tiny", seed=0, draws=3) is None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sort", "reverse"),
        ("sort?ambiguity=0.5", "sort_down?ambiguity=0.5"),
        ("sort?ambiguity=0.4", "sort_down"),
    ],
)
def test_what_is_known_of_a_pair_is_what_its_draws_are(source: str, target: str) -> None:
    calibration, ends = default_calibration(), (domain(source), domain(target))
    known = calibration.pair("conflict", *ends, "tiny")
    drawn_N = calibration.draw_pair("conflict", *ends, "tiny", seed=0, draws=20_000)
    assert known.value == pytest.approx(float(drawn_N.mean()), abs=0.03 * max(known.sd, 0.01))
    assert known.sd == pytest.approx(float(drawn_N.std()), rel=0.03)
