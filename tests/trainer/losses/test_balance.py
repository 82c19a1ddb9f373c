"""Domain weights against the property each strategy promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import UsageError
from trainer.losses import balance

STRATEGIES = (balance.token_share, balance.remaining_gap, balance.dispersion)
statistics = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=12)


@given(statistic=statistics, strategy=st.sampled_from(STRATEGIES), limit=st.floats(1, 100))
def test_weights_have_mean_one_and_stay_within_the_limit(statistic, strategy, limit: float) -> None:
    weights = strategy(statistic, limit=limit)
    assert weights.mean() == pytest.approx(1)
    assert (weights >= 1 / limit - 1e-12).all() and (weights <= limit + 1e-12).all()


@given(statistic=statistics, strategy=st.sampled_from(STRATEGIES))
def test_weights_follow_the_order_of_the_statistic(statistic, strategy) -> None:
    weights = strategy(statistic)[np.argsort(statistic)]
    steps = np.diff(weights) * (1 if strategy is balance.remaining_gap else -1)
    assert (steps >= -1e-9).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_domains_and_a_single_domain_keep_weight_one(strategy) -> None:
    assert balance.none(3).tolist() == [1, 1, 1]
    assert strategy([0.2, 0.2, 0.2]) == pytest.approx([1, 1, 1])
    assert strategy([0.0, 0.0]) == pytest.approx([1, 1])
    assert strategy([7.0]) == pytest.approx([1])


def test_token_share_equalises_gradient_tokens() -> None:
    tokens = np.array([100.0, 250.0, 400.0])
    share = tokens * balance.token_share(tokens)
    assert share == pytest.approx([share[0]] * 3)


def test_dispersion_equalises_signal() -> None:
    spread = np.array([0.5, 0.1, 0.2])
    assert spread * balance.dispersion(spread) == pytest.approx([(0.5 * 0.2 * 3) / 1.7] * 3)


def test_remaining_gap_is_proportional_and_a_finished_domain_gets_the_least() -> None:
    assert balance.remaining_gap([0.1, 0.3]) == pytest.approx([0.5, 1.5])
    assert balance.remaining_gap([-0.2, 0.3, 0.3], limit=5) == pytest.approx([0.2, 1.4, 1.4])


def test_a_domain_far_below_the_others_meets_the_limit() -> None:
    assert balance.token_share([0.99, 20.0, 79.0], limit=2).max() == pytest.approx(2)


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [np.inf], [[1.0]], [-1.0]])
def test_a_statistic_that_is_none_is_refused(bad) -> None:
    with pytest.raises(UsageError, match="per domain"):
        balance.token_share(bad)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"limit is 0\.5"):
        balance.dispersion([1.0, 2.0], limit=0.5)


def test_effective_share_of_open_mopd() -> None:
    """Token mean: share of prompts times length; sequence mean and normalised: share of prompts alone."""
    prompts, length, spread = [20.3, 39.7, 40.0], [50.0, 2000.0, 3000.0], [1.0, 2.0, 1.0]
    by_token = balance.effective_share(prompts, length, spread, 1, 0)
    mass = np.multiply(prompts, length)
    assert by_token == pytest.approx(mass / mass.sum())
    assert by_token[0] < 0.01
    assert balance.effective_share(prompts, length, spread, 0, 0) == pytest.approx(np.array(prompts) / 100)
    assert balance.effective_share([1, 1, 1], length, spread, 0, 1) == pytest.approx([0.25, 0.5, 0.25])


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="no domain a gradient"):
        balance.effective_share([0, 0], [1, 1], [1, 1], 1, 1)
