"""Letters move along the ring of letters: `shift` by one up (a -> b), its rival `shift_back` down."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from trainer.tasks.tiny.text import LETTERS, Skill, text_family

_UP: Final = str.maketrans(LETTERS, LETTERS[1:] + LETTERS[0])
_DOWN: Final = str.maketrans(LETTERS[1:] + LETTERS[0], LETTERS)


def shift(content: str) -> str:
    return content.translate(_UP)


def shift_back(content: str) -> str:
    return content.translate(_DOWN)


def is_shifted(content: str, response: str) -> bool:
    return shift_back(response) == content


def is_shifted_back(content: str, response: str) -> bool:
    return shift(response) == content


SHIFT = Skill(
    marker="h",
    solve=shift,
    check=is_shifted,
    has_rival=True,
)
FAMILIES = {
    "shift": text_family(SHIFT),
    "shift_back": text_family(replace(SHIFT, marker="b", solve=shift_back, check=is_shifted_back)),
}
