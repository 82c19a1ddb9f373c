"""The grammar of task specs and the reader of their dials.

    spec = NAME ["?" key "=" value {"&" key "=" value}]
    NAME = a tiny domain | "ask:" question | "reasoning_gym:" family | "jsonl:" path

A family's factory asks an `Options` for each dial it knows; `close` then refuses every key nobody asked for.
Leaves out: which names exist (`trainer.tasks`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mopdsim.base.errors import UsageError, did_you_mean
from trainer.tasks.base import Task


class Options:
    """The dials of one spec, read by name. A bad value is a UsageError naming key, value and rule."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.name, _, rest = spec.partition("?")
        self.scheme, _, self.argument = self.name.partition(":")
        self._values: dict[str, str] = {}
        self._known: set[str] = set()
        if not self.name:
            raise UsageError(f"task spec {spec!r} has no name; write NAME or NAME?key=value&key=value")
        for part in rest.split("&") if rest else []:
            key, equals, value = part.partition("=")
            if not (key and equals and value):
                raise UsageError(
                    f"task spec {spec!r}: {part!r} is not key=value; write NAME?key=value&key=..."
                )
            if key in self._values:
                raise UsageError(f"task spec {spec!r}: {key} is given twice; keep one")
            self._values[key] = value

    @property
    def given(self) -> dict[str, str]:
        """The keys not yet read, with their texts."""
        return {key: value for key, value in self._values.items() if key not in self._known}

    def error(self, key: str, rule: str) -> UsageError:
        """The UsageError that says what `key` must be."""
        return UsageError(f"task spec {self.spec!r}: {key}={self._values.get(key)} must be {rule}")

    def number(self, key: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """A finite number in [least, most]."""
        text = self._read(key)
        if text is None:
            return default
        rule = "a number" + (f" from {least:g}" * (least > -math.inf)) + (f" to {most:g}" * (most < math.inf))
        try:
            value = float(text)
        except ValueError:
            raise self.error(key, rule) from None
        if not (least <= value <= most and math.isfinite(value)):
            raise self.error(key, rule)
        return value

    def whole(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number in [least, most]."""
        text = self._read(key)
        if text is None:
            return default
        if not (re.fullmatch(r"-?[0-9]{1,18}", text) and least <= int(text) <= most):
            raise self.error(key, f"a whole number from {least} to {most}")
        return int(text)

    def span(self, key: str, default: tuple[int, int], *, least: int, most: int) -> tuple[int, int]:
        """A range `low-high` of whole numbers, or one number; least <= low <= high <= most."""
        text = self._read(key)
        if text is None:
            return default
        example = f"{key}={default[0]}-{default[1]}"
        rule = f"a whole number or a range low-high within {least}-{most}, such as {example}"
        parts = text.split("-")
        if len(parts) > 2 or not all(re.fullmatch("[0-9]{1,18}", part) for part in parts):
            raise self.error(key, rule)
        low, high = int(parts[0]), int(parts[-1])
        if not least <= low <= high <= most:
            raise self.error(key, rule)
        return low, high

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of `choices`."""
        text = self._read(key)
        if text is None:
            return default
        if text not in choices:
            raise self.error(key, f"one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return text

    def text(self, key: str, default: str) -> str:
        """Any text."""
        text = self._read(key)
        return default if text is None else text

    def close(self, *, also: Iterable[str] = ()) -> None:
        """Refuse the keys that nobody read; `also` names further keys that exist, for the hint."""
        for key in self.given:
            known = self._known.union(also)
            hint = did_you_mean(key, known)
            raise UsageError(f"task spec {self.spec!r}: {key} is not a dial of {self.name}{hint}")

    def _read(self, key: str) -> str | None:
        self._known.add(key)
        return self._values.get(key)


Factory = Callable[[Options], Task]
MOST_NEW_TOKENS = 65_536


def shared_dials(options: Options, *, corruption: float, max_new_tokens: int) -> dict[str, Any]:
    """The fields that every Task has, read from the spec with a family's defaults."""
    return {
        "spec": options.spec,
        "environment_seconds": options.number("environment_seconds", 0.0),
        "max_new_tokens": options.whole("max_new_tokens", max_new_tokens, least=1, most=MOST_NEW_TOKENS),
        "corruption": options.number("corruption", corruption, most=1.0),
        "reward_scale": options.number("reward_scale", 1.0, least=0.001, most=1000.0),
        "reward_noise": options.number("reward_noise", 0.0, most=0.5),
    }
