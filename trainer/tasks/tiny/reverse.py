"""Two ways to move letters: `reverse` (abcd -> dcba) and its rival `rotate` (abcd -> bcda)."""

from __future__ import annotations

from trainer.tasks.tiny.text import Skill, last_two_exchanged, text_family


def reverse(content: str) -> str:
    return content[::-1]


def is_reverse(content: str, response: str) -> bool:
    return response[::-1] == content


def rotate(content: str) -> str:
    """The first letter moves to the end."""
    return content[1:] + content[0]


def is_rotated(content: str, response: str) -> bool:
    return response[-1:] + response[:-1] == content


REVERSE = Skill(
    marker="r",
    solve=reverse,
    check=is_reverse,
    lengths=(3, 12),  # with three different letters or more, no response is right for both
    mistake=last_two_exchanged,
    has_rival=True,
)
ROTATE = Skill(
    marker="o",
    solve=rotate,
    check=is_rotated,
    lengths=(3, 12),
    has_rival=True,
)
FAMILIES = {"reverse": text_family(REVERSE), "rotate": text_family(ROTATE)}
