"""Page Plan: the question as fields, the planner's answer with calendar, cost against score, and what would change it.

The question is the choice at hand, the same as on What if. Leaves out: the search (`mopd plan`), which runs in a
process of its own (`mopdsim.app.pages.plan_work`); the fields (`mopdsim.app.pages.plan_form`); how the answer is drawn
(`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

import streamlit as st

from mopdsim.app import questions, state, views
from mopdsim.app.pages import plan_answer, plan_form, plan_work
from mopdsim.base.errors import MopdError
from mopdsim.forecast.scenario import Scenario


def page() -> None:
    """Fields on the left, answer on the right."""
    state.notice()
    left, right = st.columns([2, 6], gap="medium")
    with left:
        question = _question()
        known = question is None or plan_work.known(question) is not None
        asked = st.button(
            "Recommend a plan", type="primary", icon=":material/route:", width="stretch", key="recommend",
            disabled=known or plan_work.working(question),
        )  # fmt: skip
        if asked and question is not None:
            plan_work.begin(question)
        with views.said():
            plan_form.fields(_scenario(), question)
    with right:
        if question is not None:
            plan_work.answer(question, plan_answer.show, ask=None)
            if not known and not plan_work.working(question):
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


def _scenario() -> Scenario:
    """The choice's scenario; its base's where it makes none."""
    try:
        return state.choice().scenario()
    except MopdError:
        return state.choice().base.scenario()
