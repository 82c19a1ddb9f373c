"""A policy's states and logits against the Hugging Face module run on each row alone, without any padding."""

from __future__ import annotations

import pytest
import torch
from policies import ARCHITECTURES, EOS, LEAN, VOCAB, Characters, policy, prompts, qwen3
from torch import Tensor, nn

from mopdsim.base.errors import UsageError
from trainer.batch.rollout import left_pad
from trainer.model import attention, kernels
from trainer.model import policy as policies_of
from trainer.model.lean import Lean
from trainer.model.policy import GenericBackbone, Policy

GROUP, LENGTH = 3, 6


def batch(of: Policy, *, count: int = 4, group: int = GROUP) -> tuple[Tensor, Tensor, Tensor]:
    """(prompt_BP, mask_BP, response_BT) with ragged left-padded prompts."""
    prompt_UP, mask_UP = left_pad(prompts(count), of)
    noise = torch.Generator().manual_seed(5)
    response_BT = torch.randint(VOCAB, (count * group, LENGTH), generator=noise)
    return prompt_UP.repeat_interleave(group, 0), mask_UP.repeat_interleave(group, 0), response_BT


def alone(of: Policy, prompt_BP: Tensor, mask_BP: Tensor, response_BT: Tensor) -> Tensor:
    """logits_BTV by the module's own forward, one row at a time: position t predicts response token t."""
    rows = []
    for prompt_P, mask_P, response_T in zip(prompt_BP, mask_BP, response_BT, strict=True):
        tokens = torch.cat([prompt_P[mask_P], response_T])
        rows.append(of.model(input_ids=tokens[None]).logits[0, int(mask_P.sum()) - 1 : -1])
    return torch.stack(rows)


def gradients(of: Policy, logits: Tensor) -> list[Tensor]:
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    return list(torch.autograd.grad((logits * weight).sum(), list(of.parameters())))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def any_policy(request: pytest.FixtureRequest) -> Policy:
    return policy(request.param)


@pytest.mark.parametrize("path", ["blocks", "rows"])
@pytest.mark.parametrize("architecture", LEAN)
@pytest.mark.parametrize("onednn", [True, False])
def test_lean_logits_and_gradients_equal_the_module(
    path: str, architecture: str, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", 512 if path == "blocks" else 0)
    monkeypatch.setattr(kernels, "ONEDNN_PRODUCTS", 0)
    monkeypatch.setattr(kernels, "ONEDNN", onednn and kernels.ONEDNN)
    lean = policy(architecture)
    assert isinstance(lean.backbone, Lean)
    rows = batch(lean)
    logits = lean.logits(lean.hidden(*rows, group=GROUP))
    truth = alone(lean, *rows)
    torch.testing.assert_close(logits, truth, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(lean, logits), gradients(lean, truth), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_states_predict_the_right_token(any_policy: Policy) -> None:
    rows = batch(any_policy)
    logits = any_policy.logits(any_policy.hidden(*rows, group=GROUP))
    torch.testing.assert_close(logits, alone(any_policy, *rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_families_take_the_lean_path(architecture: str) -> None:
    assert isinstance(policy(architecture).backbone, Lean if architecture in LEAN else GenericBackbone)


def test_a_group_equals_repeated_prompts(any_policy: Policy) -> None:
    rows = batch(any_policy)
    shared, repeated = (any_policy.logits(any_policy.hidden(*rows, group=group)) for group in (GROUP, 1))
    torch.testing.assert_close(shared, repeated, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(any_policy, shared), gradients(any_policy, repeated), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()) + 1e-7)


def test_padding_changes_nothing(any_policy: Policy) -> None:
    prompt_BP, mask_BP, response_BT = batch(any_policy)
    wider = torch.nn.functional.pad(prompt_BP, (4, 0), value=3), torch.nn.functional.pad(mask_BP, (4, 0))
    longer = torch.nn.functional.pad(response_BT, (0, 5), value=9)
    here = any_policy.hidden(prompt_BP, mask_BP, response_BT, group=GROUP)
    there = any_policy.hidden(*wider, longer, group=GROUP)[:, :LENGTH]
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_only_wanted_states_are_returned(any_policy: Policy) -> None:
    rows = batch(any_policy)
    wanted_BT = torch.rand(rows[2].shape, generator=torch.Generator().manual_seed(1)) < 0.4
    wanted_BT[2:7] = False
    some = any_policy.hidden_at(*rows, wanted_BT, group=GROUP)
    torch.testing.assert_close(some, any_policy.hidden(*rows, group=GROUP)[wanted_BT], rtol=1e-5, atol=1e-5)
    assert any_policy.hidden_at(*rows, wanted_BT & False, group=GROUP).shape[0] == 0


def test_one_token_responses(any_policy: Policy) -> None:
    prompt_BP, mask_BP, response_BT = batch(any_policy)
    rows = prompt_BP, mask_BP, response_BT[:, :1]
    logits = any_policy.logits(any_policy.hidden(*rows, group=GROUP))
    torch.testing.assert_close(logits, alone(any_policy, *rows), rtol=1e-4, atol=1e-4)


def test_decoding_step_by_step_equals_the_forward(any_policy: Policy) -> None:
    prompt_BP, mask_BP, response_BT = batch(any_policy)
    truth = any_policy.hidden(prompt_BP, mask_BP, response_BT, group=GROUP)
    unique = prompt_BP[::GROUP], mask_BP[::GROUP]
    decoder = any_policy.decoder(*unique, group=GROUP, max_new_tokens=LENGTH)
    kept_K = torch.arange(len(response_BT))
    with torch.no_grad():
        for t in range(LENGTH):
            torch.testing.assert_close(decoder.hidden_BD, truth[kept_K, t], rtol=1e-4, atol=1e-4)
            if t == 2:  # rows leave in the middle, one group whole
                chosen = torch.tensor([11, 0, 4, 5, 7])
                decoder.keep(chosen)
                kept_K = kept_K[chosen]
            decoder.step(response_BT[kept_K, t])


def test_weights_are_read_anew_at_every_call() -> None:
    lean = policy()
    rows = batch(lean)
    with torch.no_grad():
        lean.hidden(*rows, group=GROUP)
        for parameter in lean.parameters():
            parameter.mul_(1.1)
        logits = lean.logits(lean.hidden(*rows, group=GROUP))
        torch.testing.assert_close(logits, alone(lean, *rows), rtol=1e-4, atol=1e-4)


def test_temperature_divides_the_logits() -> None:
    of = policy()
    hidden = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(of.logits(hidden, temperature=0.5), of.logits(hidden) * 2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hidden_act": "gelu"}, "activation"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "sliding window"),
    ],
)
def test_variants_the_lean_path_does_not_know_run_generically(changes: dict[str, object], what: str) -> None:
    torch.manual_seed(0)
    of = Policy(qwen3(**changes), Characters())
    assert isinstance(of.backbone, GenericBackbone), what
    rows = batch(of)
    logits = of.logits(of.hidden(*rows, group=GROUP))
    torch.testing.assert_close(logits, alone(of, *rows), rtol=1e-4, atol=1e-4)


def test_a_lean_path_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies_of, "_chosen", {})
    monkeypatch.setattr(Lean, "finish", lambda self, layer, x_ND, mixed_ND: x_ND)
    assert isinstance(policy().backbone, GenericBackbone)


def test_a_head_that_is_not_understood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies_of, "_chosen", {})
    model = qwen3()
    forward = type(model).forward

    def shifted(self: nn.Module, **inputs: Tensor) -> object:
        out = forward(self, **inputs)
        out.logits = out.logits + torch.arange(VOCAB)
        return out

    model.forward = shifted.__get__(model)
    with pytest.raises(UsageError, match="plain linear head"):
        Policy(model, Characters())


def test_disagreeing_end_of_sequence_ids_are_refused() -> None:
    model = qwen3()
    assert Policy(model, Characters()).eos_ids == {EOS}
    model.generation_config.eos_token_id = [EOS, 5]
    assert Policy(model, Characters()).eos_ids == {EOS, 5}
    model.generation_config.eos_token_id = 5
    with pytest.raises(UsageError, match=r"token 39.*\[5\]"):
        Policy(model, Characters())


@pytest.mark.parametrize("family", ["Mamba", "Qwen3Next"])
def test_a_recurrent_state_is_refused_in_a_sentence(family: str) -> None:
    import transformers

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "vocab_size": VOCAB,
        "eos_token_id": EOS,
        "pad_token_id": 38,
    }
    if family == "Qwen3Next":
        sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 16}
        sizes |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
        sizes |= {
            "linear_num_value_heads": 2,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 8,
        }
        sizes |= {"shared_expert_intermediate_size": 8}
    config = getattr(transformers, f"{family}Config")(**sizes)
    with pytest.raises(UsageError, match=f"model {family}ForCausalLM: keeps a state") as caught:
        Policy(getattr(transformers, f"{family}ForCausalLM")(config), Characters())
    assert "\n" not in str(caught.value)


def test_dropout_is_off() -> None:
    of = policy("gpt2")
    rows = batch(of)
    of.model.train()
    Policy(of.model, Characters())
    torch.testing.assert_close(of.hidden(*rows), of.hidden(*rows), rtol=0, atol=0)


@pytest.mark.parametrize("path", ["blocks", "rows"])
@pytest.mark.parametrize("architecture", LEAN)
def test_bfloat16_computes_under_autocast_with_float32_weights(
    path: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", 512 if path == "blocks" else 0)
    exact = policy(architecture)
    rough = Policy(exact.model, Characters(), dtype=torch.bfloat16)
    assert isinstance(rough.backbone, Lean)
    rows = batch(rough)
    logits = rough.logits(rough.hidden(*rows, group=GROUP))
    truth = exact.logits(exact.hidden(*rows, group=GROUP))
    difference = float((logits - truth).detach().abs().max())
    assert 0 < difference < 0.05 * float(truth.detach().abs().max())
    for one, other in zip(gradients(rough, logits), gradients(exact, truth), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm()) < 0.1 * float(other.norm())
    decoder = rough.decoder(rows[0][::GROUP], rows[1][::GROUP], group=GROUP, max_new_tokens=2)
    with torch.no_grad(), rough.autocast():
        decoder.step(rows[2][:, 0])
        torch.testing.assert_close(rough.logits(decoder.hidden_BD), logits[:, 1], rtol=0, atol=2 * difference)


def test_a_bfloat16_policy_sees_weights_that_change() -> None:
    """Copies of weights are kept while they hold their values: training, loading and merging all change in place."""
    of = Policy(policy("llama").model, Characters(), dtype=torch.bfloat16)
    rows = batch(of)
    unique = rows[0][::GROUP], rows[1][::GROUP]

    def seen() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            decoder = of.decoder(*unique, group=GROUP, max_new_tokens=2)
            with of.autocast():
                decoder.step(rows[2][:, 0])
                return of.logits(of.hidden(*rows, group=GROUP)), of.logits(decoder.hidden_BD)

    before, again = seen(), seen()
    optimizer = torch.optim.AdamW(of.parameters(), lr=0.1, fused=True)
    for parameter in of.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after, fresh = seen(), Policy(of.model, Characters(), dtype=torch.bfloat16)
    for one, other, changed in zip(before, again, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert float((one - changed).abs().max()) > 0.1
    torch.testing.assert_close(after[0], fresh.logits(fresh.hidden(*rows, group=GROUP)), rtol=0, atol=0)
