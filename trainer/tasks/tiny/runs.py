"""Texts of runs of equal letters: `rle_decode` (a3b2 -> aaabb), `rle_encode` (aaabb -> a3b2) and `dedup`, which keeps
one letter of each run (aabccc -> abc). Length counts runs."""

from __future__ import annotations

import random
import re
from functools import partial
from itertools import groupby
from operator import mul
from typing import Final

from trainer.tasks.tiny.text import LETTERS, Skill, text_family, undone

MOST_REPEATS: Final = 3


def encode(content: str) -> str:
    return "".join(f"{letter}{len(list(run))}" for letter, run in groupby(content))


def decode(content: str) -> str:
    return "".join(letter * int(count) for letter, count in re.findall(r"(\D)(\d)", content))


def encodes(content: str, response: str) -> bool:
    """Is `response` the shortest code of `content`, so that neighbouring letters differ?"""
    well_formed = re.fullmatch(r"(?:([a-z])[1-9](?!\1))+", response) is not None
    return well_formed and decode(response) == content


def dedup(content: str) -> str:
    return "".join(letter for letter, _ in groupby(content))


def is_dedup(content: str, response: str) -> bool:
    """Is `content` the letters of `response`, each repeated, and has `response` no equal neighbours?"""
    repeated = "".join(f"{re.escape(letter)}+" for letter in response)
    return re.fullmatch(repeated, content) is not None and re.search(r"(.)\1", response) is None


def draw_runs(rng: random.Random, runs: int) -> str:
    """A text of `runs` runs of one to MOST_REPEATS equal letters, neighbouring runs different."""
    text = ""
    for _ in range(runs):
        letter = rng.choice([letter for letter in LETTERS if letter != text[-1:]])
        text += letter * rng.randint(1, MOST_REPEATS)
    return text


def draw_code(rng: random.Random, runs: int) -> str:
    return encode(draw_runs(rng, runs))


RLE_DECODE = Skill(
    marker="x",
    draw=draw_code,
    solve=decode,
    check=partial(undone, encode),
    length=(2, 3),
    lengths=(1, 6),
    longest=partial(mul, MOST_REPEATS),
)
RLE_ENCODE = Skill(
    marker="e",
    draw=draw_runs,
    solve=encode,
    check=encodes,
    symbols=LETTERS + "123",
    length=(2, 3),
    lengths=(1, 6),
    longest=partial(mul, 2),
    corruption=0.4,
)
DEDUP = Skill(
    marker="u", draw=draw_runs, solve=dedup, check=is_dedup, length=(2, 4), lengths=(1, 8), corruption=0.4
)
FAMILIES = {
    "rle_decode": text_family(RLE_DECODE),
    "rle_encode": text_family(RLE_ENCODE),
    "dedup": text_family(DEDUP),
}
