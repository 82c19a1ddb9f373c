"""Skills that move letters or shift them, their rivals, and probes that compose two.

sort, sort_down       ascending, descending: with different letters no response is right in both
sort_long             `sort` on more letters, with its marker: learning either should help the other
reverse, rotate       abcd -> dcba, its rival abcd -> bcda
shift, shift_back     each letter one up the ring of letters (a -> b), its rival one down
swap                  neighbours exchanged in pairs: abcde -> badce
sort_then_shift, reverse_then_shift
                      the prompt shows both markers in order of use (`sh:dbca` -> `bcde`), so that a model that
                      learned the parts has what it takes. They are meant to be scored only: neither demonstrated
                      nor trained
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Final

from trainer.tasks.tiny.text import (
    LETTERS,
    Skill,
    first_two_exchanged,
    last_two_exchanged,
    text_family,
    undone,
)

_UP: Final = str.maketrans(LETTERS, LETTERS[1:] + LETTERS[0])
_DOWN: Final = str.maketrans(LETTERS[1:] + LETTERS[0], LETTERS)


def ascending(content: str, response: str) -> bool:
    """Is `response` the letters of `content` in ascending order?"""
    return Counter(response) == Counter(content) and all(left <= right for left, right in pairwise(response))


def descending(content: str, response: str) -> bool:
    """Is `response` the letters of `content` in descending order?"""
    return ascending(content, response[::-1])


def sort_up(content: str) -> str:
    return "".join(sorted(content))


def sort_down(content: str) -> str:
    return "".join(sorted(content, reverse=True))


def reverse(content: str) -> str:
    return content[::-1]


def rotate(content: str) -> str:
    """The first letter moves to the end."""
    return content[1:] + content[0]


def rotate_back(content: str) -> str:
    return content[-1:] + content[:-1]


def shift(content: str) -> str:
    return content.translate(_UP)


def shift_back(content: str) -> str:
    return content.translate(_DOWN)


def swap(content: str) -> str:
    """Exchange the letters of each pair; an odd last letter stays."""
    return re.sub(r"(.)(.)", r"\2\1", content)


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


SORT = Skill(marker="s", solve=sort_up, check=ascending, mistake=first_two_exchanged, has_rival=True)
# With three different letters or more, no response is right for both `reverse` and `rotate`.
REVERSE = Skill(
    marker="r",
    solve=reverse,
    check=partial(undone, reverse),
    lengths=(3, 12),
    mistake=last_two_exchanged,
    has_rival=True,
)
ROTATE = Skill(marker="o", solve=rotate, check=partial(undone, rotate_back), lengths=(3, 12), has_rival=True)
SHIFT = Skill(marker="h", solve=shift, check=partial(undone, shift_back), has_rival=True)
SWAP = Skill(marker="w", solve=swap, check=partial(undone, swap))
FAMILIES = {
    "sort": text_family(SORT),
    "sort_down": text_family(
        replace(SORT, marker="d", solve=sort_down, check=descending, mistake=last_two_exchanged)
    ),
    "sort_long": text_family(replace(SORT, length=(7, 9), has_rival=False)),
    "reverse": text_family(REVERSE),
    "rotate": text_family(ROTATE),
    "shift": text_family(SHIFT),
    "shift_back": text_family(replace(SHIFT, marker="b", solve=shift_back, check=partial(undone, shift))),
    "swap": text_family(SWAP),
    "sort_then_shift": text_family(_then_shift(SORT)),
    "reverse_then_shift": text_family(_then_shift(REVERSE)),
}
