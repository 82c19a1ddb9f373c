"""Domain weights against the property each strategy promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.losses import balance

STRATEGIES = (balance.token_share, balance.remaining_gap, balance.dispersion)
statistics = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=12)


@given(statistic=statistics, strategy=st.sampled_from(STRATEGIES))
def test_weights_have_mean_one_and_stay_within_the_limit(statistic, strategy) -> None:
    weights = strategy(statistic)
    assert weights.mean() == pytest.approx(1)
    assert (weights >= 1 / balance.LIMIT - 1e-12).all() and (weights <= balance.LIMIT + 1e-12).all()


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
    assert balance.remaining_gap([-0.2, 0.3, 0.3]) == pytest.approx([0.1, 1.45, 1.45])


def test_a_domain_far_below_the_others_meets_the_limit() -> None:
    assert balance.token_share([0.01, *[100.0] * 19]).max() == pytest.approx(balance.LIMIT)


def test_effective_share_is_weight_times_dispersion() -> None:
    assert balance.effective_share([1, 1, 1], [1.0, 2.0, 1.0]) == pytest.approx([0.25, 0.5, 0.25])
    assert balance.effective_share([2, 1, 1], [1.0, 2.0, 0.0]) == pytest.approx([0.5, 0.5, 0.0])
