"""The planner's question as fields: domains, machine, limits, what counts, what is known, the year's releases.

Values are kept in the session beside the widgets, so that they outlive a switch of pages; another choice of What if
begins them anew. Leaves out: how fields become a question (`mopdsim.app.questions`).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import questions, state, views
from mopdsim.app.pages import plan_work
from mopdsim.app.uploads import scenario_text, toml_document
from mopdsim.base.errors import MopdError
from mopdsim.facts.domains import domains
from mopdsim.facts.hardware import gpus
from mopdsim.facts.model import models
from mopdsim.forecast.scenario import Scenario
from mopdsim.plan.question import MOST_DOMAINS, OBJECTIVES

OBJECTIVE_TITLES = {
    "mean": "Mean score",
    "worst": "Worst domain",
    "weighted": "Weighted mean",
    "p10": "P10 of the mean (averse to risk)",
}
MOST_RELEASES = 8
_KEY = "plan_w_"
_COLUMNS = {
    "start": "base's score",
    "asymptote": "score RL tends to",
    "midpoint": "RL compute for half the gain",
    "steepness": "steepness of the climb",
    "distill_tokens": "tokens to hand it over",
    "prompt_tokens": "prompt tokens",
    "response_tokens": "response tokens",
    "environment_seconds": "seconds of environment a turn",
    "max_response_tokens": "longest response, tokens",
    "turns": "turns",
}


def ask(scenario: Scenario) -> None:
    """The fields, the button, and the question as a file."""
    values = _values(scenario)
    table = [name for name in domains() if not name.endswith(":")]
    offered = [*table, *(name for name in values["asked"]["domains"] if name not in table)]
    _field(values, "domains", st.multiselect, "Domains", options=offered, max_selections=MOST_DOMAINS)
    _field(values, "model", st.selectbox, "Base model", options=_with(values["asked"]["model"], models()))
    _field(values, "gpu", st.selectbox, "GPU type", options=_with(values["asked"]["gpu"], gpus()))
    _number(values, "gpus", "GPUs", least=1, most=1_000_000)
    _number(values, "teams", "Teams (0: no limit)", most=1000)
    _number(values, "budget_usd", "Budget, USD (0: no limit)", most=1e12)
    _number(values, "deadline_days", "Days (0: no limit)", most=1e4)
    _field(
        values, "objective", st.selectbox, "What counts", options=list(OBJECTIVES),
        format_func=OBJECTIVE_TITLES.__getitem__,
    )  # fmt: skip
    _field(
        values, "least", st.slider, "No domain below", min_value=0.0, max_value=1.0, step=0.05,
        help="The lowest score that is acceptable, of every domain; single domains below.",
    )  # fmt: skip
    _wishes(values)
    _known(values)
    _year(values)
    if st.button("Recommend a plan", type="primary", disabled=plan_work.busy()):
        with views.said():
            plan_work.begin(questions.checked(questions.of_form(values)))
    try:
        text = questions.checked(questions.of_form(values))
        views.download("Question, TOML", text, plan_work.FILE, "application/toml")
    except MopdError:
        pass  # said when a plan is asked for
    with st.expander("Own question file", key="plan_own"):
        _upload()


def _values(scenario: Scenario) -> dict[str, Any]:
    """The form's values: those of this session, or the scenario's where What if has moved on."""
    basis = state.choice().key
    kept = st.session_state.get("plan_form")
    if kept is None or kept["basis"] != basis:
        for key in [key for key in st.session_state if str(key).startswith(_KEY)]:
            del st.session_state[key]
        kept = st.session_state.plan_form = {"basis": basis, "values": questions.form_of(scenario)}
    found: dict[str, Any] = kept["values"]
    return found


def _field(values: dict[str, Any], name: str, widget: Any, label: str, **settings: Any) -> None:
    """A widget that begins with the value kept, and keeps what it is set to."""
    key = _KEY + name
    if key not in st.session_state:
        st.session_state[key] = values[name]
    values[name] = widget(label, key=key, **settings)


def _number(values: dict[str, Any], name: str, label: str, *, most: float, least: int = 0) -> None:
    kind = type(values[name])
    _field(values, name, st.number_input, label, min_value=kind(least), max_value=kind(most))


def _with(value: str, known: Any) -> list[str]:
    return [*known] if value in known else [value, *known]


def _table(values: dict[str, Any], name: str, plain: pd.DataFrame, **settings: Any) -> None:
    """An editable table with a row a domain: what was typed stays with its domain, whatever else is chosen."""
    key = f"{_KEY}{name}_{'_'.join(plain.index)}_{'_'.join(plain.columns)}"
    if key not in st.session_state:
        begun = plain.copy()
        begun.update(values[name])
        values[f"{name}_begun"] = begun
    values[name] = st.data_editor(values[f"{name}_begun"], key=key, **settings)


def _wishes(values: dict[str, Any]) -> None:
    """Weights, lowest scores, and how surely the limits must hold."""
    weighted = values["objective"] == "weighted"
    with st.expander("Weights and lowest scores by domain", expanded=weighted, key="plan_wishes"):
        plain = questions.wishes(values["domains"])
        st.caption(
            "An empty lowest score is the one above." if weighted else "Weights count under *Weighted mean*."
        )
        scores = st.column_config.NumberColumn("lowest score", min_value=0.0, max_value=1.0)
        weights = st.column_config.NumberColumn("weight", min_value=0.0, disabled=not weighted)
        _table(
            values, "wishes", plain, alt="Weight and lowest acceptable score of each domain, editable",
            column_config={"least": scores, "weight": weights},
        )  # fmt: skip
        _field(
            values, "confidence", st.slider, "Limits are kept with probability", min_value=0.5, max_value=0.99,
            step=0.01,
        )  # fmt: skip


def _known(values: dict[str, Any]) -> None:
    with st.expander("What you know of the domains", key="plan_facts"):
        st.caption("Central values; a number you type over is taken as known, the others stay priors.")
        with views.said():
            _table(
                values, "facts", questions.facts(values), alt="What is known of each domain, ten fields, editable",
                column_config=_COLUMNS,
            )  # fmt: skip


def _year(values: dict[str, Any]) -> None:
    """Releases after the first, each with the domains that it changes."""
    with st.expander("Further releases this year", key="plan_year"):
        st.caption("Teachers of domains that do not change are shared; a mixed run is redone whole.")
        _field(
            values,
            "releases",
            st.number_input,
            "Releases after the first",
            min_value=0,
            max_value=MOST_RELEASES,
        )
        names, kept = values["domains"], list(values["portfolio"][: values["releases"]])
        kept += [[] for _ in range(values["releases"] - len(kept))]
        for place, release in enumerate(kept):
            key = f"{_KEY}release_{place}_{'_'.join(names)}"
            chosen = [name for name in release if name in names]
            kept[place] = st.multiselect(f"Release {place + 2} changes", names, chosen, key=key)
        values["portfolio"] = kept


def _upload() -> None:
    file = st.file_uploader("Question (TOML)", type=["toml"], key="plan_upload", max_upload_size=1)
    if file is not None:
        with views.said():
            text = scenario_text(file.getvalue())
            questions.checked(toml_document(text, source=questions.SOURCE))  # a bad file is said at once
            if st.button("Answer it", disabled=plan_work.busy()):
                plan_work.begin(text)
