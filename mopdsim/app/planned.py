"""The planner's answers by question: those shipped, those worked out, those under way; and how a page draws one: there
at once, on its way, or asked for.

A question is its TOML text, so that equal questions have one answer. Each answer is a command of its own in the
background (`mopdsim.app.background`): `mopd plan`, the same with --rough for the time until that is there, or
`mopd compare --all`, which sets the published systems beside the finalists. While an answer is on its way, a rough one
stands in its place, and the question's last one before that is greyed. Leaves out: what an answer looks like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal

import streamlit as st

from mopdsim.app import background, state
from mopdsim.app.background import Work
from mopdsim.base.documents import DATA
from mopdsim.base.errors import MopdError

FILE, ANSWER = "question.toml", "answer.json"
FIRST = DATA / "first_answer.json"
Kind = Literal["rough", "planned", "ranked"]
COMMANDS: dict[Kind, list[str]] = {
    "rough": ["plan", FILE, "--rough"],
    "planned": ["plan", FILE],
    "ranked": ["compare", "--all", FILE],
}


@cache
def shipped() -> dict[str, Any]:
    """The opening question with its answers, worked out beforehand (`python -m tools.first_answer`)."""
    found: dict[str, Any] = json.loads(FIRST.read_text(encoding="utf-8"))
    return found


def known(question: str, kind: Kind = "planned") -> dict[str, Any] | None:
    """The answer to a question, if it was worked out. UsageError, one sentence, where that failed just now."""
    found, first = background.known((kind, question)), shipped()
    return first.get(kind) if found is None and question == first["question"] else found


def keep(question: str, answer: dict[str, Any], kind: Kind = "planned") -> None:
    """Remember an answer, the last few of them."""
    background.keep((kind, question), answer)


def under_way(question: str, kind: Kind = "planned") -> Work | None:
    """The work on a question, while it is being answered."""
    return background.under_way((kind, question))


def begin(question: str, kind: Kind = "planned") -> None:
    """Have a question answered, unless it is or is being; a plan that is known is ranked as it is. UsageError where the
    machine has enough to do."""
    answer = known(question) if kind == "ranked" else None
    command, given = COMMANDS[kind], {FILE: question}
    if answer is not None:
        command, given = [*command, "--planned", ANSWER], {**given, ANSWER: json.dumps(answer)}
    background.begin((kind, question), command, given)


# in the address: the question's answer was shown, and is worked out again where it is lost
PARAMETER = "answered"
Show = Callable[[str, Mapping[str, Any]], None]
_STALE = "<style>.st-key-answer_{} {{ opacity: 0.45; filter: grayscale(0.6); }}</style>"


def answer(
    question: str, show: Show, *, kind: Kind = "planned", ask: str | None = "Which plan is best?"
) -> None:
    """Draw the answer, or what there is of it: the button that asks for it, how far it is, the rough or the last one.

    show: draws an answer, given its question. ask: the button's words, None where it stands elsewhere.
    """
    # what is said of the answer, so that the browser keeps the answer itself where it was
    above = st.container()
    with above:
        found = told(question, kind)
        if found is not None:
            _remember(question, kind)
        else:
            question, found = _meanwhile(question, kind, ask)
    if found is not None:
        with st.container(key=f"answer_{kind}"):
            show(question, found)


def _meanwhile(question: str, kind: Kind, ask: str | None) -> tuple[str, Mapping[str, Any] | None]:
    """The button or how far it is; then the rough answer, or the last one, greyed, with its own question."""
    if under_way(question, kind) is None and (_lost(kind) or _asked(ask, kind)):
        ask_for(question, kind)
    # taken before: the page waits for what lies there
    rough = told(question, "rough") if kind == "planned" else None
    if under_way(question, kind) is not None:
        background.wait((kind, question), *([("rough", question)] if kind == "planned" else []))
    if rough is not None:
        st.caption(":orange-badge[rough] From few simulated worlds; the full answer takes its place.")
        return question, rough
    last: str = st.session_state.get(f"shown_{kind}", question)
    before = known(last, kind)
    if before is not None:
        st.html(_STALE.format(kind))
        st.caption(":gray-badge[to the question before]")
    return last, before


def told(question: str, kind: Kind = "planned") -> Mapping[str, Any] | None:
    """The answer, if there is one; what went wrong with it is said once, with a rough one by the full one."""
    try:
        return known(question, kind)
    except MopdError as error:
        if kind != "rough":
            st.error(str(error))
        return None


def _asked(words: str | None, kind: Kind) -> bool:
    """The button, where there is one, and whether it was pressed."""
    return words is not None and st.button(words, type="primary", icon=":material/route:", key=f"ask_{kind}")


def ask_for(question: str, kind: Kind = "planned") -> None:
    """Have the question answered, a rough answer first; a machine that has enough to do says so."""
    try:
        begin(question, kind)
    except MopdError as error:
        st.error(str(error))
        return
    if kind == "planned":
        with suppress(MopdError):  # a machine that has enough to do gives no rough answer
            begin(question, "rough")


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
