"""Tiny random models of several architectures, and a tokenizer of characters, for the trainer's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trainer.model.policy import Policy

VOCAB, PAD, EOS = 40, 38, 39
_WIDE = {
    "vocab_size": VOCAB,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
}


class Characters:
    """The part of a tokenizer that a policy needs."""

    pad_token_id, eos_token_id = PAD, EOS

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(ord("a") + token) for token in ids if token < PAD)


def qwen3(*, tied: bool = True, **changes: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = Qwen3ForCausalLM(Qwen3Config(**(_WIDE | sizes | heads | {"tie_word_embeddings": tied} | changes)))
    with torch.no_grad():  # norms of 1 would hide a norm that is forgotten
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return _biased(model)


_SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 128}


def llama(**changes: Any) -> PreTrainedModel:
    return _biased(LlamaForCausalLM(LlamaConfig(**(_WIDE | _SIZES | changes))))


def mistral(**changes: Any) -> PreTrainedModel:
    sizes = {"head_dim": 8, "sliding_window": None}
    return MistralForCausalLM(MistralConfig(**(_WIDE | _SIZES | sizes | changes)))


def qwen2(**changes: Any) -> PreTrainedModel:
    return _biased(Qwen2ForCausalLM(Qwen2Config(**(_WIDE | _SIZES | changes))))


def _biased(model: PreTrainedModel) -> PreTrainedModel:
    """Biases of 0, as models are made with, would hide a bias that is forgotten."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
    return model


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=128, **_WIDE))


LEAN = ("qwen3 tied", "qwen3 untied", "llama", "llama with biases", "mistral", "qwen2")
ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3 tied": qwen3,
    "qwen3 untied": lambda: qwen3(tied=False),
    "llama": llama,
    "llama with biases": lambda: llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": mistral,
    "mistral of short sight": lambda: mistral(sliding_window=4),
    "qwen2": qwen2,
    "gpt2": gpt2,
}


def policy(architecture: str = "qwen3 tied", *, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return Policy(ARCHITECTURES[architecture](), Characters())


def prompts(count: int, *, seed: int = 0, longest: int = 7) -> list[list[int]]:
    """Ragged token ids, the first as long as any, without special tokens."""
    noise = torch.Generator().manual_seed(seed)
    lengths = [longest, *torch.randint(1, longest + 1, (count - 1,), generator=noise).tolist()]
    return [torch.randint(PAD, (length,), generator=noise).tolist() for length in lengths]
