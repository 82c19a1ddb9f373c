"""Text to token ids through a model's own chat template: prompts, assistant turns, an environment's replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mopdsim.base.errors import UsageError

_MARK = "assistantturn"


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Each prompt as a user's turn with the assistant's turn opened."""
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("the tokenizer has no chat template: add chat_template to its tokenizer_config.json")
    texts = [
        tokenizer.apply_chat_template(_user(prompt), tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def turn_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Assistant's turns, the end-of-sequence included, as the model would have sampled them."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in encoded]


def observation_ids(tokenizer: Any, text: str) -> list[int]:
    """What stands between an assistant's end-of-sequence and its next turn when the environment replies `text`."""
    messages = [*_user("x"), {"role": "assistant", "content": _MARK}, *_user(text)]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    _, found, tail = rendered.rpartition(_MARK)
    if not found:
        raise UsageError(
            "the chat template drops the assistant's turns: several-turn domains need one that keeps them"
        )
    ids: list[int] = tokenizer.encode(tail.removeprefix(tokenizer.eos_token), add_special_tokens=False)
    return ids


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
