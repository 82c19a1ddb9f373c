"""The errors a user can make, each with its exit code.

Every message is one sentence that names the field, the value, the rule and the remedy. Command-line
entry points turn these into `error: ...` on stderr and the exit code; nothing else ends a command.
Leaves out: how errors are printed (`mopdsim.cli.main`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MopdError(Exception):
    """A failure with a documented exit code (1: it failed)."""

    exit_code = 1

    def __init_subclass__(cls, *, exit_code: int | None = None) -> None:
        cls.exit_code = cls.exit_code if exit_code is None else exit_code


class UsageError(MopdError, exit_code=2):
    """A bad argument or a bad file (2)."""


class NotFoundError(MopdError, exit_code=3):
    """A name or a path that does not exist (3)."""


class DivergenceError(MopdError, exit_code=4):
    """A loss, gradient, reward or score that is not finite (4)."""


class InfeasibleError(MopdError, exit_code=5):
    """A budget, memory or deadline that no plan meets (5)."""


class Interrupted(MopdError, exit_code=75):
    """The work was interrupted and can be resumed (75)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known name, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""
