"""Sliders and fields of the What-if page. Each is set from the choice and replaces a field of it when moved.

Leaves out: what is computed from the choice, and where it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from mopdsim.app import state
from mopdsim.app.choice import MAX_DOMAINS, NO_LIMIT
from mopdsim.app.words import recipe_title
from mopdsim.base.numbers import count
from mopdsim.facts.domains import domains
from mopdsim.facts.hardware import gpus
from mopdsim.facts.model import model, models
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.catalogue import CATALOGUE

QUALITIES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
POOLS = tuple(2**power for power in range(15))
TEAMS = (*range(1, 13), 16, 24, NO_LIMIT)
BUDGETS = tuple(digit * 10.0**power for power in range(1, 9) for digit in (1, 2, 3, 5))
DEADLINES = (1.0, 2.0, 3.0, 5.0, 7.0, 14.0, 21.0, 28.0, 42.0, 56.0, 84.0, 112.0, 182.0, 365.0)


def sliders(scenario: Scenario) -> None:
    """The six dials: teachers, conflict, teacher quality, budget, GPUs, teams."""
    choice = state.choice()
    domains_count = len(scenario.recipe.domains)
    if choice.groupable and domains_count > 1:
        groups = choice.groups or ()
        _slider(
            "Teachers", "teachers", choice.teachers or len(groups) or domains_count, range(1, domains_count + 1),
            help="How many teachers share the domains, in their order. Other groupings: page Interference.",
            reset={"groups": None},
        )  # fmt: skip
    else:
        st.slider(
            "Teachers", 0, 1, 1, disabled=True, help="This recipe does not share domains among teachers."
        )
    _slider(
        "Conflict between domains", "conflict", choice.conflict, [round(1 - 0.05 * step, 2) for step in range(41)],
        shown=lambda shift: "as known" if shift == 0 else f"{'more' if shift < 0 else 'less'}: K {shift:+.2f}",
        help="To the right domains hurt each other more: K of every pair, which is below 0 where they hurt, goes down.",
    )  # fmt: skip
    _slider(
        "Teacher quality", "quality", choice.quality, QUALITIES, shown=lambda factor: f"{factor:g} × RL steps",
        help="Factor on the RL steps of the teachers; of every RL stage where the recipe has no teachers.",
    )  # fmt: skip
    _slider(
        "Budget", "budget_usd", scenario.budget_usd or NO_LIMIT, (*BUDGETS, NO_LIMIT),
        shown=lambda value: "no limit" if value == NO_LIMIT else f"${count(value)}",
        help="The forecast says how likely the budget suffices.",
    )  # fmt: skip
    if len(scenario.pools) == 1:
        _slider(
            "GPUs", "gpus", next(iter(scenario.pools.values())), POOLS, shown=str, help="GPUs of the pool."
        )
    else:
        st.slider(
            "GPUs", 0, 1, 1, disabled=True, help="This scenario has several pools: edit them in its file."
        )
    _slider(
        "Teams", "teams", scenario.teams or NO_LIMIT, TEAMS,
        shown=lambda count: "no limit" if count == NO_LIMIT else str(count),
        help="Stages worked on at once. Where the pool is shared out, each team gets an equal part of it.",
    )  # fmt: skip


def question(scenario: Scenario) -> None:
    """What is asked beside the dials: recipe, domains, model, GPU type, deadline, how the pool is shared."""
    choice = state.choice()
    if choice.named:
        names = list(CATALOGUE)
        _select("Recipe", "recipe", scenario.recipe.name, names, shown=recipe_title)
        known = [name for name in domains() if not name.endswith(":")]
        given = list(scenario.recipe.domains)
        st.multiselect(
            "Domains", known + [name for name in given if name not in known], max_selections=MAX_DOMAINS,
            key=state.hold("w_domains", given), on_change=_take, args=("domains", "w_domains"),
        )  # fmt: skip
    _select("Base model", "model", model(scenario.model).name, list(models()))
    _select("GPU type", "gpu", scenario.gpu, list(gpus()))
    _slider(
        "Deadline", "deadline_days", scenario.deadline_days or NO_LIMIT, (*DEADLINES, NO_LIMIT),
        shown=lambda value: "no limit" if value == NO_LIMIT else f"{value:g} days",
    )  # fmt: skip
    st.toggle(
        "Share the pool out evenly among the teams", key=state.hold("w_share", choice.shared),
        on_change=_take, args=("share", "w_share"),
    )  # fmt: skip


def _slider(
    label: str, field: str, value: Any, options: Sequence[Any], *, shown: Any = str, help: str | None = None,
    reset: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """A slider over options, the value's own place among them made where it has none."""
    if value not in options:
        limits = [option for option in options if option == NO_LIMIT and field != "conflict"]
        ordered = sorted({value, *options} - set(limits), reverse=field == "conflict")
        options = [*ordered, *limits]
    key = f"w_{field}"
    st.select_slider(
        label, options=list(options), format_func=shown, key=state.hold(key, value), help=help,
        on_change=_take, args=(field, key, reset or {}),
    )  # fmt: skip


def _select(label: str, field: str, value: str, options: list[str], *, shown: Any = str) -> None:
    key = f"w_{field}"
    if value not in options:
        options = [value, *options]
    st.selectbox(
        label, options, key=state.hold(key, value), format_func=shown, on_change=_take, args=(field, key, {})
    )  # fmt: skip


def _take(field: str, key: str, reset: dict[str, Any] | None = None) -> None:
    """A widget's new value becomes the choice's."""
    value = st.session_state[key]
    if field == "domains":
        if not value:
            st.session_state.notice = "domains is empty: keep at least one"
            return
        value = tuple(value)
    state.change(**{field: value}, **(reset or {}))
