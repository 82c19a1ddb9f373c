"""The app's frame: its title, its pages, the view restored from the link. Leaves out: the pages."""

from __future__ import annotations

import gc
from importlib.resources import files

import streamlit as st

from mopdsim.app import state
from mopdsim.app.pages import calibration, interference, plan, recipes, runs, what_if

WHAT_IF = st.Page(
    what_if.page,
    title="What if",
    icon=":material/tune:",
    default=True,
    help="Drag a slider and see cost, calendar and scores change at once.",
)
PAGES = [
    WHAT_IF,
    st.Page(
        plan.page,
        title="Plan",
        icon=":material/route:",
        url_path="plan",
        help="Ask which recipe, how many teachers and how much compute; see what would change the answer.",
    ),
    st.Page(
        interference.page,
        title="Interference",
        icon=":material/hub:",
        url_path="interference",
        help="What training on one domain does to another: edit it, and deal domains to teachers.",
    ),
    st.Page(
        recipes.page,
        title="Recipes",
        icon=":material/account_tree:",
        url_path="recipes",
        help="The published systems and their rivals: graph, stages, calendar, cost; all at one budget.",
    ),
    st.Page(
        calibration.page,
        title="Calibration",
        icon=":material/query_stats:",
        url_path="calibration",
        help="Predicted against measured, parameters with grades; refit to your own observations.",
    ),
    st.Page(
        runs.page,
        title="Runs",
        icon=":material/play_circle:",
        url_path="runs",
        help="Runs on disk, with live curves; start a tiny one.",
    ),
]


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(
        page_title="mopd",
        page_icon=str(files("mopdsim").joinpath("data", "app_icon.svg")),
        layout="wide",
    )
    state.restore()
    st.session_state.what_if_page = WHAT_IF
    page = st.navigation(PAGES, position="top")
    page.run()
    _settle()


@st.cache_resource(show_spinner=False)
def _settle() -> None:
    """Once, after the first page: what is loaded by then is garbage never, so it is no longer looked through.

    Streamlit collects garbage after every run of a script, which took most of a slider's redraw.
    """
    gc.collect()
    gc.freeze()
