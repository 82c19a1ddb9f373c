"""The session's one value, the view, and its way into and out of the address bar.

Widgets never own it: they are set from it, and their callbacks replace it. So it survives page switches, and a link
restores it. Leaves out: what a view holds (`mopdsim.app.link`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from mopdsim.app.choice import Choice
from mopdsim.app.link import SIDE_BY_SIDE, View, from_token, to_token
from mopdsim.base.errors import MopdError
from mopdsim.recipes.recipe_file import in_words

PARAMETER = "view"


def restore() -> None:
    """Take the view from the link where it names another one than the session has; a bad link is said once."""
    state = st.session_state
    state.setdefault("view", View())
    state.setdefault("token", None)
    state.setdefault("notice", None)
    token = st.query_params.get(PARAMETER)
    if token is None or token == state.token:
        return
    state.token = token
    try:
        found = from_token(token)
        for choice in (found.choice, *found.pinned):
            choice.scenario()
        state.view = found
    except MopdError as error:
        state.notice = str(error)


def view() -> View:
    """The session's view."""
    found: View = st.session_state.setdefault("view", View())
    return found


def choice() -> Choice:
    """The choice at hand."""
    return view().choice


def write_link() -> None:
    """Put the view into the address bar; too long a view leaves it as it was."""
    try:
        token = to_token(view())
    except MopdError:
        return
    if view() == View():
        if PARAMETER in st.query_params:
            del st.query_params[PARAMETER]
        st.session_state.token = None
    elif st.query_params.get(PARAMETER) != token:
        st.query_params[PARAMETER] = st.session_state.token = token


def put(found: Choice) -> None:
    """Make this the choice at hand."""
    st.session_state.view = view().model_copy(update={"choice": found})


def change(**fields: Any) -> None:
    """Change fields of the choice at hand; what is out of range is said and not taken."""
    try:
        put(choice().changed(**fields))
    except ValidationError as error:
        st.session_state.notice = in_words(error)
    except MopdError as error:
        st.session_state.notice = str(error)


def pin() -> None:
    """Keep the choice at hand beside the next ones."""
    if len(view().pinned) < SIDE_BY_SIDE - 1:
        st.session_state.view = view().pin()


def unpin(place: int) -> None:
    """Let a pinned choice go."""
    st.session_state.view = view().unpin(place)


def notice() -> None:
    """Say once what went wrong."""
    if text := st.session_state.get("notice"):
        st.session_state.notice = None
        st.error(text)


def mend(key: str, options: Sequence[Any]) -> None:
    """Forget a widget's remembered choice that is no longer offered."""
    if st.session_state.get(key) not in (None, *options):
        del st.session_state[key]


def hold(key: str, value: Any) -> str:
    """Set a widget's value before it is drawn, unless it has it already; returns the key."""
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    return key
