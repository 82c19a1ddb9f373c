"""Page Plan: the question as fields, four of them and the rest under More; beside them the planner's answer.

The question is the choice at hand, the same as on What if: every field is set from the choice and replaces a part of
it. Leaves out: fields that the first screen has too (`mopdsim.app.pages.controls`), how a choice becomes a question
(`mopdsim.app.questions`), the search (`mopd plan`), which runs in a process of its own (`mopdsim.app.planned`),
how the answer is drawn (`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import planned, questions, state, views
from mopdsim.app.choice import Choice
from mopdsim.app.pages import controls, own, plan_answer
from mopdsim.app.views import Cells
from mopdsim.base.errors import MopdError
from mopdsim.facts.domains import FACTS, WHOLE, Estimate
from mopdsim.forecast.scenario import Scenario
from mopdsim.plan.question import OBJECTIVES

OBJECTIVE_TITLES = {
    "mean": "Mean score",
    "worst": "Worst domain",
    "weighted": "Weighted mean",
    "p10": "P10 of the mean (averse to risk)",
}
MOST_RELEASES = 8
CONFIDENCE = 0.8  # the planner's own, where nothing is wished
SHOWN = (
    "start", "asymptote", "midpoint", "steepness", "distill_tokens", "prompt_tokens", "response_tokens",
    "environment_seconds", "max_response_tokens", "turns",
)  # fmt: skip
_TITLES = {
    "start": "base's score",
    "asymptote": "score RL tends to",
    "midpoint": "RL compute for half the gain",
    "steepness": "steepness of the climb",
    "distill_tokens": "tokens to hand it over",
    "prompt_tokens": "prompt tokens",
    "response_tokens": "response tokens",
    "environment_seconds": "seconds of environment a turn",
    "max_response_tokens": "longest response, tokens",
    "turns": "turns",
}


def fields(scenario: Scenario, question: str | None) -> None:
    """Domains, model, GPUs and money; the rest folded."""
    controls.of_domains_alone(scenario)
    controls.of_model_alone(scenario)
    controls.of_gpus(scenario)
    controls.of_money(scenario)
    for title, key, draw in (
        ("More", "plan_more", _more),
        ("What you know of the domains", "plan_facts", _known),
        ("Further releases this year", "plan_year", _year),
    ):
        views.fold(title, key, partial(draw, scenario))
    if question is not None:
        views.download("Question, TOML", question, planned.FILE, "application/toml")


def _more(scenario: Scenario) -> None:
    controls.of_price(scenario)
    controls.of_time(scenario)
    controls.of_teams(scenario)
    _wishes(scenario)
    own.file()


def _wish(**changes: Any) -> None:
    """Change what is wished of the plan."""
    state.change(wishes=questions.wished(state.choice(), **changes))


def _wishes(scenario: Scenario) -> None:
    """What counts, lowest scores, how surely limits must hold."""
    choice = state.choice()
    wished = questions.wishes(choice)
    objective = wished.get("objective", "mean")
    st.selectbox(
        "What counts", OBJECTIVES, OBJECTIVES.index(objective), format_func=OBJECTIVE_TITLES.__getitem__,
        key=state.hold("plan_objective", objective), on_change=_objective,
    )  # fmt: skip
    confidence = float(wished.get("confidence", CONFIDENCE))
    st.slider(
        "Limits are kept with probability", 0.5, 0.99, confidence, 0.01,
        key=state.hold("plan_confidence", confidence), on_change=_confidence,
    )  # fmt: skip
    st.caption("Lowest acceptable score of each domain, and its weight under *Weighted mean*:")
    names = list(scenario.recipe.domains)
    table = pd.DataFrame(
        {
            "least": [wished.get("minimum", {}).get(name) for name in names],
            "weight": [wished.get("weights", {}).get(name, 1.0) for name in names],
        },
        index=pd.Index(names, name="domain"),
        dtype=float,
    )
    views.editor(
        "plan_wishes", table, _edited_wishes, alt="Lowest acceptable score and weight of each domain, editable",
        column_config={
            "least": st.column_config.NumberColumn("lowest score", min_value=0.0, max_value=1.0),
            "weight": st.column_config.NumberColumn("weight", min_value=0.0, disabled=objective != "weighted"),
        },
    )  # fmt: skip


def _objective() -> None:
    objective = st.session_state.plan_objective
    weights = {} if objective == "weighted" else {"weights": None}
    _wish(objective=None if objective == "mean" else objective, **weights)


def _confidence() -> None:
    value = st.session_state.plan_confidence
    _wish(confidence=None if value == CONFIDENCE else value)


def _edited_wishes(cells: Cells) -> None:
    wished = questions.wishes(state.choice())
    minimum, weights = dict(wished.get("minimum", {})), dict(wished.get("weights", {}))
    for name, column, value in cells:
        chosen = minimum if column == "least" else weights
        if value is None:
            chosen.pop(name, None)
        else:
            chosen[name] = float(value)
    _wish(minimum={name: least for name, least in minimum.items() if least}, weights=weights or None)


def known(scenario: Scenario) -> pd.DataFrame:
    """Central values of ten fields of each domain, a row a domain."""
    rows = {
        name: [
            value.value if isinstance(value := getattr(row, field), Estimate) else float(value)
            for field in SHOWN
        ]
        for name, row in scenario.domains.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(SHOWN)).rename_axis("domain")


@views.said()
def _known(scenario: Scenario) -> None:
    st.caption("Central values; a number you type over is taken as known, the others stay priors.")
    views.editor(
        "plan_facts_table", known(scenario), _edited_facts, alt="What is known of each domain, ten fields, editable",
        column_config=_TITLES,
    )  # fmt: skip
    st.button("Forget what was typed", disabled=not state.choice().facts, on_click=_forget)


def _edited_facts(cells: Cells) -> None:
    state.change(facts=with_facts(state.choice(), cells))


def with_facts(choice: Choice, cells: Cells) -> Any:
    """The choice's facts with cells typed over; an emptied cell is a prior again."""
    found = {(name, key): value for name, key, value in choice.facts}
    for name, key, value in cells:
        if key not in FACTS:
            continue
        if value is None:
            found.pop((name, key), None)
        else:
            found[name, key] = float(int(value) if key in WHOLE else value)
    return tuple((*pair, value) for pair, value in found.items())


def _forget() -> None:
    """Own domains stay, as what they are like."""
    state.change(facts=tuple(row for row in state.choice().facts if row[1] == "like"))


@views.said()
def _year(scenario: Scenario) -> None:
    """Releases after the first, each with the domains that it changes."""
    st.caption("Teachers of domains that do not change are shared; a mixed run is redone whole.")
    names = list(scenario.recipe.domains)
    kept = [
        [name for name in release if name in names]
        for release in questions.wishes(state.choice()).get("portfolio", [])
    ]
    shown = st.number_input(
        "Releases after the first", 0, MOST_RELEASES, max(len(kept), st.session_state.get("plan_releases", 0)),
        key="plan_releases", on_change=_fewer,
    )  # fmt: skip
    kept = [*kept, *([] for _ in range(shown - len(kept)))][:shown]
    for place, release in enumerate(kept):
        st.multiselect(
            f"Release {place + 2} changes", names, release, key=state.hold(f"plan_release_{place}", release),
            on_change=_released, args=(shown,),
        )  # fmt: skip


def _fewer() -> None:
    """Releases beyond the number go."""
    _wish(portfolio=questions.wishes(state.choice()).get("portfolio", [])[: st.session_state.plan_releases])


def _released(shown: int) -> None:
    releases = [list(st.session_state.get(f"plan_release_{place}", ())) for place in range(shown)]
    _wish(portfolio=[release for release in releases if release])


def page() -> None:
    """Fields on the left, answer on the right."""
    state.notice()
    left, right = st.columns([2, 6], gap="medium")
    with left:
        question = _question()
        known = question is None or planned.told(question) is not None
        asked = st.button(
            "Recommend a plan", type="primary", icon=":material/route:", width="stretch", key="recommend",
            disabled=question is None or known or planned.under_way(question) is not None,
        )  # fmt: skip
        if asked and question is not None:
            planned.ask_for(question)
        with suppress(MopdError):  # the question has said it
            fields(state.scenario(), question)
    with right:
        if question is not None:
            planned.answer(question, plan_answer.show, ask=None)
            if not known and planned.under_way(question) is None:
                st.caption(
                    "The planner tries thousands of plans in the same simulated worlds. A rough answer comes within "
                    "seconds, the full one after half a minute or so. The same on the command line: `mopd plan FILE`, "
                    "with the file under *Question, TOML*."
                )


def _question() -> str | None:
    """The question at hand, now in the address; None where it is not sound, which is said."""
    with views.said():
        found = questions.of_choice(state.choice())
        state.write_link()
        return found
    return None
