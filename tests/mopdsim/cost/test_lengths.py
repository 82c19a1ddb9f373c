"""Length distributions: their mean and their longest of many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.cost.generation import Lengths


@given(share=st.floats(0.02, 0.98), sigma=st.floats(0.05, 1.5), maximum=st.floats(64, 1e5))
def test_length_distributions_keep_their_mean(share: float, sigma: float, maximum: float) -> None:
    lengths = Lengths(mean=share * maximum, maximum=maximum, sigma=sigma)
    tokens = np.linspace(0, maximum, 20_001)
    survival = lengths.survival(tokens)
    assert np.trapezoid(survival, tokens) == pytest.approx(lengths.mean, rel=5e-3)
    assert np.all(np.diff(survival) <= 1e-12)


def test_spreads_side_by_side_equal_those_solved_one_by_one() -> None:
    sigmas = np.linspace(0.3, 0.9, 200)
    many = Lengths(mean=2000, maximum=8192, sigma=sigmas).survival([1000.0])
    one = [float(Lengths(mean=2000, maximum=8192, sigma=s).survival([1000.0])[0]) for s in sigmas[::20]]
    assert many[::20, 0] == pytest.approx(one, abs=1e-9)


def test_the_longest_of_many_is_what_sampling_gives() -> None:
    lengths = Lengths(mean=900, maximum=4096, sigma=0.6)
    uncut = math.log(900) - 0.18  # the cut at 4096 moves the mean by less than half a percent
    drawn = np.random.default_rng(0).lognormal(uncut, 0.6, (20_000, 32)).clip(max=4096)
    assert float(lengths.expected_longest(32)) == pytest.approx(drawn.max(axis=1).mean(), rel=0.01)
    assert float(lengths.expected_longest(1)) == pytest.approx(900, rel=2e-3)
    assert float(lengths.expected_longest(1e9)) == pytest.approx(4096, rel=1e-3)


def test_many_spreads_at_once_have_a_longest_each() -> None:
    longest = Lengths(mean=900, maximum=4096, sigma=np.array([0.2, 0.6])).expected_longest(32)
    one = Lengths(mean=900, maximum=4096, sigma=0.6).expected_longest(32)
    assert longest.shape == (2,) and longest[0] < longest[1] == pytest.approx(float(one))
