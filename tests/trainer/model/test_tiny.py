"""The random models: what Hugging Face's own loaders make of the directories."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from mopdsim.base.errors import UsageError
from trainer.model.tiny import (
    ASSISTANT,
    EOS,
    UNKNOWN,
    USER,
    Kind,
    byte_tokenizer,
    init_model,
    tiny_tokenizer,
)
from trainer.tasks import ALPHABET, FAMILIES, task

KINDS: list[Kind] = ["tiny", "bytes"]
CONVERSATION = [
    {"role": "user", "content": "g:abc"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "+"},
]


def make(kind: Kind) -> Any:
    return tiny_tokenizer() if kind == "tiny" else byte_tokenizer()


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_loads_trains_and_generates(kind: Kind, tmp_path: Path) -> None:
    counted = init_model(tmp_path, kind=kind, seed=1, hidden=64)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert counted == sum(parameter.numel() for parameter in model.parameters()) < 500_000
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    ids = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    loss = model(input_ids=ids, labels=ids).loss
    assert loss.item() < 1.5 * torch.log(torch.tensor(float(len(tokenizer)))).item()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    made = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert made.shape[0] == 1 and ids.shape[1] < made.shape[1] <= ids.shape[1] + 3


def test_the_tiny_base_is_small_and_seeded(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    counts = [init_model(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's randomness is untouched"
    assert len(set(counts)) == 1 and counts[0] < 500_000
    first, same, other = (digests(tmp_path / name) for name in "abc")
    assert first == same
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(ALPHABET, max_size=40).filter(lambda text: "<|" not in text))
def test_text_survives_the_tokenizer(kind: Kind, text: str) -> None:
    tokenizer = make(kind)
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text), "a token per character"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "<|" not in text))
def test_bytes_hold_any_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_unknown_characters_are_one_unknown_token_each() -> None:
    tokenizer = tiny_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    assert encode(tokenizer, "aé\t日") == [encode(tokenizer, "a")[0], unknown, unknown, unknown]


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_has_no_gaps(kind: Kind) -> None:
    vocabulary = make(kind).get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_templates_by_hand() -> None:
    tiny, words = tiny_tokenizer(), byte_tokenizer()
    said = tiny.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert said == f"{USER}g:abc{ASSISTANT}b{EOS}{USER}+{ASSISTANT}"
    said = words.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert said == (f"{USER}user\ng:abc\n{ASSISTANT}assistant\nb{EOS}{USER}user\n+\n{ASSISTANT}assistant\n")
    for tokenizer in (tiny, words):
        open_ended = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
        assert tokenizer.apply_chat_template(
            CONVERSATION, tokenize=False, add_generation_prompt=True
        ).startswith(open_ended)
        with pytest.raises(Exception, match="roles are user and assistant, got system"):
            tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_prompt_costs_two_tokens_more_than_its_text(name: str) -> None:
    tokenizer = tiny_tokenizer()
    for item in task(name).fixed("test", 20):
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": item.prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = encode(tokenizer, rendered)
        assert len(ids) == len(item.prompt) + 2
        assert tokenizer.decode(ids) == rendered
        assert tokenizer.unk_token_id not in ids


def test_templates_survive_saving(tmp_path: Path) -> None:
    for kind in KINDS:
        init_model(tmp_path / kind, kind=kind, hidden=16, layers=1, heads=2)
        loaded = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert loaded.get_chat_template() == make(kind).get_chat_template()
        assert loaded.get_vocab() == make(kind).get_vocab()
        assert (loaded.pad_token_id, loaded.eos_token_id) == (
            make(kind).pad_token_id,
            make(kind).eos_token_id,
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "byte"}, "kind='byte' must be tiny or bytes.*did you mean 'bytes'"),
        ({"hidden": 30, "heads": 4}, "hidden=30.*try hidden=32"),
        ({"heads": 0}, "heads=0"),
        ({"layers": 0}, "layers=0"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        init_model(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
