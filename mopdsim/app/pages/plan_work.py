"""A question on its way to the planner: `mopd plan` in a process of its own, and the page that waits for it.

Leaves out: the question's form (`mopdsim.app.pages.plan_form`), the answer (`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

import streamlit as st

from mopdsim.app import background
from mopdsim.base.errors import MopdError

POLL_S = 1
FILE = "question.toml"


def busy() -> bool:
    """Whether a question is being answered."""
    return st.session_state.get("planning") is not None


def begin(question: str) -> None:
    """Hand a question's text to the planner and draw the page anew."""
    st.session_state.planning = (question, background.start(["plan", FILE], {FILE: question}))
    st.session_state.planned = None
    st.rerun()


@st.fragment(run_every=POLL_S)
def wait() -> None:
    """Say how long it has been at work; when it is done, keep the answer for the page."""
    if not busy():
        return
    question, work = st.session_state.planning
    if work.running:
        st.info(f"Searching families, groupings and compute: {work.seconds:.0f} s.")
        return
    st.session_state.planning = None
    try:
        st.session_state.planned = (question, work.result())
    except MopdError as error:
        st.session_state.notice = str(error)
    st.rerun()
