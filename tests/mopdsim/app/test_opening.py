"""The first screen: the planner's verdict on the opening question is there at once, and is today's."""

from __future__ import annotations

import pytest

from mopdsim.app import opening
from mopdsim.app.choice import Choice
from mopdsim.plan.answer.finalists import COLUMNS
from mopdsim.plan.plan import MOST_WORDS
from tools.first_answer import made


def test_the_opening_question_is_answered_and_another_is_not() -> None:
    answer = opening.known(opening.question(Choice().scenario()), None)
    assert answer is not None and len(answer["headline"].split()) <= MOST_WORDS
    table = opening.columns(answer)
    assert [name.partition(":")[0] for name in table.columns] == list(COLUMNS)
    other = opening.question(Choice(gpus=256).scenario())
    assert opening.known(other, None) is None
    whole = {**answer, "frontier": []}
    assert opening.known(other, (other, whole)) == answer


@pytest.mark.slow
def test_the_shipped_answer_is_what_the_planner_says_today() -> None:
    """After a change of numbers: python -m tools.first_answer."""
    question, answer = opening.shipped()
    today = made()
    assert today["question"] == question
    found = today["answer"]
    assert isinstance(found, dict) and found["headline"] == answer["headline"]
    for row, shipped in zip(found["equal_dollars"], answer["equal_dollars"], strict=True):
        assert row["name"] == shipped["name"]
        assert [row[key] for key in ("value", "probability_best")] == pytest.approx(
            [shipped[key] for key in ("value", "probability_best")], rel=1e-9
        )
