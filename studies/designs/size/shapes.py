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
from trainer.model.tiny import byte_tokenizer, random_model, save, sizes

OWN = {  # width, layers, heads
    "tiny": (64, 3, 4),
    "5M": (256, 6, 4),
    "25M": (512, 7, 8),
    "100M": (768, 13, 12),
}
CATALOGUED = {name: f"Qwen/Qwen3-{name}" for name in ("0.6B", "1.7B", "4B")}
SHAPES = (*OWN, *CATALOGUED)


def config(name: str) -> dict[str, Any]:
    """Fields of a Qwen3 configuration. NotFoundError for an unknown name."""
    if name in CATALOGUED:
        return next(row_to_config(row) for row in data_rows("models.csv") if row["model"] == CATALOGUED[name])
    if name not in OWN:
        raise NotFoundError(f"shape {name!r} does not exist{did_you_mean(name, SHAPES)}")
    return {"model_type": "qwen3", **sizes(len(byte_tokenizer()), *OWN[name])}


def described(name: str) -> Model:
    """The shape as the simulator counts it."""
    return Model.from_config(config(name), name=CATALOGUED.get(name, name))


def write(name: str, directory: Path) -> None:
    """The shape with random weights and its tokenizer in Hugging Face layout, complete or not at all."""
    with atomic_directory(directory.resolve()) as partial:
        save(random_model(config(name), byte_tokenizer(), seed=0), byte_tokenizer(), partial)
