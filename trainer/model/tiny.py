"""Small random models that run anywhere: Hugging Face directories made without a network.

`init_model(directory, kind="tiny", seed=0)` writes a Qwen3 model with random weights and a tokenizer:

  tiny   a token per printable ASCII character; a user's turn and an assistant's turn cost one opening token
         each, so a one-turn prompt is two tokens longer than its text
  bytes  a token per byte, any text; turns are opened and closed in words, as large chat models do

Both keep `pad`, `bos` and `eos` apart, end every assistant turn with eos, and refuse roles other than user
and assistant. The same arguments give the same bytes. Leaves out: training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mopdsim.base.errors import UsageError, did_you_mean
from trainer.tasks import ALPHABET

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
BOS: Final = "<|bos|>"
EOS: Final = "<|eos|>"
UNKNOWN: Final = "<|unk|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
_SPECIAL: Final = (PAD, BOS, EOS, UNKNOWN, USER, ASSISTANT)


POSITIONS: Final = 2048
Kind = Literal["tiny", "bytes"]
_TURNS: Final[dict[Kind, tuple[str, str, str]]] = {  # before a user's text, after it, before an assistant's
    "tiny": (USER, "", ASSISTANT),
    "bytes": (f"{USER}user\n", "\n", f"{ASSISTANT}assistant\n"),
}
_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ OPEN_USER + message['content'] + CLOSE_USER }}"
    "{%- elif message['role'] == 'assistant' -%}{{ OPEN_ASSISTANT + message['content'] + EOS }}"
    "{%- else -%}{{ raise_exception('roles are user and assistant, got ' + message['role']) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ OPEN_ASSISTANT }}{%- endif -%}"
)


def init_model(
    directory: Path | str,
    *,
    kind: Kind = "tiny",
    seed: int = 0,
    hidden: int = 64,
    layers: int = 3,
    heads: int = 4,
) -> int:
    """Write a random Qwen3 model (`sizes`) and its tokenizer in Hugging Face layout; returns the number of parameters.

    Raises UsageError for an unknown kind or sizes that do not divide.
    """
    if kind not in _TURNS:
        raise UsageError(f"kind={kind!r} must be tiny or bytes{did_you_mean(kind, _TURNS)}")
    if min(hidden, layers, heads) < 1 or hidden % (2 * heads):
        raise UsageError(
            f"hidden={hidden}, layers={layers}, heads={heads}: all must be positive and hidden a multiple of "
            f"2 x heads; try hidden={2 * max(heads, 1) * max(1, round(hidden / (2 * max(heads, 1))))}"
        )
    tokenizer = tiny_tokenizer() if kind == "tiny" else byte_tokenizer()
    model = random_model(sizes(len(tokenizer), hidden, layers, heads), tokenizer, seed=seed)
    save(model, tokenizer, Path(directory))
    parameters: int = model.num_parameters()
    return parameters


def sizes(vocabulary: int, hidden: int, layers: int, heads: int) -> dict[str, Any]:
    """Fields of a Qwen3 configuration: feed-forward layers three times as wide as `hidden`, heads of hidden / heads (an
    even number) with as many key-value heads. About 13 hidden^2 layers + vocabulary x hidden parameters: input and
    output embeddings are one matrix."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "initializer_range": hidden**-0.5,  # at the usual 0.02 so narrow a model takes three times the steps
    }


def random_model(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Any:
    """A `Qwen3ForCausalLM` with these fields in float32; the same weights for the same seed."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**config, **tokens))
    model.generation_config = GenerationConfig(**tokens)
    return model


def save(model: Any, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """In Hugging Face layout."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A token per character of ALPHABET; other characters become the unknown token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import Fuse

    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *ALPHABET])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    return _wrap(backend, "tiny")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte of the text's UTF-8 form; no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *symbols])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _wrap(backend, "bytes")


def _wrap(backend: object, kind: Kind) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    open_user, close_user, open_assistant = _TURNS[kind]
    template = (
        _TEMPLATE.replace("OPEN_USER", repr(open_user))
        .replace("CLOSE_USER", repr(close_user))
        .replace("OPEN_ASSISTANT", repr(open_assistant))
        .replace("EOS", repr(EOS))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
