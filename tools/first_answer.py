"""`python -m tools.first_answer`: works out the planner's answers to the question that the app opens with.

Written to mopdsim/data/first_answer.json, so that the first screen paints at once: the question, the answer of
`mopd plan`, and that of `mopd compare --all`, both of one search. Tests hold the first to the record of what the
planner says (tests/test_recorded.py), and the second to the first.
Leaves out: every other question, which the app has planned on request.
"""

from __future__ import annotations

import json
from typing import Any

from mopdsim.app import questions
from mopdsim.app.choice import Choice
from mopdsim.app.planned import FIRST
from mopdsim.plan.plan import plan
from mopdsim.plan.question import loads
from mopdsim.plan.ranking import ranking


def made() -> dict[str, Any]:
    """The question with both answers, as they come back from JSON."""
    text = questions.of_choice(Choice())
    question = loads(text)
    planned = plan(question).to_document()
    found = {"question": text, "planned": planned, "ranked": ranking(question, planned)}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def main() -> None:
    """Writes the file."""

    FIRST.write_text(json.dumps(made(), separators=(",", ":")) + "\n", encoding="utf-8")
    print(FIRST)


if __name__ == "__main__":
    main()
