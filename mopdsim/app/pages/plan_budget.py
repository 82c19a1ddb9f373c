"""More or less money than was asked for: the frontier's best plan at once, the planner's own answer on request.

Leaves out: how a plan is opened (`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from mopdsim.app import questions, views
from mopdsim.app.pages import plan_work
from mopdsim.base.numbers import duration, score, usd
from mopdsim.plan.question import loads

FACTORS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


@st.fragment
def budget(question: str, document: Mapping[str, Any]) -> None:
    """A slider over budgets around the one asked for (or, with none, the price of the dearest plan shown)."""
    asked = loads(question, source=questions.SOURCE).limits.get("usd")
    whole = asked or max(row["usd_at_confidence"] for row in document["frontier"])
    amounts = [factor * whole for factor in FACTORS]
    money = st.select_slider(
        "Budget, USD", amounts, value=whole, format_func=usd, key=f"plan_budget_{whole:g}"
    )
    best = within(document, money)
    if best is None:
        st.caption(views.plain(f"No plan of the frontier surely costs less than {usd(money)}."))
    else:
        lost = 100 * (max(row["value"] for row in document["frontier"]) - best["value"])
        told = f"{score(best['value'])} ({lost:.1f} points below the frontier's best), {usd(best['usd'])}, "
        told += duration(best["days"])
        st.caption(views.plain(f"Of the frontier, within {usd(money)}: {best['plan']['label']}, {told}."))
    if money > whole:
        st.caption(
            "The frontier ends at the budget that was asked for: plan again to see what more money buys."
        )
    again = f"Plan again with {views.plain(usd(money))}"
    if money != asked and st.button(again, key="plan_again", disabled=plan_work.busy()):
        with views.said():
            plan_work.begin(questions.with_budget(question, money))


def within(document: Mapping[str, Any], money: float) -> Mapping[str, Any] | None:
    """The frontier's best plan that keeps a budget with the question's confidence; of equals the cheapest."""
    able = [row for row in document["frontier"] if row["usd_at_confidence"] <= money]
    return max(able, key=lambda row: (round(row["value"], 3), -row["usd"]), default=None)
