"""The planner's answer on the page: verdict, plans side by side, the plan as a calendar, cost against score, what would
change it, what to measure; the rest folded.

Leaves out: the numbers; they are those of `mopd plan --json`, and of the forecast of the plan's own scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, frames, opening, questions, views
from mopdsim.app.answers import answer
from mopdsim.app.choice import Choice
from mopdsim.base.numbers import count, duration, interval, points, score, share, usd
from mopdsim.plan import words
from mopdsim.plan.question import loads

DECISIONS = {"decided": "green", "tie": "orange", "undecided": "orange"}
_PLANS, _PILOTS = 8, 5  # rows shown
# columns of the plans that a phone has no room for
_WIDE = ("80% range", "worst domain", "better than the first")
FAMILY_TITLES = {
    "single": "one domain",
    "mixed_rl": "mixed RL",
    "cascade_rl": "cascade",
    "mopd": "MOPD",
    "off_policy": "off-policy",
    "merge": "merge",
}
Document = Mapping[str, Any]
COLUMNS = ("plan", "score", "80% range", "worst domain", "cost", "calendar", "better than the first")
_LEFT_OUT = ", ".join(f".st-key-plans_table tr > :nth-child({COLUMNS.index(name) + 1})" for name in _WIDE)
_ON_A_PHONE = f"<style>@media (max-width: 640px) {{ {_LEFT_OUT} {{ display: none; }} }}</style>"


def show(question: str, document: Document) -> None:
    """The whole answer."""
    opening.verdict(document)
    best = document["recommended"]
    st.html(_ON_A_PHONE)
    with st.container(key="plans_table"):
        st.table(
            plans(document), border="horizontal", hide_index=True, alt="Plans, the recommended one first"
        )
    views.caption(words.TEACHERS)
    with st.container(horizontal=True, vertical_alignment="center"):
        opening.take(best["scenario"], "recommended")
        opening.export(question, document)
        opening.badge(document)
        badge = f":{DECISIONS[document['decision']]}-badge[{document['decision']}]"
        tried = f"{document['evaluated']:,} plans tried"
        st.markdown(f"{badge} :gray[:small[{tried}]]", width="content")
    left, right = st.columns([6, 5], gap="medium")
    with left, views.said():
        _calendar(best)
    with right:
        _frontier(question, document)
        _changes(document)
        _pilots(document)
    _folded(document)


def plans(document: Document) -> pd.DataFrame:
    """A row a plan in words, the recommended one first."""
    rows = words.finalists(document)[:_PLANS]
    return pd.DataFrame(map(words.cells, rows), columns=list(COLUMNS)).map(views.plain)


def _calendar(best: Document) -> None:
    """When each stage runs, by its domains, and how many GPUs are used and idle meanwhile."""
    found = answer(Choice(own=best["scenario"]))
    forecast = found.document
    stages = frames.by_domains(frames.stages({"plan": forecast}), found.forecast.scenario.recipe)
    views.calendar("The plan as a calendar", stages, forecast, key="plan_calendar")
    used = frames.gpus_in_use(stages, sum(forecast["pools"].values()))
    views.figure(
        "GPUs used and idle", used, charts.gpus_in_use(), key="plan_gpus",
        says=f"Of {sum(forecast['pools'].values())} GPUs, {share(frames.idle_share(used))} of GPU-days are idle.",
        note="Stages at their P50.",
    )  # fmt: skip


def _frontier(question: str, document: Document) -> None:
    """Cost against quality with the budget; a point that is clicked shows its plan."""
    limit = loads(question, source=questions.SOURCE).limits.get("usd")
    table = frontier(document)
    table["budget"] = limit
    dear, good = table.USD.max(), table.value.max()
    st.markdown("**Cost against score: no plan is cheaper, sooner and better**")
    event = st.vega_lite_chart(
        table, charts.frontier(budget=limit is not None), key="frontier", on_select="rerun",
        alt=f"{len(table)} plans from {usd(table.USD.min())} at {score(table.value.iloc[0])} to {usd(dear)} at "
        f"{score(good)}.",
    )  # fmt: skip
    line = "" if limit is None else f" Line: the budget, {usd(limit)}."
    views.caption(f"Click a point to open its plan. Size: days.{line}")
    picked = event.selection.get("point", []) if event else []
    if picked:
        row = document["frontier"][int(picked[0]["place"])]
        with st.container(border=True), views.said():
            told = (
                f"{row['plan']['label']}: {score(row['value'])}, {usd(row['usd'])}, {duration(row['days'])}"
            )
            views.caption(told)
            opening.take(questions.scenario_text(question, row["plan"]), "picked")


def frontier(document: Document) -> pd.DataFrame:
    """A row a plan of the frontier."""
    columns = {"plan": "plan.label", "family": "plan.family", "value": "value", "USD": "usd", "days": "days"}
    found = frames.of_rows(document["frontier"], columns)
    return found.assign(family=found.family.map(FAMILY_TITLES), place=range(len(found)))


def _changes(document: Document) -> None:
    """If ... then ...: only where something flips."""
    st.markdown("**What would change this**")
    st.markdown(views.plain("\n".join(f"- {line}" for line in opening.sentences(document))))


def _pilots(document: Document) -> None:
    """What to measure first, the most worth a dollar on top."""
    rows = [
        {"pilot": row["title"], "worth": points(row["gain"]), "price": usd(row["usd"])}
        for row in document["value_of_information"]["pilots"]
        if row["gain"] > 0
    ]
    st.markdown("**Measure first**")
    if not rows:
        st.markdown(opening.measured_first(document))
        return
    st.table(
        pd.DataFrame(rows[:_PILOTS]).map(views.plain), border="horizontal", hide_index=True,
        alt="Pilots by worth per dollar",
    )  # fmt: skip
    everything = points(document["value_of_information"]["perfect"])
    st.caption(f"By worth per dollar. Knowing everything would be worth {everything}.")


def _folded(document: Document) -> None:
    """Why, the plan in full, every doubt, sensitivities, the year: each folded."""
    parts = {
        "Why this one, and the plan in full": _full,
        "Every limit where the plan changes, and every doubt": _doubts,
        "What the score hangs on": _sensitivity,
    }
    if document.get("portfolio"):
        parts["A year of releases"] = _portfolio
    for title, draw in parts.items():
        views.fold(title, f"fold_{draw.__name__}", partial(draw, document))


def _full(document: Document) -> None:
    best, wrong = document["recommended"], document["cost_of_being_wrong"]
    lines = [f"- {words.capital(reason['sentence'])}." for reason in document["reasons"]]
    lines.append(
        f"- With probability {share(wrong['probability'])} another plan would have been better, by "
        f"{100 * wrong['loss']:.1f} points on average: that is what being wrong costs."
    )
    st.markdown(views.plain("\n".join(lines)))
    more = {
        key: best[key]
        for key in ("rounds", "distill_steps", "balance", "reward_mix", "replay", "gpus")
        if key in best
    }
    views.caption(", ".join(f"{key} {value}".replace("_", " ") for key, value in more.items()))
    runs = pd.DataFrame(
        [(", ".join(group), steps) for group, steps in zip(best["groups"], best["rl_steps"], strict=True)],
        columns=["trained together", "RL steps"],
    )
    views.table(runs, key="plan_runs", alt="What is trained together and for how many steps")
    rows = [(domain, row["p10"], row["p50"], row["p90"]) for domain, row in best["scores"].items()]
    table = pd.DataFrame(rows, columns=["domain", "P10", "P50", "P90"])
    low = table.sort_values("P50").iloc[0]
    views.figure(
        "Score of each domain under the plan", table, charts.domain_scores(), key="plan_scores",
        says=f"Final scores of {len(table)} domains under the plan; lowest {low.domain} {score(low.P50)}.",
        note="Bar: P10 to P90. Dot: P50.",
    )  # fmt: skip
    views.table(opening.plans_in_numbers(document), key="rivals", alt="Every plan in numbers")


def _doubts(document: Document) -> None:
    rows = [
        (
            row["what"],
            count(row["now"]),
            "-" if row["changes_at"] is None else count(row["changes_at"]),
            row["to"] or "nothing in this range",
            " to ".join(count(end) for end in row["range"]),
        )
        for row in document["flip_points"]
    ]
    columns = ["what", "now", "changes at", "to", "searched"]
    views.table(
        pd.DataFrame(rows, columns=columns), key="flips", alt="At which value of each input the plan changes"
    )
    doubts = [
        (row["what"], words.ENDS[row["at"]], count(row["value"]), row["to"], points(row["gain"]))
        for row in document["undecided_by"]
    ]
    if doubts:
        st.markdown("**Too little known to be sure**")
        columns = ["if this", "is", "value", "then better", "by"]
        views.table(
            pd.DataFrame(doubts, columns=columns),
            key="doubts",
            alt="Unknowns on which the recommendation hangs",
        )
    views.table(
        opening.pilots(document), key="information", alt="Each pilot's worth, what it tells and costs"
    )


def _sensitivity(document: Document) -> None:
    table = pd.DataFrame(document["sensitivity"])
    if table.empty:
        st.caption("Nothing moves it.")
        return
    table["input"] = table.pop("what")
    top = table.sort_values("total").iloc[-1]
    views.figure(
        "Share of the score's variance (Sobol indices)", table, charts.sobol(), key="sensitivity",
        says=f"Of {len(table)} inputs most has: {top.input}, {top.total:.2f}.",
        note="Tick: what an input does alone. Bar: with all it acts through.",
    )  # fmt: skip


def _portfolio(document: Document) -> None:
    """The year of each kind of plan: all releases together, then one by one."""
    found = document["portfolio"]
    if "cheapest" in found:
        sure = share(found["probability_cheaper"])
        first, second = (plan["label"] for plan in found["plans"][:2])
        views.caption(
            f"{words.capital(first)} costs less over the year than {second} with probability {sure}."
        )
    totals = [
        (plan["label"], count(plan["gpu_hours"]["p50"]), usd(plan["usd"]["p50"]), interval(plan["usd"], usd),
         count(plan["days"]["p50"]))
        for plan in found["plans"]
    ]  # fmt: skip
    columns = ["plan", "GPU-hours", "cost", "P10 to P90", "days of work"]
    views.table(pd.DataFrame(totals, columns=columns), key="portfolio", alt="The year's releases compared")
    rows = [
        (plan["label"], f"{place + 1}", ", ".join(release["changed"]), len(release["stages"]),
         count(release["gpu_hours"]["p50"]), count(release["days"]["p50"]))
        for plan in found["plans"]
        for place, release in enumerate(plan["releases"])
    ]  # fmt: skip
    columns = ["plan", "release", "changed", "stages run", "GPU-hours", "days"]
    views.table(pd.DataFrame(rows, columns=columns), key="releases", alt="What each release runs and costs")
