"""A model from its files alone gives what its module gives, bit for bit, and leaves to the module what it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from policies import llama, mistral, qwen2, qwen3
from transformers import PreTrainedModel

from trainer.batch.rollout import generate
from trainer.model.bare import Bare
from trainer.model.loading import load_policy
from trainer.model.policy import Policy
from trainer.model.tiny import byte_tokenizer

PROMPTS = [[5, 6, 7], [8, 9]]
MADE = {"qwen3": qwen3, "untied": lambda: qwen3(tied=False), "llama": llama, "mistral": mistral}
LEFT = {
    "qwen2": qwen2,
    "biased": lambda: llama(attention_bias=True),
    "scaled": lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
}


def saved(model: PreTrainedModel, place: Path) -> Path:
    tokenizer = byte_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def logits(policy: Policy) -> torch.Tensor:
    found = generate(
        policy.frozen(), PROMPTS, rollouts_per_prompt=2, max_new_tokens=5, temperature=1.0, seed=3
    )
    with torch.no_grad():
        hidden = policy.hidden(found.prompt_BP, found.prompt_mask_BP, found.response_BT, group=2)
        return policy.logits(hidden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MADE)
def test_it_gives_what_the_module_gives(name: str, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    place = saved(MADE[name](), tmp_path)
    whole, read = (load_policy(place, dtype=dtype, read_only=only) for only in (False, True))
    assert isinstance(read.model, Bare) and not isinstance(whole.model, Bare)
    own, theirs = (dict(one.model.named_parameters()) for one in (read, whole))
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    assert read.eos_ids == whole.eos_ids and read.weight_bytes == whole.weight_bytes
    assert torch.equal(logits(read), logits(whole))


@pytest.mark.parametrize("name", LEFT)
def test_what_it_cannot_read_is_the_modules(name: str, tmp_path: Path) -> None:
    assert not isinstance(load_policy(saved(LEFT[name](), tmp_path), read_only=True).model, Bare)


def test_weights_that_are_not_the_configurations_are_the_modules(tmp_path: Path) -> None:
    place = saved(llama(), tmp_path)
    config = place / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    assert not isinstance(load_policy(place, read_only=True).model, Bare)


def test_reading_imports_no_module_of_transformers(tmp_path: Path) -> None:
    place = saved(qwen3(), tmp_path)
    code = (
        "import sys; from pathlib import Path; from trainer.model.loading import load_policy\n"
        "load_policy(Path(sys.argv[1]), read_only=True)\n"
        "assert 'transformers.modeling_utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=True)
