"""Text to token ids through a model's own chat template: prompts, assistant turns, an environment's replies.

What a template may be told is a setting of the model: the system prompt, and its arguments (`enable_thinking`). A
template's clock stands still, since nothing outside a stage's key may change a run. Leaves out: which ids end a turn
for the sampler (`trainer.model.policy`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from mopdsim.base.errors import UsageError
from trainer.files.settings import Settings

_MARK = "assistantturn"
_NOW = datetime(2025, 1, 1)  # what a template's clock shows
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(?P<format>[^'"]*)\1\s*\)""")
OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"


class Chat:
    """A tokenizer's chat template, told what a run's settings say. end_ids: the ids that end a turn for the model."""

    def __init__(
        self, tokenizer: Any, settings: Settings | None = None, *, end_ids: frozenset[int] = frozenset()
    ) -> None:
        self.tokenizer, self.settings, self.end_ids = tokenizer, settings or Settings(), end_ids

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as a user's turn with the assistant's turn opened. UsageError where that is no token."""
        rendered = [self._rendered(_user(text), opened=True) for text in texts]
        encoded: list[list[int]] = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        for text, ids in zip(texts, encoded, strict=True):
            if not ids:
                raise UsageError(
                    f"prompt {text[:40]!r}: the chat template makes no token of it, and a model needs at least one: "
                    "correct the template"
                )
        return encoded

    def turns(self, texts: Sequence[str]) -> list[list[int]]:
        """Assistant's turns as the model would have sampled them: what the template puts before the text (an empty
        block of thoughts), the text, and the id that closes the turn."""
        whole = [text if OPEN_THOUGHT in text else self._lead + text for text in texts]
        encoded = self.tokenizer(whole, add_special_tokens=False)["input_ids"]
        return [[*ids, self.close_id] for ids in encoded]

    def observation(self, text: str) -> list[int]:
        """What stands between the id that closes an assistant's turn and its next turn when the environment replies."""
        messages = [*_user("x"), {"role": "assistant", "content": _MARK}, *_user(text)]
        _, found, tail = self._rendered(messages, opened=True).rpartition(_MARK)
        if not found:
            raise UsageError(
                "the chat template drops the assistant's turns: several-turn domains need one that keeps them"
            )
        ids: list[int] = self.tokenizer.encode(tail, add_special_tokens=False)
        return ids[1:] if ids[:1] == [self.close_id] else ids

    def answer(self, text: str) -> str:
        """What is graded of a turn: what follows the thoughts, and nothing where they do not end."""
        if CLOSE_THOUGHT in text:
            return text.rpartition(CLOSE_THOUGHT)[2].lstrip()
        return "" if OPEN_THOUGHT in text or self._opens_thoughts else text

    @cached_property
    def close_id(self) -> int:
        """The id with which the template closes an assistant's turn; the tokenizer's end of sequence where it has none.

        UsageError where the template closes turns with a special token that does not end a turn for the model.
        """
        own: int = self.tokenizer.eos_token_id
        _, found, tail = self._turn.rpartition(_MARK)
        ids = self.tokenizer.encode(tail, add_special_tokens=False) if found else []
        if not ids or ids[0] in self.end_ids or ids[0] not in self.tokenizer.all_special_ids:
            return ids[0] if ids and ids[0] in self.end_ids else own
        raise UsageError(
            f"the chat template closes a turn with {self.tokenizer.convert_ids_to_tokens(ids[0])!r} (id {ids[0]}), but "
            f"the model ends one at {sorted(self.end_ids)}: add it to eos_token_id in generation_config.json"
        )

    @cached_property
    def _turn(self) -> str:
        return self._rendered([*_user("x"), {"role": "assistant", "content": _MARK}], opened=False)

    @cached_property
    def _lead(self) -> str:
        """What the template writes between an opened turn and the turn's text."""
        opened = self._rendered(_user("x"), opened=True)
        before, found, _ = self._turn.rpartition(_MARK)
        return before[len(opened) :] if found and before.startswith(opened) else ""

    @cached_property
    def _opens_thoughts(self) -> bool:
        """Whether a turn begins inside a thought that the template has opened."""
        template = getattr(self.tokenizer, "chat_template", None) or ""
        if OPEN_THOUGHT not in template:
            return False
        return self._rendered(_user("x"), opened=True).rstrip().endswith(OPEN_THOUGHT)

    def _rendered(self, messages: list[dict[str, str]], *, opened: bool) -> str:
        match self.settings.system_prompt:
            case "template":
                return self._render(messages, opened=opened)
            case "none":
                if self._bare_head is None:
                    return self._render(messages, opened=opened)
                whole = self._render([_system(_MARK), *messages], opened=opened)
                return self._bos + whole.removeprefix(self._bare_head)
            case text:
                return self._render([_system(text), *messages], opened=opened)

    @cached_property
    def _bare_head(self) -> str | None:
        """The rendered system turn, which is taken away again to be rid of a default; None where there can be none.

        UsageError where it cannot be told apart from what follows.
        """
        try:
            head = self._render([_system(_MARK)], opened=False)
            whole = self._render([_system(_MARK), *_user("x")], opened=False)
        except UsageError:  # a template without a system role has no default either
            return None
        rest = whole.removeprefix(head)
        if _MARK in rest and rest != whole:  # it stands inside the user's turn
            return None
        if rest == whole or not self._render(_user("x"), opened=False).endswith(rest):
            raise UsageError(
                "system_prompt = none: the chat template does not put the system turn first, so that it cannot be "
                "taken away: set system_prompt = template"
            )
        return head

    @cached_property
    def _bos(self) -> str:
        """The first token of every prompt, where the template writes it ahead of the system turn."""
        plain, first = self._render(_user("x"), opened=False), self.tokenizer.bos_token or ""
        whole = self._render([_system(_MARK), *_user("x")], opened=False).removeprefix(self._bare_head or "")
        return first if first and plain.startswith(first) and not whole.startswith(first) else ""

    @cached_property
    def _template(self) -> str:
        """The chat template with its clock stopped. UsageError where it asks the clock otherwise than in a literal."""
        template: str = self.tokenizer.chat_template
        stopped = _CLOCK.sub(lambda found: repr(_NOW.strftime(found["format"])), template)
        if "strftime_now(" in stopped:
            raise UsageError(
                "the chat template reads the clock (strftime_now) in a way that cannot be stopped, so that two equal "
                "runs would differ: give the format as a literal, or a template without it"
            )
        return stopped

    def _render(self, messages: list[dict[str, str]], *, opened: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UsageError(
                "the tokenizer has no chat template: add chat_template to its tokenizer_config.json"
            )
        try:
            found: str = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=opened,
                chat_template=self._template,
                **self.settings.template_arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"the chat template cannot be rendered with system_prompt = {self.settings.system_prompt!r} and "
                f"template_arguments = {self.settings.template_arguments} ({reason}): give it what it asks for, such "
                "as --template-arg NAME=VALUE"
            ) from error
        return found


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}
