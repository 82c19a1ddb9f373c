"""Tasks: `task("sort?length=4-6")` makes a domain from a spec; `FAMILIES` names the built-in tiny domains.

Groups of specs with a known relation, for studies:
  PROBES  name -> the domains whose skills it composes; never demonstrated or trained, only scored
  FORM    many kinds of short answers: what the start of a real model is shown
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mopdsim.base.errors import NotFoundError, did_you_mean
from trainer.tasks import ask, guess, gym, jsonl, tiny
from trainer.tasks.base import ALPHABET, SPLITS, Factory, Item, Options, Split, Task

FAMILIES: Mapping[str, Factory] = MappingProxyType({**tiny.FAMILIES, "guess": guess.guess_task})
_SCHEMES: Mapping[str, Factory] = MappingProxyType(
    {ask.SCHEME: ask.ask_task, gym.SCHEME: gym.gym_task, jsonl.SCHEME: jsonl.jsonl_task}
)
FORM = ask.FORM
PROBES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"sort_then_shift": ("sort", "shift"), "reverse_then_shift": ("reverse", "shift")}
)


def task(spec: str) -> Task:
    """The task that `spec` describes (grammar: `trainer.tasks.base`).

    Raises NotFoundError for an unknown name, UsageError for an unknown key or a value outside its range.
    """
    options = Options(spec)
    factory = FAMILIES.get(options.name) or _SCHEMES.get(options.scheme)
    if factory is None:
        known = [*FAMILIES, *(f"{scheme}:" for scheme in _SCHEMES)]
        raise NotFoundError(f"task {options.name!r} does not exist{did_you_mean(options.name, known)}")
    made = factory(options)
    options.close()
    return made


__all__ = [
    "ALPHABET",
    "FAMILIES",
    "FORM",
    "PROBES",
    "SPLITS",
    "Item",
    "Split",
    "Task",
    "task",
]
