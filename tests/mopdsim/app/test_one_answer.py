"""One question, one answer: the winner and its numbers are those of `mopd plan` on every page and in every command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from mopdsim.app import planned, questions
from mopdsim.app.choice import Choice
from mopdsim.app.state import View
from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import duration, interval, score, usd
from mopdsim.cli.compare_command import ranking_text
from mopdsim.cli.plan_command import answer_text
from mopdsim.forecast import scenario as scenarios
from mopdsim.forecast.forecast import forecast
from mopdsim.plan.plan import MOST_WORDS, plan
from mopdsim.plan.question import load, loads
from mopdsim.plan.ranking import ranking

QUESTIONS = sorted((Path(__file__).parents[3] / "studies" / "questions").glob("*.toml"))
SHIPPED = "eight_domains"  # its answer comes with the app; the others are planned here
FEW = 24  # draws of the search: which plan wins is not what is tested


def what_if() -> None:
    from mopdsim.app.pages import what_if

    what_if.page()


def plan_page() -> None:
    from mopdsim.app.pages import plan

    plan.page()


def recipes() -> None:
    from mopdsim.app.pages import recipes

    recipes.page()


def drawn(script: Callable[[], None], choice: Choice, **state: Any) -> AppTest:
    at = AppTest.from_function(script, default_timeout=900)
    for key, value in {"view": View(choice=choice), **state}.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception, at.exception
    assert not at.error, [error.value for error in at.error]
    return at


def shown(at: AppTest) -> str:
    """All words of a page, without the signs that keep Markdown off them."""
    found = " ".join(str(e.value) for kind in (at.markdown, at.caption, at.subheader) for e in kind)
    return found.replace("\\", "")


def first_row(at: AppTest) -> list[str]:
    """Name, score, range, cost and calendar of the first plan in the page's table of plans."""
    table = next(table.value for table in at.table if "80% range" in table.value.columns)
    return [
        cell.replace("\\", "") for cell in table[["plan", "score", "80% range", "cost", "calendar"]].iloc[0]
    ]


def beside(at: AppTest, name: str) -> pd.Series[str]:
    """The recommended plan among the three at equal dollars."""
    markup = next(element.proto.body for element in at.get("html") if "mixed RL" in element.proto.body)
    lines = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in markup.split("</tr>")[:-1]]
    table = pd.DataFrame([row[1:] for row in lines[1:]], [row[0] for row in lines[1:]], lines[0][1:])
    return next(table[column] for column in table.columns if table[column]["plan"] == name)


def answered(path: Path) -> tuple[Choice, str, dict[str, Any], dict[str, Any]]:
    """The question as the app asks it, the planner's answer and the ranking; eight domains come as they ship."""
    if path.stem == SHIPPED:
        first = planned.shipped()
        return Choice(), first["question"], first["planned"], first["ranked"]
    choice = questions.to_choice(f"draws = {FEW}\n{path.read_text()}")
    question = questions.of_choice(choice)
    asked = loads(question)
    document = json.loads(json.dumps(plan(asked).to_document()))
    table = json.loads(json.dumps(ranking(asked, document)))
    planned.keep(question, document)
    planned.keep(question, table, "ranked")
    return choice, question, document, table


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem == SHIPPED else [pytest.mark.slow], id=p.stem) for p in QUESTIONS],
)
def test_the_winner_and_its_numbers_are_the_same_everywhere(path: Path) -> None:
    choice, _, document, table = answered(path)
    best = document["recommended"]
    name, value, cost, days = best["name"], score(best["value"]), usd(best["usd"]["p50"]), best["days"]["p50"]
    row = [name, value, interval(best["utility"], score), cost, duration(days)]
    verdict, asked = document["headline"], document["assumptions"]
    assert len(verdict.split()) <= MOST_WORDS

    told = answer_text(document).splitlines()
    assert told[:2] == [asked, verdict]
    line = next(line for line in told if line.startswith(f"{name}  "))
    assert all(cell in line for cell in row)
    ranked = ranking_text(table).splitlines()
    assert ranked[:2] == [asked, verdict]
    line = next(line for line in ranked[3:] if line.startswith(f"{name} "))
    assert value in line and cost in line

    again = forecast(scenarios.loads(best["scenario"])).to_document()
    assert usd(again["usd"]["p50"]) == cost and duration(again["days"]["p50"]) == duration(days)

    pages = (
        drawn(plan_page, choice, export_plan=True),
        drawn(recipes, choice, recipes_tab="All at one budget", export_ranked=True),
    )
    for at in pages:
        assert first_row(at) == row
        assert verdict in shown(at) and asked in shown(at)
    at = drawn(what_if, choice)
    assert verdict in shown(at) and asked in shown(at)
    own = beside(at, name)
    assert own["score, mean and P10 to P90"] == f"{value} ({row[2]})"
    assert [own["cost, GPUs while busy"], own["calendar, P50"]] == [cost, duration(days)]


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_the_app_asks_a_shipped_question_as_its_file_does(path: Path) -> None:
    """Equal questions have equal answers: nothing in the planner is drawn anew."""
    asked, filed = loads(questions.of_choice(questions.to_choice(path.read_text()))), load(path)
    assert asked == filed
    assert asked.base.stated >= filed.base.stated - {"draws"} and asked.base.recipe == filed.base.recipe


def test_the_opening_question_is_the_one_of_eight_domains() -> None:
    filed = load(next(path for path in QUESTIONS if path.stem == SHIPPED))
    asked = loads(questions.of_choice(Choice()))
    assert asked.base == filed.base and asked.limits == filed.limits


def test_an_opened_plan_asks_the_same_question() -> None:
    first = planned.shipped()
    opened = Choice(own=first["planned"]["recommended"]["scenario"])
    assert loads(questions.of_choice(opened)) == loads(first["question"])
    assert questions.of_choice(opened) == questions.of_choice(Choice())


@pytest.mark.slow
def test_an_answer_that_is_there_is_ranked_as_it_is() -> None:
    question = 'domains = ["sort", "reverse"]\ndeadline_days = 0.02\ndraws = 24\nmax_rounds = 1\n'
    asked = loads(question)
    document = json.loads(json.dumps(plan(asked).to_document()))
    planned.keep(question, document)
    planned.begin(question, "ranked")
    work = planned.under_way(question, "ranked")
    assert work is not None and "--planned" in str(work.process.args)
    work.process.wait(timeout=300)
    assert planned.known(question, "ranked") == json.loads(json.dumps(ranking(asked, document)))
    with pytest.raises(UsageError, match="the answer has no 'recommended'"):
        ranking(asked, {})
