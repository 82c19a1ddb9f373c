"""Rollouts against the policy that is scored: same distribution, same log-probs, nothing from padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from policies import ARCHITECTURES, EOS, PAD, VOCAB, policy, prompts
from torch import Tensor

from mopdsim.base.errors import UsageError
from trainer.batch import rollout as decode
from trainer.batch.rollout import Rollouts, generate, turns
from trainer.model.policy import Policy


@torch.no_grad()
def logprob_BT(of: Policy, rollouts: Rollouts, *, temperature: float) -> Tensor:
    """Recomputed by the training forward; 0 where not trained."""
    hidden_BTD = of.hidden(
        rollouts.prompt_BP, rollouts.prompt_mask_BP, rollouts.response_BT, group=rollouts.group
    )
    logprob_BTV = torch.log_softmax(of.logits(hidden_BTD, temperature=temperature), -1)
    own_BT = logprob_BTV.gather(2, rollouts.response_BT[..., None]).squeeze(2)
    return own_BT.masked_fill(~rollouts.trained_BT, 0.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_logprob_is_the_training_forwards(architecture: str, temperature: float) -> None:
    of = policy(architecture)
    rollouts = generate(
        of, prompts(10), rollouts_per_prompt=3, max_new_tokens=50, temperature=temperature, seed=1
    )
    assert len(set(rollouts.trained_BT.sum(1).tolist())) > 3  # rows left at different times
    again_BT = logprob_BT(of, rollouts, temperature=temperature)
    torch.testing.assert_close(rollouts.logprob_BT, again_BT, rtol=0, atol=1e-4)
    if temperature != 1:
        other_BT = logprob_BT(of, rollouts, temperature=1.0)
        assert float((rollouts.logprob_BT - other_BT).abs().max()) > 0.01


def test_frequencies_are_the_policys() -> None:
    of = policy()
    rollouts = generate(of, prompts(1), rollouts_per_prompt=4000, max_new_tokens=1, temperature=0.8, seed=3)
    with torch.no_grad():
        hidden = of.hidden(rollouts.prompt_BP[:1], rollouts.prompt_mask_BP[:1], rollouts.response_BT[:1])
        expected_V = torch.softmax(of.logits(hidden, temperature=0.8)[0, 0], -1)
    observed_V = torch.bincount(rollouts.response_BT[:, 0], minlength=VOCAB) / 4000
    error_V = (expected_V * (1 - expected_V) / 4000).sqrt()
    assert bool(((observed_V - expected_V).abs() < 4 * error_V + 1e-3).all())


def test_a_seed_gives_the_same_rollouts_and_another_does_not() -> None:
    of = policy()
    first, same, other = (
        generate(of, prompts(4), rollouts_per_prompt=2, max_new_tokens=9, temperature=1.0, seed=seed)
        for seed in (1, 1, 2)
    )
    for name in ("response_BT", "logprob_BT", "present_BT"):
        assert torch.equal(getattr(first, name), getattr(same, name))
    width = min(first.response_BT.shape[1], other.response_BT.shape[1])
    assert not torch.equal(first.response_BT[:, :width], other.response_BT[:, :width])


@pytest.mark.parametrize("architecture", ["qwen3 tied", "llama"])
def test_neighbours_and_early_leavers_change_nothing(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = policy(architecture)
    asked = [*prompts(5), [1] * 12]
    common = {"rollouts_per_prompt": 2, "max_new_tokens": 25, "temperature": 1.0, "seed": 4}
    together = generate(of, asked, **common)
    monkeypatch.setattr(decode, "WORTH_DROPPING", 2.0)
    kept = generate(of, asked, **common)
    assert torch.equal(together.response_BT, kept.response_BT)
    alone = generate(of, asked[:2], **common)  # narrower prompts, fewer rows
    width = alone.response_BT.shape[1]
    assert torch.equal(alone.response_BT, together.response_BT[:4, :width])
    torch.testing.assert_close(alone.logprob_BT, together.logprob_BT[:4, :width], rtol=0, atol=1e-4)


def test_the_end_of_sequence_ends_a_row_and_the_rest_is_truncated() -> None:
    rollouts = generate(
        policy(), prompts(8), rollouts_per_prompt=4, max_new_tokens=20, temperature=1.0, seed=5
    )
    assert 0 < int(rollouts.truncated_B.sum()) < len(rollouts.truncated_B)
    for b in range(len(rollouts.response_BT)):
        response_T, present_T = rollouts.response_BT[b].tolist(), rollouts.present_BT[b].tolist()
        length = sum(present_T)
        assert present_T == [True] * length + [False] * (len(present_T) - length)
        assert EOS not in response_T[: length - 1]
        assert (response_T[length - 1] != EOS) == bool(rollouts.truncated_B[b])
        assert length == 20 or not rollouts.truncated_B[b]
        assert response_T[length:] == [PAD] * (len(present_T) - length)
    assert torch.equal(rollouts.trained_BT, rollouts.present_BT)
    assert not rollouts.logprob_BT[~rollouts.present_BT].any()


def test_an_end_as_the_last_token_allowed_is_not_a_truncation() -> None:
    of = policy()
    rollouts = generate(of, prompts(40), rollouts_per_prompt=8, max_new_tokens=1, temperature=1.0, seed=0)
    ended_B = rollouts.response_BT[:, 0] == EOS
    assert 0 < int(ended_B.sum()) < len(ended_B)
    assert torch.equal(rollouts.truncated_B, ~ended_B)


def test_at_least_so_many_tokens() -> None:
    of = policy()
    rollouts = generate(
        of,
        prompts(20),
        rollouts_per_prompt=4,
        max_new_tokens=6,
        min_new_tokens=6,
        temperature=1.0,
        seed=6,
    )
    assert bool(rollouts.present_BT.all())
    assert bool(rollouts.truncated_B.all())
    torch.testing.assert_close(
        rollouts.logprob_BT, logprob_BT(of, rollouts, temperature=1.0), rtol=0, atol=1e-4
    )


def test_temperature_zero_takes_the_likeliest_token() -> None:
    of = policy()
    rollouts = generate(of, prompts(3), rollouts_per_prompt=1, max_new_tokens=8, temperature=0.0, seed=0)
    for b, prompt in enumerate(prompts(3)):
        tokens = list(prompt)
        for t in range(int(rollouts.present_BT[b].sum())):
            likeliest = int(of.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
            assert int(rollouts.response_BT[b, t]) == likeliest
            tokens.append(likeliest)


@pytest.mark.parametrize("architecture", ["qwen3 tied", "gpt2"])
def test_conversations_hold_observations_that_are_not_trained(architecture: str) -> None:
    of = policy(architecture)
    asked: list[tuple[int, int]] = []

    def observe(row: int, said: list[str]) -> list[int] | None:
        asked.append((row, len(said)))
        return None if row % 4 == 0 else [7, 8, 9]

    rollouts = generate(
        of,
        prompts(6),
        observe=observe,
        max_turns=3,
        rollouts_per_prompt=2,
        max_new_tokens=40,
        temperature=1.3,
        seed=2,
    )
    torch.testing.assert_close(
        rollouts.logprob_BT, logprob_BT(of, rollouts, temperature=1.3), rtol=0, atol=1e-4
    )
    said = turns(of, rollouts)
    assert {len(row) for row in said} >= {1, 3}
    for b, row in enumerate(said):
        length = int(rollouts.present_BT[b].sum())
        observed = (rollouts.present_BT[b] & ~rollouts.trained_BT[b]).nonzero().flatten().tolist()
        assert rollouts.response_BT[b, observed].tolist() == [7, 8, 9] * (len(row) - 1)
        for place in observed[::3]:  # an observation follows an end of turn
            assert int(rollouts.response_BT[b, place - 1]) == EOS
        last = int(rollouts.response_BT[b, length - 1])
        assert bool(rollouts.truncated_B[b]) == (last != EOS)
        assert bool(rollouts.trained_BT[b, length - 1])
        assert len(row) == 1 or b % 4 != 0
        finished = int((rollouts.response_BT[b] == EOS).sum())
        assert [turn for row_, turn in asked if row_ == b] == list(range(1, min(finished, 2) + 1))[
            : 1 if b % 4 == 0 else 2
        ]


def test_a_conversation_that_is_over_at_once_is_a_single_turn() -> None:
    of = policy()
    common = {"rollouts_per_prompt": 3, "max_new_tokens": 12, "temperature": 1.0, "seed": 8}
    one = generate(of, prompts(4), **common)
    other = generate(of, prompts(4), max_turns=5, **common)
    for field in dataclasses.fields(Rollouts):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_rows_keep_whole_groups() -> None:
    of = policy()
    rollouts = generate(of, prompts(4), rollouts_per_prompt=2, max_new_tokens=5, temperature=1.0, seed=0)
    assert rollouts.rows(slice(2, 6)).group == 2
    assert rollouts.rows(torch.tensor([6, 7, 0, 1])).group == 2
    assert rollouts.rows(torch.tensor([1, 0])).group == 1
    odd = rollouts.rows(torch.tensor([1, 2, 5]))
    assert odd.group == 1
    assert torch.equal(odd.response_BT, rollouts.response_BT[[1, 2, 5]])


def test_rows_longer_than_the_model_are_refused() -> None:
    with pytest.raises(UsageError, match=r"129.*128 positions"):
        generate(policy(), [[1, 2, 3]], rollouts_per_prompt=1, max_new_tokens=126, temperature=1.0, seed=0)
