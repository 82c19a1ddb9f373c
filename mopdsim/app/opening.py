"""What the app opens with: its purpose, the planner's verdict on the question, three kinds of plan at equal dollars.

The answer to the question that the app opens with was worked out beforehand (`python -m tools.first_answer`), so that
it is there at once; any other question is planned on request. Leaves out: the dials and the forecast of one recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import questions, views
from mopdsim.base.numbers import duration, interval, points, score, share, usd
from mopdsim.forecast.scenario import Scenario
from mopdsim.plan.answer import words

KEYS = ("assumptions", "headline", "basis", "equal_dollars", "undecided_by", "deciding_pilot")
FIRST = files("mopdsim").joinpath("data", "first_answer.json")
_CHANGES = 3


def question(scenario: Scenario) -> str:
    """The planner's question that a scenario poses, as TOML. UsageError where it has no limit."""
    return questions.checked(questions.of_scenario(scenario))


def short(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of a planner's answer, what the first screen shows."""
    found = {key: document[key] for key in KEYS}
    return {**found, "undecided_by": found["undecided_by"][:_CHANGES]}


@cache
def shipped() -> tuple[str, dict[str, Any]]:
    """The opening question and its answer."""
    found = json.loads(FIRST.read_text(encoding="utf-8"))
    return found["question"], found["answer"]


def known(text: str, planned: tuple[str, Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    """The answer to a question, if it was worked out: the shipped one, or the last that the planner gave."""
    if planned is not None and planned[0] == text:
        return short(planned[1])
    first, answer = shipped()
    return answer if text == first else None


def show(answer: Mapping[str, Any]) -> None:
    """Verdict, three columns, what would change this, what to measure first."""
    st.caption(views.plain(answer["assumptions"]))
    st.markdown(f"### {views.plain(answer['headline'])}")
    st.markdown(f":gray-badge[{views.plain(answer['basis'])}]")
    st.dataframe(columns(answer), alt="Mixed RL, the best MOPD and the best other plan at equal dollars")
    lines = [
        f"If {row['what']} is {words.ENDS[row['at']]}, {row['to']} is better by "
        f"{points(row['gain']).removeprefix('+')}."
        for row in answer["undecided_by"]
    ]
    pilot = answer["deciding_pilot"]
    if pilot is not None:
        lines.append(f"Measure first: {pilot['title']}, {usd(pilot['usd'])}.")
    if lines:
        st.markdown(views.plain("\n".join(f"- {line}" for line in lines)))


def columns(answer: Mapping[str, Any]) -> pd.DataFrame:
    """The plans side by side: a column a kind, a row a figure."""
    found = {}
    for row in answer["equal_dollars"]:
        chance = row["within_deadline"]
        found[f"{row['column']}: {row['name']}"] = {
            "score, P10 to P90": f"{score(row['value'])} ({interval(row['utility'], score)})",
            "worst domain": score(row["worst_score"]["p50"]),
            "cost": usd(row["usd"]["p50"]),
            "calendar": duration(row["days"]["p50"]),
            "deadline kept": "no deadline" if chance is None else share(chance),
            "best of the three": share(row["probability_best"]),
        }
    return pd.DataFrame(found)
