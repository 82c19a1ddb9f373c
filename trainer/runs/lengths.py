"""Whether every prompt of a run, with its answer, fits the model's positions: asked before the start.

All lines of a file are looked at; of generated domains the fixed prompts, whose like the others are. Leaves out:
conversations of several turns, whose length only sampling shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from trainer.files.atomic import read_json
from trainer.files.settings import Settings
from trainer.model.chat import Chat, ChatSettings
from trainer.tasks import Item, Task, task
from trainer.tasks.jsonl import JsonlTask


def check_lengths(specs: Sequence[str], directory: Path, settings: Settings) -> None:
    """UsageError for the first prompt that is too long for the model in `directory`; its line is named."""
    from transformers import AutoTokenizer

    config = read_json(directory / "config.json")
    config = config.get("text_config") or config
    room = config.get("max_position_embeddings") or config.get("n_positions")
    if not room:
        return
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    chat = Chat(tokenizer, ChatSettings.of(settings))
    for spec in specs:
        own = task(spec)
        items = _items(own, settings)
        prompts = chat.prompts([item.prompt for item in items])
        for item, prompt in zip(items, prompts, strict=True):
            new = own.max_new_tokens
            if len(prompt) + new > room:
                raise UsageError(
                    f"domain {spec!r}{_line(own, item)}: the prompt {item.prompt[:40]!r}... is {len(prompt)} tokens "
                    f"long, and with max_new_tokens = {new} that is more than the model's {room} positions: shorten "
                    "it, or lower max_new_tokens"
                )


def _items(own: Task, settings: Settings) -> list[Item]:
    if isinstance(own, JsonlTask):
        return [item for items in own.items.values() for item in items]
    return own.fixed("validation", settings.validation_items) + own.fixed("test", settings.test_items)


def _line(own: Task, item: Item) -> str:
    """Where a file has the item."""
    if not isinstance(own, JsonlTask):
        return ""
    path = own.spec.partition(":")[2].partition("?")[0]
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        record: Any = json.loads(line) if line.strip() else {}
        if record.get("prompt") == item.prompt:
            return f", line {number}"
    return ""
