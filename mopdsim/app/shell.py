"""The app's frame: its title, its pages, the view restored from the link. Leaves out: the pages."""

from __future__ import annotations

import gc

import streamlit as st

from mopdsim.app import state
from mopdsim.app.pages import interference, plan, recipes, runs, trace, what_if
from mopdsim.base.documents import DATA


def _calibration() -> None:
    """The page Calibration, loaded when it is asked for: its fits take as long to load as all other pages."""
    from mopdsim.app.pages import calibration

    calibration.page()


_PAGES = (  # what draws it, title, icon, what it is for; the first is the one that opens
    (what_if.page, "What if", "tune", "Drag a slider and see cost, calendar and scores change at once."),
    (plan.page, "Plan", "route", "Ask which recipe, how many teachers and how much compute; see what would change the "
     "answer."),
    (interference.page, "Interference", "hub", "What training on one domain does to another: edit it, and deal domains "
     "to teachers."),
    (recipes.page, "Recipes", "account_tree", "The published systems and their rivals: graph, stages, calendar, cost; "
     "all at one budget."),
    (_calibration, "Calibration", "query_stats", "Predicted against measured, parameters with grades; refit to "
     "your own observations."),
    (runs.page, "Runs", "play_circle", "Runs on disk, with live curves; start a tiny one."),
    (trace.page, "Trace", "troubleshoot", "Which teacher made a student say this: tokens, a verdict, proof, a report."),
)  # fmt: skip
PAGES = [
    st.Page(
        page,
        title=title,
        icon=f":material/{icon}:",
        url_path=None if place == 0 else title.lower(),
        default=place == 0,
        help=text,
    )
    for place, (page, title, icon, text) in enumerate(_PAGES)
]


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="mopd", page_icon=str(DATA / "app_icon.svg"), layout="wide")
    state.restore()
    st.session_state.what_if_page = PAGES[0]
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
