"""Page Plan: the planner's question as a form, its answer with frontier, flip points and the worth of measuring.

Leaves out: the search (`mopd plan`), which runs in a process of its own; how the answer is drawn
(`mopdsim.ui.plan_answer`).
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from mopdsim.domains import domains
from mopdsim.errors import MopdError
from mopdsim.hardware import gpus
from mopdsim.model import model, models
from mopdsim.planning.question import OBJECTIVES
from mopdsim.scenario import Scenario
from mopdsim.ui import background, questions, state, views
from mopdsim.ui.answers import answer
from mopdsim.ui.plan_answer import show
from mopdsim.ui.uploads import scenario_text, toml_document

POLL_S = 1
FILE = "question.toml"
OBJECTIVE_TITLES = {
    "mean": "Mean score",
    "worst": "Worst domain",
    "weighted": "Weighted mean",
    "p10": "P10 of the mean (averse to risk)",
}


def page() -> None:
    """Form on the left, answer on the right."""
    state.notice()
    left, right = st.columns([2, 5], gap="medium")
    with left, views.said():
        _ask(answer(state.choice()).forecast.scenario)
    with right:
        if st.session_state.get("planning") is not None:
            _wait()
        elif st.session_state.get("planned") is not None:
            show(*st.session_state.planned)
        else:
            st.markdown("##### Which recipe, how many teachers, how much compute for each?")
            st.caption(
                "The form starts from the question of What if. The planner tries thousands of plans in the same "
                "simulated worlds; half a minute to two minutes. The same on the command line: `mopd plan FILE`."
            )


def _ask(scenario: Scenario) -> None:
    """The form, the table of what is known, an own file."""
    base = questions.of_scenario(scenario)
    with st.form("plan_form"):
        known = [name for name in domains() if not name.endswith(":")]
        offered = [*known, *(name for name in base["domains"] if name not in known)]
        asked: dict[str, Any] = dict(base)
        asked["domains"] = st.multiselect("Domains", offered, default=base["domains"], max_selections=16)
        bases = list(models())
        asked["model"] = st.selectbox("Base model", bases, index=bases.index(model(base["model"]).name))
        asked["gpu"] = st.selectbox("GPU type", list(gpus()), index=list(gpus()).index(base["gpu"]))
        asked["gpus"] = st.number_input("GPUs", 1, 1_000_000, base["gpus"])
        asked["teams"] = st.number_input("Teams (0: no limit)", 0, 1000, base.get("teams", 0))
        asked["budget_usd"] = st.number_input(
            "Budget, USD (0: no limit)", 0.0, 1e12, float(base.get("budget_usd", 0))
        )
        asked["deadline_days"] = st.number_input(
            "Days (0: no limit)", 0.0, 1e4, float(base.get("deadline_days", 0))
        )
        objectives = [name for name in OBJECTIVES if name != "weighted"]
        asked["objective"] = st.selectbox("What counts", objectives, format_func=OBJECTIVE_TITLES.__getitem__)
        least = st.slider("No domain below", 0.0, 1.0, 0.0, 0.05, help="The lowest score that is acceptable.")
        busy = st.session_state.get("planning") is not None
        if st.form_submit_button("Recommend a plan", type="primary", disabled=busy) and not busy:
            with views.said():
                _begin(questions.checked(_cleaned(asked, least, scenario)))
    with st.expander("What you know of the domains", key="plan_facts"):
        st.caption("Central values; a number you type over is taken as known, the others stay priors.")
        table = questions.facts(scenario.domains)
        st.data_editor(
            table, key=_facts_key(scenario), alt="What is known of each domain, ten fields, editable"
        )
    with st.expander("Own question file", key="plan_own"):
        _upload()


def _facts_key(scenario: Scenario) -> str:
    return "plan_facts_" + "_".join(scenario.recipe.domains)


def _cleaned(asked: dict[str, Any], least: float, scenario: Scenario) -> dict[str, Any]:
    """The form without the limits that are none, and with what was typed over."""
    kept = {key: value for key, value in asked.items() if not (key in questions.MACHINE and value == 0)}
    chosen = set(kept["domains"])
    if "domain" in kept:
        kept["domain"] = {name: row for name, row in kept["domain"].items() if name in chosen}
    if "conflict" in kept:
        kept["conflict"] = {
            pair: ends for pair, ends in kept["conflict"].items() if set(pair.split(">")) <= chosen
        }
    if least:
        kept["minimum"] = dict.fromkeys(kept["domains"], least)
    edits = st.session_state.get(_facts_key(scenario), {}).get("edited_rows", {})
    names = list(scenario.recipe.domains)
    return questions.with_facts(kept, {names[int(row)]: cells for row, cells in edits.items()})


def _upload() -> None:
    file = st.file_uploader("Question (TOML)", type=["toml"], key="plan_upload", max_upload_size=1)
    if file is not None:
        with views.said():
            text = scenario_text(file.getvalue())
            questions.checked(toml_document(text, source=questions.SOURCE))
            if st.button("Answer it", disabled=st.session_state.get("planning") is not None):
                _begin(text)


def _begin(question: str) -> None:
    st.session_state.planning = (question, background.start(["plan", FILE], {FILE: question}))
    st.session_state.planned = None
    st.rerun()


@st.fragment(run_every=POLL_S)
def _wait() -> None:
    if st.session_state.get("planning") is None:
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
