"""`python -m tools.first_answer`: works out the planner's answer to the question that the app opens with.

Written to mopdsim/data/first_answer.json, so that the first screen paints at once. A slow test holds it to what
`mopd plan` says today. Leaves out: every other question, which the app has planned on request.
"""

from __future__ import annotations

import json
from pathlib import Path

from mopdsim.app import opening
from mopdsim.app.choice import Choice
from mopdsim.plan.plan import plan
from mopdsim.plan.question import loads


def made() -> dict[str, object]:
    """The question and the part of its answer that is shown."""
    text = opening.question(Choice().scenario())
    return {"question": text, "answer": opening.short(plan(loads(text)).to_document())}


def main() -> None:
    """Writes the file."""
    path = Path(str(opening.FIRST))
    path.write_text(json.dumps(made(), indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
