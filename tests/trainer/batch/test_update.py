"""The gradient of an update against one plain backward pass, however the batch is cut."""

from __future__ import annotations

import pytest
import torch
from policies import ARCHITECTURES, policy, prompts
from torch import Tensor

from trainer.batch import update
from trainer.batch.rollout import Rollouts, generate
from trainer.batch.update import LossOf, Sums, accumulate_gradients, hidden_states
from trainer.model import parallel
from trainer.model.policy import Policy

TEMPERATURE = 0.8


def sampled(of: Policy, *, count: int = 6, group: int = 2) -> Rollouts:
    return generate(
        of, prompts(count), rollouts_per_prompt=group, max_new_tokens=12, temperature=TEMPERATURE, seed=1
    )


def token_mean(rollouts: Rollouts) -> LossOf:
    """Mean cross-entropy of all trained tokens of the update, more for later rows."""
    total = int(rollouts.trained_BT.sum())
    token_M = rollouts.response_BT.flatten()
    weight_M = torch.linspace(0.5, 1.5, len(token_M)) / total

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert bool((index_N.diff() > 0).all())
        logprob_N = logits_NV.log_softmax(1).gather(1, token_M[index_N, None]).squeeze(1)
        return -(logprob_N * weight_M[index_N]).sum(), {"tokens": torch.tensor(float(len(index_N)))}

    return loss_of


def gradient(of: Policy) -> Tensor:
    flat = torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])
    of.model.zero_grad(set_to_none=True)
    return flat


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[] if a in ("qwen3 tied", "gpt2") else pytest.mark.slow) for a in ARCHITECTURES],
)
def test_any_cut_gives_the_gradient_of_the_whole(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = policy(architecture)
    rollouts = sampled(of)
    loss_of = token_mean(rollouts)
    hidden_BTD = of.hidden(
        rollouts.prompt_BP, rollouts.prompt_mask_BP, rollouts.response_BT, group=rollouts.group
    )
    index_N = rollouts.trained_BT.flatten().nonzero().squeeze(1)
    whole, _ = loss_of(of.logits(hidden_BTD.flatten(0, 1)[index_N]) / TEMPERATURE, index_N)
    whole.backward()
    truth, expected = gradient(of), float(whole.detach())
    cuts = [
        {},
        {"micro_batch_rows": 2},
        {"micro_batch_rows": 5},
        {"chunk_positions": 7},
        {"micro_batch_rows": 4, "chunk_positions": 3},
    ]
    for threads in (1, 2, 3):
        monkeypatch.setattr(parallel, "parts_for", lambda device, weight_bytes, k=threads: k)
        monkeypatch.setattr(update, "parts_for", lambda device, weight_bytes, k=threads: k)
        for cut in cuts:
            loss, metrics = accumulate_gradients(of, rollouts, loss_of, temperature=TEMPERATURE, **cut)
            assert loss == pytest.approx(expected, rel=1e-5)
            assert metrics.whole == {"tokens": float(len(index_N))}
            assert relative(gradient(of), truth) < 2e-6, (threads, cut)


def test_halves_of_a_batch_add_up_to_the_whole() -> None:
    of = policy()
    rollouts = sampled(of)
    loss_of, first = token_mean(rollouts), 4
    accumulate_gradients(of, rollouts, loss_of)
    truth = gradient(of)
    width = rollouts.response_BT.shape[1]
    accumulate_gradients(of, rollouts.rows(slice(0, first)), loss_of)
    accumulate_gradients(
        of,
        rollouts.rows(slice(first, None)),
        lambda logits, index_N: loss_of(logits, index_N + first * width),
    )
    assert relative(gradient(of), truth) < 2e-6


def test_domains_add_up_to_the_whole_and_each_is_its_own_rows() -> None:
    of = policy()
    rollouts = sampled(of)
    loss_of = token_mean(rollouts)
    spans = {"first": slice(0, 4), "second": slice(4, 10), "third": slice(10, 12)}
    whole, _ = accumulate_gradients(of, rollouts, loss_of)
    truth = gradient(of)
    alone = {}
    for name, span in spans.items():
        update.accumulate_gradients(of, rollouts, loss_of, rows=span)
        alone[name] = float(gradient(of).norm())
    loss, _, report = update.accumulate_by_domain(of, rollouts, spans, loss_of)
    assert loss == pytest.approx(whole, rel=1e-5) and relative(gradient(of), truth) < 2e-6
    assert report()["gradient_norm"] == pytest.approx(alone, rel=1e-6)


def test_untrained_positions_carry_no_loss_and_no_gradient() -> None:
    of = policy()
    rollouts = sampled(of)
    loss_of = token_mean(rollouts)
    accumulate_gradients(of, rollouts, loss_of)
    truth = gradient(of)
    rollouts.response_BT[~rollouts.present_BT] = 3  # other padding
    accumulate_gradients(of, rollouts, loss_of)
    assert relative(gradient(of), truth) < 2e-6
    rollouts.trained_BT[:] = False
    assert accumulate_gradients(of, rollouts, loss_of) == (0.0, Sums())
    assert all(p.grad is None for p in of.parameters())


def test_repeating_an_update_repeats_it_bit_for_bit() -> None:
    of = policy()
    rollouts = sampled(of)
    accumulate_gradients(of, rollouts, token_mean(rollouts), micro_batch_rows=2)
    first = gradient(of)
    accumulate_gradients(of, rollouts, token_mean(rollouts), micro_batch_rows=2)
    assert torch.equal(gradient(of), first)


def test_frozen_parameters_stay_without_gradient() -> None:
    of = policy("qwen3 untied")
    of.model.lm_head.weight.requires_grad_(False)
    of.model.model.embed_tokens.weight.requires_grad_(False)
    rollouts = sampled(of)
    accumulate_gradients(of, rollouts, token_mean(rollouts))
    assert of.model.lm_head.weight.grad is None
    assert of.model.model.embed_tokens.weight.grad is None
    assert of.model.model.layers[0].mlp.up_proj.weight.grad is not None


@pytest.mark.parametrize("architecture", ["qwen3 tied", "llama"])
def test_hidden_states_are_the_policys_on_trained_positions(architecture: str) -> None:
    of = policy(architecture)
    rollouts = sampled(of)
    rollouts.trained_BT[1:4] = False
    with torch.no_grad():
        truth_BTD = of.hidden(
            rollouts.prompt_BP, rollouts.prompt_mask_BP, rollouts.response_BT, group=rollouts.group
        )
    for rows in (None, 2):
        cached_BTD = hidden_states(of, rollouts, micro_batch_rows=rows)
        assert not cached_BTD.requires_grad
        torch.testing.assert_close(
            cached_BTD, truth_BTD * rollouts.trained_BT[..., None], rtol=1e-5, atol=1e-5
        )


def test_parts_are_whole_groups_in_order() -> None:
    spans = parallel.row_spans(21, group=3, parts=2)
    assert spans == [slice(0, 9), slice(9, 21)]
    spans = parallel.row_spans(21, group=3, at_most=7)
    assert [span.stop - span.start for span in spans] == [3, 6, 6, 6]
    assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
    assert parallel.row_spans(2, group=1, parts=8) == [slice(0, 1), slice(1, 2)]


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    of = policy()
    rollouts = sampled(of)
    monkeypatch.setattr(update, "parts_for", lambda device, weight_bytes: 2)

    def broken(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        raise ZeroDivisionError("in a loss")

    with pytest.raises(ZeroDivisionError, match="in a loss"):
        accumulate_gradients(of, rollouts, broken)


def test_large_models_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    cpu = torch.device("cpu")
    assert [parallel.parts_for(cpu, size << 20) for size in (1, 32, 100, 400)] == [8, 8, 2, 1]
    assert parallel.parts_for(torch.device("cuda"), 1) == 1


def test_workers_use_one_thread_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    spans = parallel.row_spans(6, parts=3)
    assert parallel.side_by_side(lambda span: torch.get_num_threads(), spans) == [1, 1, 1]
    assert torch.get_num_threads() == before
    assert parallel.side_by_side(lambda span: torch.is_grad_enabled(), spans) == [True] * 3
    with torch.no_grad():
        assert parallel.side_by_side(lambda span: torch.is_grad_enabled(), spans) == [False] * 3
