"""A question on its way to the planner, in a process of its own, and the page that waits for it: `mopd plan`, or
`mopd compare --all` with the same finalists beside the published systems.

Leaves out: the question's form (`mopdsim.app.pages.plan_form`), the answers (`mopdsim.app.pages.plan_answer`,
`mopdsim.app.pages.recipes`).
"""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from mopdsim.app import background
from mopdsim.base.errors import MopdError

POLL_S = 1
FILE = "question.toml"
Kind = Literal["planned", "ranked"]
COMMANDS: dict[Kind, list[str]] = {"planned": ["plan", FILE], "ranked": ["compare", "--all", FILE]}
_WORK: dict[Kind, str] = {"planned": "planning", "ranked": "ranking"}


def busy(kind: Kind = "planned") -> bool:
    """Whether a question is being answered."""
    return st.session_state.get(_WORK[kind]) is not None


def found(kind: Kind = "planned") -> tuple[str, dict[str, Any]] | None:
    """The last answer with its question."""
    answer: tuple[str, dict[str, Any]] | None = st.session_state.get(kind)
    return answer


def begin(question: str, kind: Kind = "planned") -> None:
    """Hand a question's text to the planner and draw the page anew."""
    st.session_state[_WORK[kind]] = (question, background.start(COMMANDS[kind], {FILE: question}))
    st.session_state[kind] = None
    st.rerun()


@st.fragment(run_every=POLL_S)
def wait(kind: Kind = "planned") -> None:
    """Say how long it has been at work; when it is done, keep the answer for the page."""
    if not busy(kind):
        return
    question, work = st.session_state[_WORK[kind]]
    if work.running:
        st.info(f"Searching families, groupings and compute: {work.seconds:.0f} s.")
        return
    st.session_state[_WORK[kind]] = None
    try:
        st.session_state[kind] = (question, work.result())
    except MopdError as error:
        st.session_state.notice = str(error)
    st.rerun()
