"""Local edits: `swap` exchanges neighbours in pairs (abcde -> badce), `dedup` keeps one letter of each run
(aabccc -> abc; its length counts runs)."""

from __future__ import annotations

import re
from itertools import groupby

from trainer.tasks.tiny.runlength import draw_runs
from trainer.tasks.tiny.text import Skill, text_family


def swap(content: str) -> str:
    """Exchange the letters of each pair; an odd last letter stays."""
    return re.sub(r"(.)(.)", r"\2\1", content)


def is_swapped(content: str, response: str) -> bool:
    return swap(response) == content


def dedup(content: str) -> str:
    return "".join(letter for letter, _ in groupby(content))


def is_dedup(content: str, response: str) -> bool:
    """Is `content` the letters of `response`, each repeated, and has `response` no equal neighbours?"""
    repeated = "".join(f"{re.escape(letter)}+" for letter in response)
    return re.fullmatch(repeated, content) is not None and re.search(r"(.)\1", response) is None


SWAP = Skill(marker="w", solve=swap, check=is_swapped)
DEDUP = Skill(
    marker="u", draw=draw_runs, solve=dedup, check=is_dedup, length=(2, 4), lengths=(1, 8), corruption=0.4
)
FAMILIES = {"swap": text_family(SWAP), "dedup": text_family(DEDUP)}
