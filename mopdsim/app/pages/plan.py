"""Page Plan: the planner's question as a form, its answer with frontier, flip points and the worth of measuring.

Leaves out: the search (`mopd plan`), which runs in a process of its own (`mopdsim.app.pages.plan_work`); the form's
fields (`mopdsim.app.pages.plan_form`); how the answer is drawn (`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

import streamlit as st

from mopdsim.app import state, views
from mopdsim.app.answers import answer
from mopdsim.app.pages import plan_form, plan_work
from mopdsim.app.pages.plan_answer import show


def page() -> None:
    """Form on the left, answer on the right."""
    state.notice()
    left, right = st.columns([2, 5], gap="medium")
    with left, views.said():
        plan_form.ask(answer(state.choice()).forecast.scenario)
    with right:
        if plan_work.busy():
            plan_work.wait()
        elif (found := plan_work.found()) is not None:
            show(*found)
        else:
            st.markdown("##### Which recipe, how many teachers, how much compute for each?")
            st.caption(
                "The form starts from the question of What if. The planner tries thousands of plans in the same "
                "simulated worlds; half a minute to two minutes. The same on the command line: `mopd plan FILE`, with "
                "the form's file under *Question, TOML*."
            )
