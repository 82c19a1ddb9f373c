"""Two halves side by side give what one after the other gives: results, errors, and a half whose process was killed.

Each in a process of its own: forking beside a test runner's threads is not safe.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

TWO = "import os, signal\nfrom mopdsim.base import forked\nhere = os.getpid()\n"
CASES = {
    "results": "assert forked.both(lambda half: sum(half), [1, 2], [3]) == (3, 3)",
    "one process": (
        "forked._may_fork = lambda: False\n"
        "assert forked.both(lambda half: (half, os.getpid()), 1, 2) == ((1, here), (2, here))"
    ),
    "two processes": (
        "(one, at), (two, elsewhere) = forked.both(lambda half: (half, os.getpid()), 1, 2)\n"
        "assert (one, two, at) == (1, 2, here) and (elsewhere != here) == forked._may_fork()"
    ),
    "an error aside": (
        "try:\n"
        "    forked.both(lambda half: 1 // half, 1, 0)\n"
        "except ZeroDivisionError:\n"
        "    raise SystemExit\n"
        "raise AssertionError"
    ),
    "a killed half is done again": (
        "def work(half):\n"
        "    if half == 2 and os.getpid() != here:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return half\n"
        "assert forked.both(work, 1, 2) == (1, 2)"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_halves_are_worked(case: str) -> None:
    subprocess.run([sys.executable, "-c", TWO + CASES[case]], check=True, timeout=120)
