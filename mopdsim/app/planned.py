"""The planner's answers by question, for all visitors: those shipped, those worked out, those under way.

A question is its TOML text, so that two pages, two tabs, or a page that was loaded again, meet the same answer: nothing
is worked out twice and nothing is lost by leaving. Each answer is a command of its own in the background: `mopd plan`,
the same with --rough for the time until that is there, or `mopd compare --all`, which sets the published systems beside
the finalists. Leaves out: what an answer looks like.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from mopdsim.app import background
from mopdsim.app.background import Work

FILE, ANSWER = "question.toml", "answer.json"
FIRST = files("mopdsim").joinpath("data", "first_answer.json")
KEPT = 32  # answers, some 150 KB each
Kind = Literal["rough", "planned", "ranked"]
COMMANDS: dict[Kind, list[str]] = {
    "rough": ["plan", FILE, "--rough"],
    "planned": ["plan", FILE],
    "ranked": ["compare", "--all", FILE],
}
_found: OrderedDict[tuple[Kind, str], dict[str, Any]] = OrderedDict()
_working: dict[tuple[Kind, str], Work] = {}
_turn = threading.Lock()


@cache
def shipped() -> dict[str, Any]:
    """The opening question with its answers, worked out beforehand (`python -m tools.first_answer`)."""
    found: dict[str, Any] = json.loads(FIRST.read_text(encoding="utf-8"))
    return found


def known(question: str, kind: Kind = "planned") -> dict[str, Any] | None:
    """The answer to a question, if it was worked out. UsageError, one sentence, where that failed just now."""
    with _turn:
        work = _working.get((kind, question))
        if work is not None and not work.running:
            del _working[kind, question]
            keep(question, work.result(), kind)
        if (kind, question) in _found:
            _found.move_to_end((kind, question))
            return _found[kind, question]
    first = shipped()
    answer: dict[str, Any] | None = first.get(kind) if question == first["question"] else None
    return answer


def keep(question: str, answer: dict[str, Any], kind: Kind = "planned") -> None:
    """Remember an answer, the last few of them."""
    _found[kind, question] = answer
    while len(_found) > KEPT:
        _found.popitem(last=False)


def under_way(question: str, kind: Kind = "planned") -> Work | None:
    """The work on a question, if it goes on."""
    return _working.get((kind, question))


def begin(question: str, kind: Kind = "planned") -> None:
    """Have a question answered, unless it is or is being; a plan that is known is ranked as it is. UsageError where the
    machine has enough to do."""
    answer = known(question) if kind == "ranked" else None
    command, given = COMMANDS[kind], {FILE: question}
    if answer is not None:
        command, given = [*command, "--planned", ANSWER], {**given, ANSWER: json.dumps(answer)}
    with _turn:
        if (kind, question) not in _found and (kind, question) not in _working:
            _working[kind, question] = background.start(command, given)
