"""Model shapes with random weights: the ladder's own and those of the catalogue, all reading bytes.

Leaves out: training them, and what a size costs (`mopdsim.facts.model`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mopdsim.base.errors import NotFoundError, did_you_mean
from mopdsim.facts.hardware import data_rows
from mopdsim.facts.model import Model
from mopdsim.facts.model_config import row_to_config
from trainer.files.atomic import atomic_directory
from trainer.model.tiny import byte_tokenizer

OWN = {  # width, layers, heads; the feed-forward layers are three times as wide: about 13 width^2 a layer
    "tiny": (64, 3, 4),
    "5M": (256, 6, 4),
    "25M": (512, 7, 8),
    "100M": (768, 13, 12),
}
CATALOGUED = {name: f"Qwen/Qwen3-{name}" for name in ("0.6B", "1.7B", "4B")}
SHAPES = (*OWN, *CATALOGUED)
POSITIONS = 2048


def config(name: str) -> dict[str, Any]:
    """Fields of a Qwen3 configuration. NotFoundError for an unknown name."""
    if name in CATALOGUED:
        return next(row_to_config(row) for row in data_rows("models.csv") if row["model"] == CATALOGUED[name])
    if name not in OWN:
        raise NotFoundError(f"shape {name!r} does not exist{did_you_mean(name, SHAPES)}")
    width, layers, heads = OWN[name]
    return {
        "model_type": "qwen3",
        "vocab_size": len(byte_tokenizer()),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "initializer_range": width**-0.5,
    }


def described(name: str) -> Model:
    """The shape as the simulator counts it."""
    return Model.from_config(config(name), name=CATALOGUED.get(name, name))


def random_model(name: str, *, seed: int = 0) -> Any:
    """A `Qwen3ForCausalLM` of this shape in float32; the same weights for the same seed."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**config(name), **ids))
    model.generation_config = GenerationConfig(**ids)
    return model


def write(name: str, directory: Path, *, seed: int = 0) -> None:
    """The shape with random weights and its tokenizer in Hugging Face layout, complete or not at all."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with atomic_directory(directory.resolve()) as partial:
        random_model(name, seed=seed).save_pretrained(partial)
        byte_tokenizer().save_pretrained(partial)
