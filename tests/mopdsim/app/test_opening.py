"""The first screen: the planner's verdict on the opening question is there at once, and is today's."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
from streamlit.testing.v1 import AppTest

from mopdsim.app import background, charts, opening, planned, questions, views
from mopdsim.app.choice import Choice
from mopdsim.plan.finalists import COLUMNS
from mopdsim.plan.plan import MOST_WORDS
from mopdsim.plan.question import loads
from mopdsim.plan.ranking import ranking
from tools.record import answers, changes


def test_the_opening_question_is_answered_and_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_found", OrderedDict())
    answer = planned.known(questions.of_choice(Choice()))
    assert answer is not None and len(answer["headline"].split()) <= MOST_WORDS
    assert list(opening.columns(answer).columns) == list(COLUMNS)
    assert 1 <= len(opening.sentences(answer)) <= 3
    other = questions.of_choice(Choice(gpus=256))
    assert planned.known(other) is None
    planned.keep(other, answer)
    assert planned.known(other) == answer
    for number in range(background.KEPT):
        planned.keep(f"question {number}", answer)
    assert planned.known(other) is None  # the last few are kept


def test_the_export_carries_verdict_inputs_and_cautions() -> None:
    answer = planned.shipped()["planned"]
    table = opening.plans(answer)
    notes = [answer["assumptions"], answer["basis"]]
    picture = views.whole(charts.plans(), table, title=answer["headline"], notes=notes)
    assert " ".join(picture["title"]["text"]) == answer["headline"]
    assert " ".join(picture["title"]["subtitle"]) == " ".join(notes)
    assert views.png_bytes(charts.plans(), table, title=answer["headline"], notes=notes).startswith(
        b"\x89PNG"
    )
    assert opening.plans_in_numbers(answer)["usd p50"].iloc[0] == answer["recommended"]["usd"]["p50"]
    assert not opening.columns(answer).map(lambda cell: "\\" in cell).any().any()


def test_a_picture_says_how_many_cautions_it_leaves_out() -> None:
    assert views.on_a_picture("inputs", ["one", "two"]) == ["inputs", "one", "two"]
    assert views.on_a_picture("inputs", ["one", "two", "three"])[3].startswith("1 more caution:")
    assert views.on_a_picture("inputs", [*"abcde"])[3].startswith("3 more cautions:")


@pytest.mark.parametrize("script", ["what_if", "plan"])
def test_one_menu_has_the_picture_the_workbook_the_files_and_the_link(script: str) -> None:
    def page(script: str) -> None:
        from mopdsim.app.pages import plan, what_if

        {"what_if": what_if, "plan": plan}[script].page()

    at = AppTest.from_function(page, default_timeout=900, args=(script,))
    at.session_state["export_plan"] = True
    at.run()
    assert not at.exception
    labels = [button.proto.label for button in at.get("download_button")]
    assert {"Slide, PNG", "XLSX, all tables", "scenario.toml", "question.toml"} <= set(labels)


def test_the_shipped_answer_is_the_recorded_one() -> None:
    """The record is of the same question from its file, and is held to what the planner says by tests/test_recorded."""
    shipped, recorded = planned.shipped()["planned"], answers()["plan_eight_domains"]
    of_its_own = {"seconds", "portfolio"}  # a time, and what the file asks beside
    for key in shipped.keys() - of_its_own:
        found, known = (
            {"": row[key]} if key != "recommended" else dict(row[key]) for row in (shipped, recorded)
        )
        for row in (found, known):
            row.pop("scenario", None)
        assert not list(changes(known, found)), key
    assert shipped.keys() - of_its_own == recorded.keys() - of_its_own


@pytest.mark.slow
def test_the_shipped_table_is_that_of_the_shipped_answer() -> None:
    """After a change of numbers: python -m tools.first_answer."""
    shipped = planned.shipped()
    assert shipped["question"] == questions.of_choice(Choice())
    table = ranking(loads(shipped["question"]), shipped["planned"])
    assert not list(changes(shipped["ranked"], json.loads(json.dumps(table))))
