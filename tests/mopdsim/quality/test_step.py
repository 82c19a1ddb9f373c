"""Shares, conflict, transfer and forgetting against hand-computed cases and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.arrays import logistic, logit
from mopdsim.quality.step import effective_share, mean_conflict, retained, scaled_gain, transfer

scores = st.floats(0.001, 0.999)


def _column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_shares_follow_prompts_lengths_and_dispersion_as_the_loss_says() -> None:
    prompts, lengths, spread = np.array([1.0, 3.0]), _column(100, 10), _column(1, 2)
    by_token = effective_share(prompts, lengths, by_length=True)
    assert by_token[:, 0] == pytest.approx([100 / 130, 30 / 130])
    by_sequence = effective_share(prompts, lengths, spread, by_length=False)
    assert by_sequence[:, 0] == pytest.approx([1 / 7, 6 / 7])


def test_open_mopd_share_of_gradient_tokens() -> None:
    # 2608.19098: 20.3% of the prompts held 0.99% of the gradient tokens, so its answers were 25 times
    # shorter.
    shares = effective_share(np.array([0.203, 0.797]), _column(1.0, 25.5), by_length=True)
    assert shares[0, 0] == pytest.approx(0.0099, abs=2e-4)


def test_equal_shares_give_the_sum_over_companions_divided_by_the_root_of_their_number() -> None:
    conflict = np.zeros((3, 3, 1))
    conflict[1, 0], conflict[2, 0], conflict[0, 1] = -0.4, 0.1, 0.3
    thirds = np.full((3, 1), 1 / 3)
    kbar = mean_conflict(conflict, thirds)
    assert kbar[:, 0] == pytest.approx([-0.3 / np.sqrt(2), 0.3 / np.sqrt(2), 0.0])


def test_one_domain_or_no_conflict_changes_nothing() -> None:
    assert not mean_conflict(np.full((1, 1, 2), 0.7), np.ones((1, 2))).any()
    assert not mean_conflict(np.zeros((3, 3, 2)), np.full((3, 2), 1 / 3)).any()


@given(scores, scores, st.floats(0.01, 20))
def test_scaled_gains_stay_probabilities_and_scale_logits(before: float, after: float, factor: float) -> None:
    scaled = scaled_gain(np.array(before), np.array(after), np.array(factor))
    assert 0 <= scaled <= 1
    if 1e-9 < scaled < 1 - 1e-9:
        assert logit(scaled) - logit(before) == pytest.approx(
            factor * (logit(after) - logit(before)), abs=1e-6
        )


@given(scores, scores)
def test_factor_one_is_the_identity(before: float, after: float) -> None:
    assert scaled_gain(np.array(before), np.array(after), np.array(1.0)) == pytest.approx(after)


def test_transfer_takes_the_best_help_and_all_harm() -> None:
    spill = np.array([[[0.5], [-0.1]], [[0.2], [-0.3]]])
    change, lifted = transfer(_column(1.0, 0.5), spill, np.zeros((2, 1)))
    assert change[:, 0] == pytest.approx([0.5, -0.1 - 0.15])
    assert lifted[:, 0] == pytest.approx([0.5, 0.0])


def test_help_of_a_later_stage_counts_only_above_that_of_earlier_ones() -> None:
    spill = np.array([[[0.2], [0.7], [-0.4]]])
    change, lifted = transfer(_column(1.0), spill, _column(0.5, 0.5, 0.5))
    assert change[:, 0] == pytest.approx([0.0, 0.2, -0.4])
    assert lifted[:, 0] == pytest.approx([0.5, 0.7, 0.5])


def test_replay_halves_forgetting_at_its_half_and_nothing_is_forgotten_without_movement() -> None:
    bare = retained(np.array(0.1), np.array(0.0), np.array(5.0))
    half = retained(np.array(0.1), np.array(0.05), np.array(5.0))
    assert np.log(half) == pytest.approx(np.log(bare) / 2)
    assert retained(np.array(0.0), np.array(0.0), np.array(5.0)) == 1


@given(st.floats(-30, 30))
def test_logit_inverts_logistic(value: float) -> None:
    assert logit(logistic(np.array(min(max(value, -20), 20)))) == pytest.approx(
        min(max(value, -20), 20), abs=1e-6
    )
