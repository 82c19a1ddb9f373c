"""The session's one value, the view, and its way into and out of the address bar, as a compact token.

Widgets never own the view: they are set from it, and their callbacks replace it. So it survives page switches, and a
link restores it. A token is compressed JSON in URL-safe letters, read back with every bound checked. Leaves out: what a
choice is (`mopdsim.app.choice`).
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import streamlit as st
from pydantic import ValidationError

from mopdsim.app.choice import Choice
from mopdsim.base.documents import in_words
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.stage import Value

Letter = Literal["A", "B", "C"]
LETTERS: tuple[Letter, ...] = get_args(Letter)
MAX_TOKEN = 32_768
MAX_TEXT = 1_000_000


class View(Value):
    """What the What-if page shows: the choice at hand, and those pinned beside it by a letter that each keeps."""

    choice: Choice = Choice()
    pinned: Mapping[Letter, Choice] = {}


def to_token(view: View) -> str:
    """The view as a token. UsageError where it is too long for a link."""
    packed = zlib.compress(view.model_dump_json(exclude_defaults=True).encode(), 9)
    token = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    if len(token) > MAX_TOKEN:
        raise UsageError(
            f"the view takes {len(token)} letters: a link holds {MAX_TOKEN}; save the scenario as a file"
        )
    return token


def from_token(token: str) -> View:
    """The view of a token. UsageError, one sentence, for anything else."""
    if len(token) > MAX_TOKEN:
        raise UsageError(
            f"link: its view has {len(token)} letters, more than {MAX_TOKEN}: copy the link again"
        )
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MAX_TEXT)
        if not unpacker.eof:
            raise ValueError("cut off, or too long")
        document = json.loads(text)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        raise UsageError("link: its view is damaged: copy the whole link again") from None
    try:
        return View.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"link: {in_words(error)}") from None


PARAMETER = "view"


@contextmanager
def noticed() -> Iterator[None]:
    """A user's error inside, or a value out of range, is one sentence that the page says once; nothing else is done."""
    try:
        yield
    except ValidationError as error:
        st.session_state.notice = in_words(error)
    except MopdError as error:
        st.session_state.notice = str(error)


def restore() -> None:
    """Take the view from the link where it names another one than the session has; a bad link is said once."""
    token = st.query_params.get(PARAMETER)
    if token is None or token == st.session_state.get("token"):
        return
    st.session_state.token = token
    with noticed():
        found = from_token(token)
        for choice in (found.choice, *found.pinned.values()):
            choice.scenario()
        st.session_state.view = found


def view() -> View:
    """The session's view."""
    found: View = st.session_state.setdefault("view", View())
    return found


def choice() -> Choice:
    """The choice at hand."""
    return view().choice


def scenario() -> Scenario:
    """Of the choice at hand; of its base where it makes none."""
    try:
        return choice().scenario()
    except MopdError:
        return choice().base.scenario()


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
    st.session_state.view = View(choice=found, pinned=view().pinned)


@noticed()
def change(**fields: Any) -> None:
    """Change fields of the choice at hand; what is out of range is said and not taken."""
    put(choice().changed(**fields))


def pin() -> None:
    """Keep the choice at hand beside the next ones, under the first letter that is free."""
    pinned = view().pinned
    free = [letter for letter in LETTERS if letter not in pinned][:1]
    st.session_state.view = View(choice=choice(), pinned={**pinned, **dict.fromkeys(free, choice())})


def unpin(letter: Letter) -> None:
    """Let a pinned choice go."""
    kept = {name: found for name, found in view().pinned.items() if name != letter}
    st.session_state.view = View(choice=choice(), pinned=kept)


def notice() -> None:
    """Say once what went wrong."""
    if text := st.session_state.get("notice"):
        st.session_state.notice = None
        st.error(text)


def hold(key: str, value: Any) -> str:
    """Set a widget's value before it is drawn, unless it has it already; returns the key.

    The widget is given the same value as its default: a browser that a second redraw reaches before it drew the first
    is told of no change, and shows the default.
    """
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    return key
