"""Page What if, the first screen: the question as chips, the planner's verdict on it, and dials under a fold.

The page is one fragment: a dial that is moved redraws it without the frame around it.
Leaves out: the chips and dials (`mopdsim.app.pages.controls`), the planner's answer (`mopdsim.app.opening`), what one
recipe's forecast shows (`mopdsim.app.pages.results`).
"""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from mopdsim.app import opening, planned, questions, state, views
from mopdsim.app.answers import answer, rival
from mopdsim.app.pages import controls, results
from mopdsim.app.state import LETTERS
from mopdsim.base.errors import MopdError
from mopdsim.forecast.scenario import Scenario


@st.fragment
def page() -> None:
    """The page."""
    explored = st.session_state.get("explore", False)
    if explored:
        _compute()
    st.title("Which post-training recipe?", anchor=False)
    st.caption(
        "What one mixed RL run, distillation from several teachers (MOPD) and their rivals cost, take and score on "
        "your model, GPUs and domains, and how sure that is."
    )
    state.notice()
    with views.said():
        state.choice().scenario()
        state.write_link()
    scenario = state.scenario()
    controls.chips(scenario)
    with views.said():
        planned.answer(questions.of_choice(state.choice()), opening.show)
    title = "Explore one recipe: dials, waterfall, calendar"
    views.fold(title, "explore", lambda: _explore(scenario), icon=":material/tune:")


def _compute() -> None:
    """Everything first, so that the page is then drawn without a pause and the browser lays out once."""
    view = state.view()
    for choice in (view.choice, view.choice.base, *view.pinned.values()):
        with suppress(MopdError):  # whoever asks for it says so
            answer(choice)
    with suppress(MopdError):
        other = rival(view.choice)
        if other is not None:
            answer(other)


def _explore(scenario: Scenario) -> None:
    """One recipe as it is dialled: its forecast, and what each dial does to it."""
    results.headline()
    left, right = st.columns([3, 8], gap="medium")
    with left:
        with st.container(border=True):
            controls.sliders(scenario)
            with st.container(horizontal=True):
                st.button("Reset", icon=":material/undo:", on_click=_reset)
                st.button(
                    "Pin beside", icon=":material/push_pin:", on_click=state.pin,
                    disabled=len(state.view().pinned) == len(LETTERS),
                    help="Keep this scenario and compare the next ones with it, up to four side by side.",
                )  # fmt: skip
        controls.recipe(scenario)
    with right:
        results.details()


def _reset() -> None:
    state.put(state.choice().base)
