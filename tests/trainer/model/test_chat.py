"""Prompts, turns and what lies between them through chat templates of several kinds; what is graded of a turn."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tokenizers import AddedToken

from mopdsim.base.errors import UsageError
from trainer.files.settings import Settings
from trainer.model.chat import Chat
from trainer.model.tiny import byte_tokenizer, tiny_tokenizer

TALKATIVE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "[s]You help.[/s]{% endif %}[{{ message['role'][0] }}]{{ message['content'] }}"
    "[/{{ message['role'][0] }}]{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
TURNS = (
    "<B>{% for m in messages %}<T>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<E>\n{% endfor %}{% if add_generation_prompt %}<T>model\n{% endif %}"
)
SWITCH = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}<|eos|>{% endfor %}{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def with_template(template: str, tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def read(template: str, prompt: str, **settings: Any) -> str:
    tokenizer = with_template(template)
    (ids,) = Chat(tokenizer, Settings(**settings)).prompts([prompt])
    return str(tokenizer.decode(ids))


def test_a_system_prompt_is_the_templates_none_or_ones_own() -> None:
    assert read(TALKATIVE, "2+2") == "[s]You help.[/s][u]2+2[/u][a]"
    assert read(TALKATIVE, "2+2", system_prompt="none") == "[u]2+2[/u][a]"
    assert read(TALKATIVE, "2+2", system_prompt="Be brief.") == "[s]Be brief.[/s][u]2+2[/u][a]"


@pytest.mark.parametrize(
    "template",
    [
        TALKATIVE.replace("[s]You help.[/s]", ""),
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}",
        "<B>{% if messages[0]['role'] == 'system' %}{% set first, rest = messages[0]['content'], messages[1:] %}"
        "{% else %}{% set first, rest = '', messages %}{% endif %}"
        "{% for m in rest %}[{{ first if loop.first }}{{ m['content'] }}]{% endfor %}",
    ],
    ids=["no default", "no system role", "inside the user's turn"],
)
def test_a_template_without_a_default_gives_the_same_prompts(template: str) -> None:
    assert read(template, "ab", system_prompt="none") == read(template, "ab")


def test_the_first_token_stays_when_the_system_turn_goes() -> None:
    template = "{{ bos_token }}" + TALKATIVE
    assert read(template, "ab", system_prompt="none") == "<|bos|>[u]ab[/u][a]"


def test_a_system_turn_that_cannot_be_told_apart_is_refused() -> None:
    template = (
        "{% for message in messages | reverse %}[{{ message['content'] }}{{ message['role'] }}]{% endfor %}"
    )
    with pytest.raises(UsageError, match="set system_prompt = template"):
        read(template, "ab", system_prompt="none")


def test_a_template_gets_its_arguments_or_says_that_it_lacks_them() -> None:
    template = "{% for m in messages %}{{ words | length }}{{ m['content'] }}{% endfor %}"
    assert read(template, "ab", template_arguments={"words": "xyz"}) == "3ab"
    with pytest.raises(
        UsageError, match=r"cannot be rendered.*template_arguments = \{'n': 1\}.*--template-arg"
    ) as caught:
        read(template.replace("words", "words.missing.deeper"), "ab", template_arguments={"n": 1})
    assert "\n" not in str(caught.value)


def test_a_clock_in_a_template_stands_still() -> None:
    template = "{{ strftime_now('%Y %H:%M:%S.%f') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    before = read(template, "ab")
    time.sleep(0.002)
    assert read(template, "ab") == before == "2025 00:00:00.000000ab"
    with pytest.raises(UsageError, match=r"reads the clock.*give the format as a literal"):
        read("{% set how = '%S' %}{{ strftime_now(how) }}", "ab")


def gemma_like() -> Any:
    """Turns are closed by <E>, and the tokenizer's end of sequence is another token."""
    tokenizer = with_template(TURNS, byte_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<B>", "<T>", "<E>"]})
    return tokenizer


def test_a_turn_ends_with_the_id_that_the_template_closes_it_with() -> None:
    tokenizer = gemma_like()
    close, own = tokenizer.convert_tokens_to_ids("<E>"), tokenizer.eos_token_id
    chat = Chat(tokenizer, end_ids=frozenset([own, close]))
    (turn,) = chat.turns(["9"])
    assert turn == [*tokenizer.encode("9", add_special_tokens=False), close]
    (prompt,) = chat.prompts(["5+4"])
    conversation = tokenizer.decode([*prompt, *turn, *chat.observation("and?")])
    assert conversation == "<B><T>user\n5+4<E>\n<T>model\n9<E>\n<T>user\nand?<E>\n<T>model\n"


def test_a_turn_that_closes_with_no_end_id_is_refused() -> None:
    chat = Chat(gemma_like(), end_ids=frozenset([2]))
    with pytest.raises(
        UsageError, match=r"closes a turn with '<E>'.*ends one at \[2\]: add it to eos_token_id"
    ):
        chat.turns(["9"])


def test_without_a_closing_mark_a_turn_ends_with_the_tokenizers_end() -> None:
    tokenizer = with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    chat = Chat(tokenizer, end_ids=frozenset([tokenizer.eos_token_id]))
    assert chat.close_id == tokenizer.eos_token_id


@pytest.mark.parametrize("thinking", [None, True, False])
def test_written_turns_have_the_empty_thoughts_that_the_template_wants(thinking: bool | None) -> None:
    tokenizer = with_template(SWITCH, byte_tokenizer())
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    chat = Chat(
        tokenizer, Settings(template_arguments=arguments), end_ids=frozenset([tokenizer.eos_token_id])
    )
    prompt, turn = chat.prompts(["1+1"])[0], chat.turns(["2"])[0]
    assert tokenizer.decode([*prompt, *turn]) == "[user]1+1<|eos|>[assistant]<think>\n\n</think>\n\n2<|eos|>"
    assert tokenizer.decode(chat.turns(["<think>a</think>2"])[0]) == "<think>a</think>2<|eos|>"


def test_what_follows_the_thoughts_is_graded() -> None:
    chat = Chat(with_template(SWITCH))
    assert chat.answer("2") == "2"
    assert chat.answer("<think>0</think>\n\n2") == "2"
    assert chat.answer("<think>0") == ""
    opening = Chat(
        with_template(SWITCH.replace("[assistant]", "[assistant]<think>\n").replace("is false", ""))
    )
    assert opening.answer("0") == "" and opening.answer("hm</think>2") == "2"


def test_an_end_id_that_is_no_special_token_is_cut_by_id() -> None:
    from policies import llama

    from trainer.model.policy import Policy

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<stop>", special=False, normalized=False)])
    stop = tokenizer.convert_tokens_to_ids("<stop>")
    ids = {"eos_token_id": [tokenizer.eos_token_id, stop], "pad_token_id": tokenizer.pad_token_id}
    of = Policy(llama(vocab_size=len(tokenizer), **ids), tokenizer)
    assert of.said([*tokenizer.encode("42", add_special_tokens=False), stop]) == "42"
    assert of.said(tokenizer.encode("42", add_special_tokens=False)) == "42"
