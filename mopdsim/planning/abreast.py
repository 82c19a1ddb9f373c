"""Families of recipes searched in two processes, where that is safe and worth it; the result is the same.

A family's search reads nothing of another's. The second process is a fork: it starts at once and knows the question,
but must not be made beside running threads, nor on systems whose libraries do not bear it. Leaves out: the search of a
family (`mopdsim.planning.explore`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process, get_context

from mopdsim.planning.evaluation import Outcome
from mopdsim.planning.question import Family, Question

Searched = dict[Family, list[Outcome]]

_ASIDE: tuple[Family, ...] = ("off_policy", "merge", "single")  # about half of the work
_DOMAINS = 6  # of fewer, a search is over before a second process pays


def abreast(question: Question, search: Callable[[Sequence[Family]], Searched]) -> Searched:
    """Every family's outcomes, in the question's order of families."""
    aside = [family for family in question.families if family in _ASIDE]
    here = [family for family in question.families if family not in _ASIDE]
    if not (aside and here and len(question.domains) >= _DOMAINS and _may_fork()):
        return search(question.families)
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        waiting = pool.submit(search, aside)
        found = search(here)
        try:
            found |= waiting.result()
        except BrokenProcessPool:  # ended from outside, as for want of memory
            found |= search(aside)
    return {family: found[family] for family in question.families}


def _may_fork() -> bool:
    alone = threading.active_count() == 1 and not current_process().daemon
    return sys.platform == "linux" and alone and len(os.sched_getaffinity(0)) > 1
