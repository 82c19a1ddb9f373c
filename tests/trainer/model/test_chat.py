"""Prompts through chat templates: with and without the system prompt that a template puts in of itself."""

from __future__ import annotations

from typing import Any

import pytest

from mopdsim.base.errors import UsageError
from trainer.model.chat import leave_out_system_prompt, prompt_ids
from trainer.model.tiny import tiny_tokenizer

TALKATIVE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "[s]You help.[/s]{% endif %}[{{ message['role'][0] }}]{{ message['content'] }}"
    "[/{{ message['role'][0] }}]{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


def tokenizer_with(template: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def read(tokenizer: Any, prompt: str) -> str:
    (ids,) = prompt_ids(tokenizer, [prompt])
    return str(tokenizer.decode(ids))


def test_a_template_s_own_system_prompt_can_be_left_out() -> None:
    tokenizer = tokenizer_with(TALKATIVE)
    assert read(tokenizer, "2+2") == "[s]You help.[/s][u]2+2[/u][a]"
    leave_out_system_prompt(tokenizer)
    assert read(tokenizer, "2+2") == "[u]2+2[/u][a]"


def test_a_template_without_one_gives_the_same_prompts() -> None:
    quiet = tokenizer_with(TALKATIVE.replace("[s]You help.[/s]", ""))
    before = prompt_ids(quiet, ["ab", "c"])
    leave_out_system_prompt(quiet)
    assert prompt_ids(quiet, ["ab", "c"]) == before


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system turns') }}",
        "{% for message in messages | reverse %}[{{ message['content'] }}{{ message['role'] }}]{% endfor %}",
    ],
)
def test_a_template_that_takes_no_system_turn_is_refused_in_a_sentence(template: str) -> None:
    with pytest.raises(UsageError, match="set system_prompt = template"):
        leave_out_system_prompt(tokenizer_with(template))
