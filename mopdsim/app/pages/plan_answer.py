"""The planner's answer on the page: headline, the plan, its rivals, frontier, flip points, what to measure.

Leaves out: the numbers; they are those of `mopd plan --json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, questions, state, views
from mopdsim.app.choice import Choice
from mopdsim.app.pages.plan_budget import budget
from mopdsim.base.errors import MopdError
from mopdsim.base.numbers import count, duration, interval, score, usd
from mopdsim.plan.answer import words

DECISIONS = {"decided": "green", "tie": "orange", "undecided": "orange"}


def show(question: str, document: Mapping[str, Any]) -> None:
    """The whole answer."""
    color = DECISIONS[document["decision"]]
    st.caption(views.plain(document["assumptions"]))
    st.markdown(f"##### {views.plain(document['headline'])}")
    st.markdown(f":{color}-badge[{document['decision']}] :gray-badge[{views.plain(document['basis'])}]")
    best = document["recommended"]
    _numbers(best)
    _take(best["scenario"], "recommended")
    _why(document)
    _plan(best)
    _rivals(document)
    st.markdown("**Another budget**")
    with views.said():
        budget(question, document)
    _frontier(question, document)
    _flips(document)
    _information(document)
    _sensitivity(document)
    if document.get("portfolio"):
        _portfolio(document["portfolio"])
    st.caption(f"{document['evaluated']:,} plans forecast in {document['seconds']:.0f} s.")


def _numbers(best: Mapping[str, Any]) -> None:
    cells = (
        ("What counts", score(best["value"]), interval(best["utility"], score)),
        ("Cost", usd(best["usd"]["p50"]), interval(best["usd"], usd)),
        ("Calendar", duration(best["days"]["p50"]), interval(best["days"], duration)),
        ("GPU-hours", count(best["gpu_hours"]["p50"]), interval(best["gpu_hours"], count)),
    )
    with st.grid(4, min_column_width=150):
        for label, value, ends in cells:
            with st.container(border=True, gap="xsmall"):
                st.metric(label, value)
                st.caption(views.plain(f"P10 to P90 {ends}"))


def _take(text: str, name: str) -> None:
    """A plan's scenario: into What if, or as a file."""
    with st.container(horizontal=True):
        if st.button("Open in What if", key=f"open_{name}", icon=":material/tune:"):
            try:
                found = Choice(own=text)
                found.scenario()
                state.put(found)
                st.session_state.notice = None
                st.switch_page(st.session_state.what_if_page)
            except MopdError as error:
                st.error(str(error))
        views.download("Scenario, TOML", text, f"plan_{name}.toml", "application/toml")


def _why(document: Mapping[str, Any]) -> None:
    """Against the best of each other kind, by cause; what being wrong costs."""
    lines = [f"- {_capital(reason['sentence'])}." for reason in document["reasons"]]
    wrong = document["cost_of_being_wrong"]
    st.markdown("**Why this one**")
    lines.append(
        f"- With probability {wrong['probability']:.2f} another plan would have been better, by "
        f"{100 * wrong['loss']:.1f} points on average: that is what being wrong costs."
    )
    st.markdown(views.plain("\n".join(lines)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plan(best: Mapping[str, Any]) -> None:
    """What each teacher learns and for how long; the score it ends with by domain."""
    runs = pd.DataFrame(
        [(", ".join(group), steps) for group, steps in zip(best["groups"], best["rl_steps"], strict=True)],
        columns=["trained together", "RL steps"],
    )
    st.markdown("**The plan**")
    more = {
        key: best[key]
        for key in ("rounds", "distill_steps", "balance", "reward_mix", "replay", "gpus")
        if key in best
    }
    st.caption(views.plain(", ".join(f"{key} {value}".replace("_", " ") for key, value in more.items())))
    views.table(runs, key="plan_runs", alt="What is trained together and for how many steps")
    rows = [(domain, row["p10"], row["p50"], row["p90"]) for domain, row in best["scores"].items()]
    table = pd.DataFrame(rows, columns=["domain", "P10", "P50", "P90"])
    low = table.sort_values("P50").iloc[0]
    views.figure(
        "Score of each domain under the plan", table, charts.domain_scores(), key="plan_scores",
        says=f"Final scores of {len(table)} domains under the plan; lowest {low.domain} {score(low.P50)}.",
        note="Bar: P10 to P90. Dot: P50.",
    )  # fmt: skip


def _rivals(document: Mapping[str, Any]) -> None:
    rows = [
        (
            row["name"],
            row["label"],
            row["value"],
            row["usd"]["p50"],
            row["days"]["p50"],
            row["probability_better"],
            row["verdict"],
        )
        for row in document["alternatives"]
    ]
    if rows:
        st.markdown("**Runners-up**")
        columns = ["plan", "in full", "value", "USD", "days", "better with probability", "verdict"]
        views.table(
            pd.DataFrame(rows, columns=columns),
            key="rivals",
            alt="Plans that come next, and how often better",
        )


def _frontier(question: str, document: Mapping[str, Any]) -> None:
    """Cost against quality; a point that is clicked shows its plan."""
    rows = [
        (row["plan"]["label"], row["plan"]["family"], row["value"], row["usd"], row["days"])
        for row in document["frontier"]
    ]
    table = pd.DataFrame(rows, columns=["plan", "family", "value", "USD", "days"])
    table["place"] = range(len(table))
    st.markdown("**Frontier: no plan is cheaper, sooner and better**")
    event = st.vega_lite_chart(
        table, charts.frontier(), key="frontier", on_select="rerun",
        alt=f"{len(table)} plans from {usd(table.USD.min())} at {score(table.value.iloc[0])} to "
        f"{usd(table.USD.max())} at {score(table.value.max())}.",
    )  # fmt: skip
    st.caption("Click a point to open its plan. Size: days.")
    picked = event.selection.get("point", []) if event else []
    if picked:
        row = document["frontier"][int(picked[0]["place"])]
        with st.container(border=True), views.said():
            st.markdown(f"**{views.plain(row['plan']['label'])}**")
            st.caption(
                views.plain(f"value {score(row['value'])}, {usd(row['usd'])}, {duration(row['days'])}")
            )
            _take(questions.scenario_text(question, row["plan"]), "picked")
    with st.expander("Table and files", key="frontier_table"):
        views.table(
            table.drop(columns="place"), key="frontier_rows", alt="Plans of the frontier, cheapest first"
        )


def _flips(document: Mapping[str, Any]) -> None:
    rows = [
        (row["what"], row["now"], row["changes_at"], row["to"] or "nothing in this range", *row["range"])
        for row in document["flip_points"]
    ]
    st.markdown("**Flip points: where another plan would be best**")
    columns = ["what", "now", "changes at", "to", "searched from", "searched to"]
    views.table(
        pd.DataFrame(rows, columns=columns), key="flips", alt="At which value of each input the plan changes"
    )
    doubts = [
        (row["what"], words.ENDS[row["at"]], row["value"], row["to"], 100 * row["gain"])
        for row in document["undecided_by"]
    ]
    if doubts:
        st.markdown("**Too little known to be sure**")
        columns = ["if this", "is", "value", "then better", "by points"]
        views.table(
            pd.DataFrame(doubts, columns=columns),
            key="doubts",
            alt="Unknowns on which the recommendation hangs",
        )


def _information(document: Mapping[str, Any]) -> None:
    """What measuring before deciding is worth."""
    found = document["value_of_information"]
    rows = [
        (
            row["title"],
            row["measures"],
            100 * row["gain"],
            100 * row["standard_error"],
            row["gpu_hours"],
            row["usd"],
        )
        for row in found["pilots"]
    ]
    columns = ["pilot", "tells", "worth, points", "standard error", "GPU-hours", "USD"]
    st.markdown("**What to measure next**")
    everything = 100 * found["perfect"]
    st.caption(f"Knowing everything would raise the expected result by {everything:.1f} points.")
    if rows:
        views.table(
            pd.DataFrame(rows, columns=columns),
            key="information",
            alt="Each pilot's worth, what it tells and costs",
        )
    if document["deciding_pilot"]:
        row = document["deciding_pilot"]
        price = f"{count(row['gpu_hours'])} GPU-hours, {usd(row['usd'])}"
        st.markdown(views.plain(f"The cheapest pilot that decides it: {row['title']} ({price})."))


def _sensitivity(document: Mapping[str, Any]) -> None:
    table = pd.DataFrame(document["sensitivity"])
    if table.empty:
        return
    table["input"] = table.pop("what")
    top = table.sort_values("total").iloc[-1]
    views.figure(
        "What the plan's result hangs on (Sobol indices)", table, charts.sobol(), key="sensitivity",
        says=f"Sobol indices of {len(table)} inputs; most of the variance: {top.input}, {top.total:.2f}.",
        note="Bar: total. Tick: first order.",
    )  # fmt: skip


def _portfolio(found: Mapping[str, Any]) -> None:
    """The year of each kind of plan: all releases together, then one by one."""
    st.markdown("**A year of releases**")
    if "cheapest" in found:
        sure = found["probability_cheaper"]
        first, second = (plan["label"] for plan in found["plans"][:2])
        st.caption(
            views.plain(
                f"{_capital(first)} costs less over the year than {second} with probability {sure:.2f}."
            )
        )
    rows = [
        (plan["label"], f"{place + 1}", ", ".join(release["changed"]), len(release["stages"]),
         release["gpu_hours"]["p50"], release["days"]["p50"])
        for plan in found["plans"]
        for place, release in enumerate(plan["releases"])
    ]  # fmt: skip
    totals = [
        (plan["label"], plan["gpu_hours"]["p50"], *plan["usd"].values(), plan["days"]["p50"])
        for plan in found["plans"]
    ]
    columns = ["plan", "GPU-hours", "USD P10", "USD", "USD P90", "days of work"]
    views.table(pd.DataFrame(totals, columns=columns), key="portfolio", alt="The year's releases compared")
    with st.expander("Release by release", key="releases_table"):
        columns = ["plan", "release", "changed", "stages run", "GPU-hours", "days"]
        views.table(
            pd.DataFrame(rows, columns=columns), key="releases", alt="What each release runs and costs"
        )
