"""Losses of the tokens of rollouts against the same sums over whole batches, whatever positions are asked for."""

from __future__ import annotations

import pytest
import torch
from policies import policy, prompts
from torch import Tensor

from trainer.batch.objective import Objective, Penalty, likelihood, surrogate
from trainer.batch.rollout import Rollouts, generate
from trainer.batch.score import score
from trainer.losses.losses import token_weights
from trainer.model.policy import Policy

TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def of() -> Policy:
    return policy()


@pytest.fixture(scope="module")
def rollouts(of: Policy) -> Rollouts:
    return generate(of, prompts(2), rollouts_per_prompt=2, max_new_tokens=6, temperature=TEMPERATURE, seed=1)


def parts(rollouts: Rollouts, loss_of: Objective, logits_MV: Tensor) -> tuple[float, float]:
    """The loss of all trained positions at once, and of two halves together."""
    index_N = rollouts.trained_BT.flatten().nonzero().squeeze(1)
    whole, *halves = (
        float(loss_of(logits_MV[own_N], own_N)[0]) for own_N in (index_N, *index_N.tensor_split(2))
    )
    return whole, sum(halves)


def test_likelihood_is_the_weighted_cross_entropy_of_the_tokens(rollouts: Rollouts) -> None:
    weight_BT = token_weights(rollouts.trained_BT)
    logits_MV = torch.randn(weight_BT.numel(), 300, generator=torch.Generator().manual_seed(2))
    truth_M = torch.nn.functional.cross_entropy(logits_MV, rollouts.response_BT.flatten(), reduction="none")
    truth = pytest.approx(float((weight_BT.flatten() * truth_M).sum()), rel=1e-5)
    assert parts(rollouts, likelihood(rollouts, weight_BT), logits_MV) == (truth, truth)


def test_at_the_sampling_policy_the_surrogate_is_the_mean_advantage_less_the_penalty(
    of: Policy, rollouts: Rollouts
) -> None:
    """Ratios are one there, so nothing is clipped; the KL against the policy itself is nothing, against another not."""
    weight_BT = token_weights(rollouts.trained_BT)
    advantage_BT = torch.tensor([1.0, -0.5, 2.0, 0.25])[:, None].expand(weight_BT.shape)
    scored = score(of, rollouts)
    logits_MV = scored.at(torch.arange(weight_BT.numel()), TEMPERATURE)
    mean = pytest.approx(-float((weight_BT * advantage_BT).sum()), abs=1e-4)
    assert parts(rollouts, surrogate(rollouts, advantage_BT, weight_BT), logits_MV) == (mean, mean)
    own, other = (
        Penalty(reference=score(model, rollouts), temperature=TEMPERATURE, coefficient=0.5)
        for model in (of, policy(seed=3))
    )
    held = surrogate(rollouts, advantage_BT, weight_BT, penalty=own)
    assert parts(rollouts, held, logits_MV) == (mean, mean)
    whole, halves = parts(rollouts, surrogate(rollouts, advantage_BT, weight_BT, penalty=other), logits_MV)
    assert whole > -float((weight_BT * advantage_BT).sum()) + 1e-3 and halves == pytest.approx(
        whole, rel=1e-4
    )


def test_a_ratio_far_above_one_earns_no_more_than_the_clip(rollouts: Rollouts) -> None:
    weight_BT = token_weights(rollouts.trained_BT)
    sure_MV = torch.zeros(weight_BT.numel(), 300)
    sure_MV[torch.arange(len(sure_MV)), rollouts.response_BT.flatten()] = 50.0
    loss_of = surrogate(rollouts, torch.ones_like(weight_BT), weight_BT)
    ratio_BT = (-rollouts.logprob_BT).exp().clamp(max=1.28)
    truth = pytest.approx(-float((weight_BT * ratio_BT).sum()), rel=1e-5)
    assert parts(rollouts, loss_of, sure_MV) == (truth, truth)
