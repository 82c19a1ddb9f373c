"""Probes that compose two skills: `sort_then_shift` and `reverse_then_shift`.

The prompt shows both markers in order of use (`sh:dbca` -> `bcde`), so a model that learned the parts has
what it takes to do the whole. A probe is meant to be scored only: neither demonstrated nor trained.
"""

from __future__ import annotations

from functools import partial

from trainer.tasks.tiny.reverse import REVERSE
from trainer.tasks.tiny.shift import SHIFT, shift_back
from trainer.tasks.tiny.sort import SORT
from trainer.tasks.tiny.text import Skill, text_family


def _solve(first: Skill, content: str) -> str:
    return SHIFT.solve(first.solve(content))


def _check(first: Skill, content: str, response: str) -> bool:
    return first.check(content, shift_back(response))


def _then_shift(first: Skill) -> Skill:
    return Skill(
        marker=first.marker + SHIFT.marker,
        solve=partial(_solve, first),
        check=partial(_check, first),
        length=first.length,
        lengths=first.lengths,
    )


FAMILIES = {
    "sort_then_shift": text_family(_then_shift(SORT)),
    "reverse_then_shift": text_family(_then_shift(REVERSE)),
}
