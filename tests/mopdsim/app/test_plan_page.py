"""The page Plan: every wish of a question file can be asked in its form, and both are answered in the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from mopdsim.app import background, questions
from mopdsim.app.choice import Choice
from mopdsim.app.link import View
from mopdsim.app.pages.plan_budget import within
from mopdsim.cli.plan_command import plan as verb
from mopdsim.facts.model import model
from mopdsim.forecast import scenario
from mopdsim.plan.plan import plan as planned
from mopdsim.plan.question import Question, from_document, load, loads
from mopdsim.recipes.recipe_file import parse_toml

TINY = Choice(preset="tiny", domains=("sort", "reverse"), deadline_days=0.02)
EIGHT = Path(__file__).parents[3] / "studies" / "questions" / "eight_domains.toml"


def page() -> None:
    import streamlit as st

    from mopdsim.app.pages import plan

    if not st.session_state.get("elsewhere"):
        plan.page()


class Begun:
    """What the page hands to the planner instead of a process."""

    seconds = 1.0
    running = True

    def __init__(self) -> None:
        self.questions: list[str] = []

    def start(self, arguments: list[str], files: dict[str, str]) -> Begun:
        assert arguments == ["plan", *files]
        self.questions.extend(files.values())
        return self


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    found = Begun()
    monkeypatch.setattr(background, "start", found.start)
    yield found


def drawn(choice: Choice = TINY, **state: Any) -> AppTest:
    at = AppTest.from_function(page, default_timeout=60)
    at.session_state["view"] = View(choice=choice)
    for key, value in state.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception, at.exception
    return at


def press(at: AppTest, label: str) -> None:
    next(button for button in at.button if button.label == label).click().run()
    assert not at.exception, at.exception


def asked(at: AppTest, begun: Begun) -> Question:
    """The question that the form asks when its button is pressed."""
    press(at, "Recommend a plan")
    assert not at.error, [error.value for error in at.error]
    return loads(begun.questions[-1])


def question(**changes: Any) -> Question:
    reliability = {"failures_per_gpu_hour": 0.0, "rerun_probability": 0.0}
    tiny = {"model": "tiny", "gpu": "CPU-2-cores", "gpus": 1, "teams": 1, "reliability": reliability}
    return from_document({"domains": ["sort", "reverse"], "deadline_days": 0.02, **tiny, **changes})


def test_the_form_opens_on_the_question_that_ships_as_a_file(begun: Begun) -> None:
    document = parse_toml(EIGHT.read_text(), source="file")
    del document["portfolio"]
    document["model"] = model(document["model"]).name
    assert asked(drawn(Choice()), begun) == from_document(document)
    assert load(EIGHT).portfolio


def test_the_form_asks_for_weights_lowest_scores_and_confidence(begun: Begun) -> None:
    at = drawn()
    at.selectbox(key="plan_w_objective").select("weighted").run()
    kept = at.session_state["plan_form"]["values"]
    kept["wishes"] = pd.DataFrame({"weight": [3.0, 1.0], "least": [None, 0.25]}, index=["sort", "reverse"])
    at.session_state["elsewhere"] = True
    at.run()
    at.session_state["elsewhere"] = False
    at.run()
    at.slider(key="plan_w_least").set_value(0.1)
    at.slider(key="plan_w_confidence").set_value(0.7).run()
    weights, minimum = {"sort": 3.0, "reverse": 1.0}, {"sort": 0.1, "reverse": 0.25}
    wanted = question(objective="weighted", weights=weights, minimum=minimum, confidence=0.7)
    assert asked(at, begun) == wanted


def test_the_form_asks_for_the_low_end_and_a_year_of_releases(begun: Begun) -> None:
    at = drawn()
    at.selectbox(key="plan_w_objective").select("p10").run()
    at.number_input(key="plan_w_releases").set_value(2).run()
    at.multiselect(key="plan_w_release_0_sort_reverse").select("sort").run()
    at.multiselect(key="plan_w_release_1_sort_reverse").set_value(["sort", "reverse"]).run()
    assert asked(at, begun) == question(objective="p10", portfolio=[["sort"], ["sort", "reverse"]])


def test_domains_added_in_the_form_bring_their_rows_and_typed_numbers_are_known(begun: Begun) -> None:
    at = drawn()
    at.multiselect(key="plan_w_domains").set_value(["sort", "shift"]).run()
    values = at.session_state["plan_form"]["values"]
    assert list(values["facts"].index) == ["sort", "shift"]
    values["facts"].loc["shift", ["start", "turns"]] = [0.125, 2]
    document = questions.of_form(values)
    assert document["domain"] == {"shift": {"start": 0.125, "turns": 2}}
    assert loads(questions.checked(document)).domains == ("sort", "shift")


def test_what_was_asked_outlives_a_switch_of_pages_and_another_choice_begins_anew(begun: Begun) -> None:
    at = drawn()
    at.number_input(key="plan_w_gpus").set_value(2)
    at.number_input(key="plan_w_releases").set_value(1).run()
    at.multiselect(key="plan_w_release_0_sort_reverse").select("reverse").run()
    for elsewhere in (True, False):
        at.session_state["elsewhere"] = elsewhere
        at.run()
    assert at.number_input(key="plan_w_gpus").value == 2
    assert asked(at, begun) == question(gpus=2, portfolio=[["reverse"]])
    at.session_state["planning"] = None
    at.session_state["view"] = View(choice=TINY.changed(gpus=4))
    at.run()
    assert at.number_input(key="plan_w_gpus").value == 4
    assert at.session_state["plan_form"]["values"]["portfolio"] == []


@pytest.mark.slow
def test_the_form_and_the_command_give_the_same_answer(begun: Begun, tmp_path: Path) -> None:
    """The form's question and one written by hand as the documentation shows it, each through the verb."""
    at = drawn()
    at.selectbox(key="plan_w_objective").select("worst").run()
    asked(at, begun)
    by_hand = (
        'domains = ["sort", "reverse"]\nmodel = "tiny"\ngpu = "CPU-2-cores"\ngpus = 1\nteams = 1\n'
        'deadline_days = 0.02\nobjective = "worst"\n'
        "[reliability]\nfailures_per_gpu_hour = 0\nrerun_probability = 0\n"
    )
    answers = []
    for name, text in (("form", begun.questions[-1]), ("hand", by_hand)):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        app = typer.Typer()
        app.command()(verb)
        result = CliRunner().invoke(app, [str(path), "--draws", "24", "--json"], catch_exceptions=False)
        answers.append(json.loads(result.stdout))
    form, hand = answers
    assert form["recommended"]["label"] == hand["recommended"]["label"]
    assert form["recommended"]["value"] == hand["recommended"]["value"]
    scenarios = [scenario.loads(found["recommended"].pop("scenario")) for found in answers]
    assert scenarios[0] == scenarios[1]
    assert {**form, "seconds": 0} == {**hand, "seconds": 0}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"deadline_days": 0.0}, "no limit: give budget_usd"),
        ({"domains": []}, "domains = []: must be a list of names"),
        ({"model": "/"}, "the app reads no files"),
    ],
)
def test_a_form_that_makes_no_question_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    at = drawn()
    values = {**at.session_state["plan_form"]["values"], **fields}
    with pytest.raises(Exception, match="question: ") as caught:
        questions.checked(questions.of_form(values))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def answered() -> tuple[str, dict[str, Any]]:
    text = (
        'domains = ["sort", "reverse"]\ndeadline_days = 0.02\nbudget_usd = 0.01\nmax_rounds = 1\ndraws = 32\n'
    )
    more = 'portfolio = [["sort"]]\n[conflict]\n"sort>reverse" = [-1.5, 1.0]\n'
    return text + more, json.loads(json.dumps(planned(loads(text + more)).to_document()))


def test_a_smaller_budget_takes_the_frontiers_best_that_surely_keeps_it(
    answered: tuple[str, dict[str, Any]], begun: Begun
) -> None:
    text, document = answered
    rows = document["frontier"]
    for money in (1e-4, 3e-4, 1e-3, 1e-2):
        best = within(document, money)
        able = [row for row in rows if row["usd_at_confidence"] <= money]
        assert (best is None) == (not able)
        if best is not None:
            assert best["value"] >= max(row["value"] for row in able) - 0.001
    at = drawn(planned=answered)
    at.select_slider(key="plan_budget_0.01").set_value(0.005).run()
    assert "within $0.005" in " ".join(str(caption.value).replace("\\", "") for caption in at.caption)
    press(at, "Plan again with \\$0.005")
    assert parse_toml(begun.questions[-1], source="again") == {
        **parse_toml(text, source="first"),
        "budget_usd": 0.005,
    }


def test_the_answer_says_why_and_what_a_year_costs(answered: tuple[str, dict[str, Any]]) -> None:
    at = drawn(planned=answered)
    told = " ".join(str(element.value) for kind in (at.markdown, at.caption) for element in kind)
    assert "Why this one" in told and "A year of releases" in told and "times its cost" in told
    years = next(table.value for table in at.dataframe if "days of work" in table.value.columns)
    assert list(years["plan"]) == [row["label"] for row in answered[1]["portfolio"]["plans"]]
