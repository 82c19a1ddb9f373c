"""Copies of a model that differ in one thing: template, rows of the head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from small_world import (
    write_model,
)

from trainer.model.chat import Chat


def widened(source: Path, target: Path, rows: int) -> Path:
    """The same model with `rows` padding rows, of large random values, at the end of its vocabulary."""
    write_model(target, seed=0)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text())
    config["vocab_size"] += rows
    (target / "config.json").write_text(json.dumps(config))
    tensors = load_file(target / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    padding = torch.randn(rows, embedding.shape[1], generator=torch.Generator().manual_seed(7))
    tensors["model.embed_tokens.weight"] = torch.cat([embedding, padding])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def retold(source: Path, target: Path) -> Path:
    """The same model with another chat template: the prompt comes twice."""
    widened(source, target, 0)
    template = target / "chat_template.jinja"
    text = template.read_text()
    changed = text.replace("message['content']", "message['content'] + message['content']", 1)
    assert changed != text
    template.write_text(changed)
    return target


def renderer(directory: Path) -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    return lambda prompt: Chat(tokenizer).prompts([prompt])[0]
