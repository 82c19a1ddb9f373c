"""Text to token ids through a model's own chat template: prompts, assistant turns, an environment's replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mopdsim.base.errors import UsageError

_MARK = "assistantturn"
_SILENT = "without_system_prompt"  # the attribute by which a tokenizer carries this setting of its model


def leave_out_system_prompt(tokenizer: Any) -> None:
    """Render prompts without the system prompt that a template puts in of itself. UsageError where it cannot be told
    apart from the user's turn."""
    system = [{"role": "system", "content": ""}]
    try:
        block = tokenizer.apply_chat_template(system, tokenize=False)
        whole = tokenizer.apply_chat_template([*system, *_user("x")], tokenize=False)
    except Exception as error:  # whatever the template raises
        raise UsageError(
            f"system_prompt = none: the chat template takes no system turn ({error}); set system_prompt = template"
        ) from error
    if not whole.startswith(block):
        raise UsageError(
            "system_prompt = none: the chat template does not put the system turn first; set system_prompt = template"
        )
    setattr(tokenizer, _SILENT, True)


def _opened(tokenizer: Any, prompt: str) -> str:
    """A user's turn with the assistant's turn opened."""
    if not getattr(tokenizer, _SILENT, False):
        return str(tokenizer.apply_chat_template(_user(prompt), tokenize=False, add_generation_prompt=True))
    system = [{"role": "system", "content": ""}]
    whole = tokenizer.apply_chat_template(
        [*system, *_user(prompt)], tokenize=False, add_generation_prompt=True
    )
    return str(whole).removeprefix(tokenizer.apply_chat_template(system, tokenize=False))


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Each prompt as a user's turn with the assistant's turn opened."""
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("the tokenizer has no chat template: add chat_template to its tokenizer_config.json")
    texts = [_opened(tokenizer, prompt) for prompt in prompts]
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
