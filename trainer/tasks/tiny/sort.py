"""Sorting: `sort` (ascending) and its rival `sort_down` (descending), and `sort_long`, sort's longer form.

`sort` and `sort_down` are the competing pair (see the ambiguity dial in `trainer.tasks.tiny.text`): with different
letters no response is right in both. `sort_long` shares the marker and the skill of `sort`, so that learning
either should help the other; its answers are the suite's longest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from trainer.tasks.tiny.text import Skill, first_two_exchanged, last_two_exchanged, text_family


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


SORT = Skill(
    marker="s",
    solve=sort_up,
    check=ascending,
    mistake=first_two_exchanged,
    has_rival=True,
)
FAMILIES = {
    "sort": text_family(SORT),
    "sort_down": text_family(
        replace(SORT, marker="d", solve=sort_down, check=descending, mistake=last_two_exchanged)
    ),
    "sort_long": text_family(replace(SORT, length=(7, 9), has_rival=False)),
}
