"""Families of recipes searched side by side: a family's search reads nothing of another's.

Leaves out: the search of a family (`mopdsim.planning.explore`), the second process (`mopdsim.forked`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mopdsim.forked import both
from mopdsim.planning.evaluation import Outcome
from mopdsim.planning.question import Family, Question

Searched = dict[Family, list[Outcome]]

_ASIDE: tuple[Family, ...] = ("off_policy", "merge", "single")  # about half of the work
_DOMAINS = 6  # of fewer, a search is over before a second process pays


def abreast(question: Question, search: Callable[[Sequence[Family]], Searched]) -> Searched:
    """Every family's outcomes, in the question's order of families."""
    aside = [family for family in question.families if family in _ASIDE]
    here = [family for family in question.families if family not in _ASIDE]
    if not (aside and here and len(question.domains) >= _DOMAINS):
        return search(question.families)
    ours, theirs = both(search, here, aside)
    found = ours | theirs
    return {family: found[family] for family in question.families}
