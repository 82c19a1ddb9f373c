"""Page What if: sliders on the left, cost, calendar and scores on the right, up to four scenarios side by side.

The page is one fragment: a dial that is moved redraws it without the frame around it.
Leaves out: the dials (`mopdsim.app.pages.controls`), what the results show (`mopdsim.app.pages.results`).
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

import streamlit as st

from mopdsim.app import opening, state, views
from mopdsim.app.answers import prepare, rival
from mopdsim.app.choice import Choice
from mopdsim.app.link import SIDE_BY_SIDE
from mopdsim.app.pages import controls, plan_work, results
from mopdsim.app.presets import PRESETS
from mopdsim.app.uploads import scenario_text
from mopdsim.base.errors import MopdError
from mopdsim.recipes import published


def page() -> None:
    """The page."""
    _body()


@st.fragment
def _body() -> None:
    _compute()
    st.title("Which post-training recipe?")
    st.caption(
        "What one mixed RL run, distillation from several teachers and their rivals cost, take and score on your "
        "model, GPUs and domains, and how sure that is."
    )
    _chooser()
    _verdict()
    results.headline()
    left, right = st.columns([3, 8], gap="medium")
    with left:
        _controls()
    with right:
        results.details()


def _compute() -> None:
    """Everything first, so that nothing is waited for between two parts of the page."""
    view = state.view()
    with suppress(MopdError):
        other = rival(view.choice)
        prepare([view.choice, view.choice.base, *view.pinned, *([] if other is None else [other])])


def _verdict() -> None:
    """The planner's answer to this question where it was worked out; else a button that has it worked out."""
    with suppress(MopdError):  # a question without a limit has no best plan
        text = _question(state.choice())
        answer = opening.known(text, plan_work.found())
        if answer is not None:
            opening.show(answer)
        elif plan_work.busy():
            plan_work.wait()
        elif st.button("Which plan is best?", icon=":material/route:", key="ask_planner"):
            plan_work.begin(text)


@lru_cache(maxsize=64)
def _question(choice: Choice) -> str:
    """The planner's question that a choice poses."""
    return opening.question(choice.scenario())


def _chooser() -> None:
    """Which question: a preset, a published system, or an own file."""
    choice = state.choice()
    titles = {name: preset.title for name, preset in PRESETS.items()}
    titles |= {name: f"{published.system(name).title}, as published" for name in published.names()}
    if choice.own is not None:
        titles = {"": "Own scenario file", **titles}
    st.selectbox(
        "Question", list(titles), format_func=titles.__getitem__,
        key=state.hold("w_preset", "" if choice.own is not None else choice.preset), on_change=_preset,
    )  # fmt: skip


def _preset() -> None:
    if st.session_state.w_preset:
        state.put(Choice(preset=st.session_state.w_preset))


def _controls() -> None:
    """The dials; of the base where the choice makes no scenario."""
    choice = state.choice()
    with views.said():
        try:
            scenario = choice.scenario()
        except MopdError:
            scenario = choice.base.scenario()
        with st.container(border=True):
            controls.sliders(scenario)
            with st.container(horizontal=True):
                st.button("Reset", icon=":material/undo:", on_click=_reset)
                st.button(
                    "Pin beside", icon=":material/push_pin:", on_click=state.pin,
                    disabled=len(state.view().pinned) >= SIDE_BY_SIDE - 1,
                    help="Keep this scenario and compare the next ones with it, up to four side by side.",
                )  # fmt: skip
        more = st.expander("Recipe, domains, model, deadline", key="what_if_more", on_change="rerun")
        if more.open:
            with more:
                controls.question(scenario)
    own = st.expander("Own scenario file", key="what_if_own", on_change="rerun")
    if own.open:
        with own:
            _upload()


def _reset() -> None:
    state.put(state.choice().base)


def _upload() -> None:
    """A TOML file takes the preset's place."""
    st.file_uploader(
        "Scenario or recipe file (TOML)", type=["toml"], key="what_if_upload", max_upload_size=1, on_change=_take_file
    )  # fmt: skip


def _take_file() -> None:
    file = st.session_state.what_if_upload
    if file is not None:
        try:
            found = Choice(own=scenario_text(file.getvalue()))
            found.scenario()
            state.put(found)
        except MopdError as error:
            st.session_state.notice = str(error)
