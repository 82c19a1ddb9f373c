"""The planner's answer to the question at hand, on every page that shows one: there at once, on its way, or asked for.

One answer for all pages: each takes it from here. While it is on its way, a rough one stands in its place, and the
question's last one before that is greyed. Leaves out: the answers themselves (`mopdsim.app.planned`), how they are
shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import streamlit as st

from mopdsim.app import planned, state
from mopdsim.app.planned import Kind
from mopdsim.base.errors import MopdError
from mopdsim.plan.words import capital

POLL_S = 0.5
PARAMETER = (
    "answered"  # in the address: the question's answer was shown, and is worked out again where it is lost
)
Show = Callable[[str, Mapping[str, Any]], None]
_STALE = "<style>.st-key-answer_{} {{ opacity: 0.45; filter: grayscale(0.6); }}</style>"


def answer(
    question: str, show: Show, *, kind: Kind = "planned", ask: str | None = "Which plan is best?"
) -> None:
    """Draw the answer, or what there is of it: the button that asks for it, how far it is, the rough or the last one.

    show: draws an answer, given its question. ask: the button's words, None where it stands elsewhere.
    """
    above = (
        st.container()
    )  # what is said of the answer, so that the browser keeps the answer itself where it was
    with above:
        found = known(question, kind)
        if found is not None:
            _remember(question, kind)
        else:
            question, found = _meanwhile(question, kind, ask)
    if found is not None:
        with st.container(key=f"answer_{kind}"):
            show(question, found)


def _meanwhile(question: str, kind: Kind, ask: str | None) -> tuple[str, Mapping[str, Any] | None]:
    """The button or how far it is; then the rough answer, or the last one, greyed, with its own question."""
    if not working(question, kind) and (_lost(kind) or _asked(ask, kind)):
        begin(question, kind)
    rough = (
        known(question, "rough") if kind == "planned" else None
    )  # taken before: the page waits for what lies there
    if working(question, kind):
        wait(question, kind)
    if rough is not None:
        st.caption(":orange-badge[rough] From few simulated worlds; the full answer takes its place.")
        return question, rough
    last: str = st.session_state.get(f"shown_{kind}", question)
    before = planned.known(last, kind)
    if before is not None:
        st.html(_STALE.format(kind))
        st.caption(":gray-badge[to the question before]")
    return last, before


def known(question: str, kind: Kind = "planned") -> Mapping[str, Any] | None:
    """The answer, if there is one; what went wrong with it is said once, with a rough one by the full one."""
    try:
        return planned.known(question, kind)
    except MopdError as error:
        if kind != "rough":
            st.error(str(error))
        return None


def _asked(words: str | None, kind: Kind) -> bool:
    """The button, where there is one, and whether it was pressed."""
    return words is not None and st.button(words, type="primary", icon=":material/route:", key=f"ask_{kind}")


def working(question: str | None, kind: Kind = "planned") -> bool:
    """Whether the question is being answered."""
    return question is not None and planned.under_way(question, kind) is not None


def begin(question: str, kind: Kind = "planned") -> None:
    """Have the question answered, a rough answer first; a machine that has enough to do says so."""
    try:
        planned.begin(question, kind)
    except MopdError as error:
        st.error(str(error))
        return
    if kind == "planned":
        with suppress(MopdError):  # a machine that has enough to do gives no rough answer
            planned.begin(question, "rough")


def _remember(question: str, kind: Kind) -> None:
    """The answer shown last, and in the address that there is one."""
    st.session_state[f"shown_{kind}"] = question
    if kind == "planned" and state.PARAMETER in st.query_params:
        st.query_params[PARAMETER] = "1"


def _lost(kind: Kind) -> bool:
    """Whether this address has shown an answer that this visit has not seen: a reload, or another server."""
    return (
        kind == "planned" and PARAMETER in st.query_params and st.session_state.get("shown_planned") is None
    )


@st.fragment(run_every=POLL_S)
def wait(question: str, kind: Kind = "planned") -> None:
    """Say how far it is; the page is drawn again when it is done, and when the rough one is."""
    work = planned.under_way(question, kind)
    rough = planned.under_way(question, "rough")
    if work is None or not work.running or (rough is not None and not rough.running and kind == "planned"):
        st.rerun()
        return
    done, stages, what = work.progress
    st.progress(done / stages, text=f"{capital(what)}: {work.seconds:.0f} s")
