"""The planner's answer as the first screen shows it: verdict, three kinds of plan at equal dollars, the plans'
intervals, what would change this, what to measure first.

Streamlit's own table and chart first load 2 MB of libraries, half of what the first screen took. So the first screen's
are HTML, which the browser draws at once, without axes, legends and tooltips; whatever is asked for after it is
Streamlit's. Leaves out: where the answer comes from (`mopdsim.app.planned`), the rest of it
(`mopdsim.app.pages.plan_answer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, frames, state, views
from mopdsim.app.choice import Choice
from mopdsim.base.numbers import duration, interval, points, score, share, usd
from mopdsim.plan import words

_CHANGES = 3
NOT_YET = "Not looked for in a rough answer."
PLANS = ("plan", "P10", "mean", "P90", "USD", "days")


def show(question: str, answer: Mapping[str, Any]) -> None:
    """All of the first screen but the question."""
    verdict(answer)
    with st.container(horizontal=True, vertical_alignment="center"):
        take(answer["recommended"]["scenario"], "recommended", label="Explore this plan")
        export(question, answer)
        badge(answer)
    left, right = st.columns([6, 5], gap="medium")
    with left:
        st.markdown("**The best of three kinds, for what the first plan costs**")
        st.html(html_table(columns(answer), alt="Mixed RL, the best MOPD, the best other plan"))
    with right:
        table = plans(answer)
        title, note = "Score of each plan", f"Bar: P10 to P90. Dot and number: mean. {words.TEACHERS}"
        views.heading(title, f"{len(table)} plans, the recommended one first. {note}")
        st.html(html_intervals(table, PLANS[1:4], unit=score, alt=f"{title}. {note}"))
        views.below(title, table, charts.plans(), key="plans")
    changes, measure = st.columns([6, 5], gap="medium")
    with changes:
        st.markdown("**What would change this**")
        st.markdown(views.plain("\n".join(f"- {line}" for line in sentences(answer))))
    with measure:
        st.markdown("**Measure first**")
        st.markdown(views.plain(measured_first(answer)))


def verdict(answer: Mapping[str, Any]) -> None:
    """What was asked with every default, and the verdict in at most 25 words."""
    views.caption(answer["assumptions"])
    st.subheader(views.plain(answer["headline"]), anchor=False)
    for loss in answer.get("contradicted_by", [])[:1]:
        st.markdown(f":material/warning: {views.plain(loss['sentence'])}")


def take(text: str, name: str, *, label: str = "Open in What if") -> None:
    """A plan's scenario under the dials of What if; the question stays as it is."""
    if st.button(label, key=f"open_{name}", icon=":material/tune:"):
        with views.said():
            found = Choice(own=text, wishes=state.choice().wishes)
            found.scenario()
            state.put(found)
            st.session_state.explore = True
            st.switch_page(st.session_state.what_if_page)


def badge(answer: Mapping[str, Any]) -> None:
    """What the verdict rests on."""
    st.markdown(f":gray-badge[{views.plain(answer['basis'])}]", width="content")


def columns(answer: Mapping[str, Any]) -> pd.DataFrame:
    """The plans side by side: a column a kind, a row a figure."""
    found = {}
    for row in answer["equal_dollars"]:
        chance = row["within_deadline"]
        cells = {
            "plan": row["name"],
            "score, mean and P10 to P90": f"{score(row['value'])} ({interval(row['utility'], score)})",
            "worst domain, P50": score(row["worst_score"]["p50"]),
            "cost, GPUs while busy": usd(row["usd"]["p50"]),
            "cost, whole pool reserved": usd(row["usd_reserved"]["p50"]),
            "calendar, P50": duration(row["days"]["p50"]),
            "deadline kept": "no deadline" if chance is None else share(chance),
            "best of the three": share(row["probability_best"]),
        }
        found[row["column"]] = cells
    return pd.DataFrame(found)


def plans(answer: Mapping[str, Any]) -> pd.DataFrame:
    """A row a finalist, the recommended one first: what counts with P10 and P90, cost and days at P50."""
    cells = ("name", "utility.p10", "value", "utility.p90", "usd.p50", "days.p50")
    return frames.of_rows(words.finalists(answer), dict(zip(PLANS, cells, strict=True)))


def sentences(answer: Mapping[str, Any]) -> list[str]:
    """At most three: the nearest flip points, then the largest doubts."""
    found = []
    for change in words.changes(answer):
        ahead = (
            "would be best"
            if change.gain is None
            else f"is better by {points(change.gain).removeprefix('+')}"
        )
        found.append(f"{words.capital(change.condition)}, {change.plan} {ahead}.")
    if not answer["flip_points"]:
        return [NOT_YET]
    return found[:_CHANGES] or [
        "Nothing that was tried: conflict, teachers, price and GPUs, each moved alone."
    ]


def measured_first(answer: Mapping[str, Any]) -> str:
    """The pilot that decides it, or the one worth most."""
    if not answer["value_of_information"]["pilots"]:
        return NOT_YET
    pilot = answer["deciding_pilot"]
    worth = [row for row in answer["value_of_information"]["pilots"] if row["gain"] > 0]
    if pilot is None and not worth:
        return "No single pilot can be told from worthless."
    chosen = worth[0] if pilot is None else pilot
    gain = f": worth {points(chosen['gain'])}" if chosen["gain"] > 0 else ""
    return f"{words.capital(chosen['title'])}, {usd(chosen['usd'])}{gain}. It tells {chosen['measures']}."


def export(question: str, answer: Mapping[str, Any]) -> None:
    """One menu: picture, workbook, files, link."""
    table = plans(answer)
    views.export(
        "plan",
        title=answer["headline"],
        inputs=answer["assumptions"],
        cautions=[answer["basis"]],
        picture=(charts.plans(), table),
        tables={
            "plans": lambda: plans_in_numbers(answer),
            "equal dollars": lambda: columns(answer).reset_index(names="figure"),
            "what changes it": lambda: pd.DataFrame({"if": sentences(answer)}),
            "measure first": lambda: pilots(answer),
        },
        texts={"scenario.toml": answer["recommended"]["scenario"], "question.toml": question},
    )


def plans_in_numbers(answer: Mapping[str, Any]) -> pd.DataFrame:
    """A row a plan with whole numbers, for a workbook."""
    rows = []
    for row in words.finalists(answer):
        found = {"plan": row["name"], "in full": row["label"], "value": row["value"]}
        for key in ("utility", "worst_score", "usd", "usd_reserved", "gpu_hours", "days"):
            found |= {f"{key} {end}": row[key][end] for end in ("p10", "p50", "p90")}
        rows.append({**found, "better than the first": row.get("probability_better")})
    return pd.DataFrame(rows)


def pilots(answer: Mapping[str, Any]) -> pd.DataFrame:
    """A row a pilot: what it tells, its worth and its price."""
    found = frames.of_rows(answer["value_of_information"]["pilots"], {
        "pilot": "title", "tells": "measures", "worth, points": "gain", "standard error": "standard_error",
        "GPU-hours": "gpu_hours", "USD": "usd",
    })  # fmt: skip
    return found.assign(**{name: 100 * found[name] for name in ("worth, points", "standard error")})


_LINE, _FAINT = "1px solid rgba(128,128,128,.25)", "opacity:.7"
_BAR, _DOT = "#5c9fd0", "#2f7fba"  # readable on light and dark


def html_table(frame: pd.DataFrame, *, alt: str) -> str:
    """Text cells under their columns' names, the index before them. alt: what a screen reader says first."""
    edge = f"padding:.3rem .5rem;text-align:left;font-weight:400;border-bottom:{_LINE}"
    head = "".join(
        f'<th scope="col" style="{edge};{_FAINT}">{escape(name)}</th>' for name in ("", *frame.columns)
    )
    body = "".join(
        f'<tr><th scope="row" style="{edge};{_FAINT}">{escape(str(name))}</th>'
        + "".join(f'<td style="{edge}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for name, row in zip(frame.index, frame.to_numpy(), strict=True)
    )
    return (
        f'<table aria-label="{escape(alt)}" style="width:100%;border-collapse:collapse;font-size:.875rem">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def html_intervals(
    frame: pd.DataFrame, columns: Sequence[str], *, unit: Callable[[float], str], alt: str
) -> str:
    """A row for each of the frame's first column: a bar from the first of three columns to the last, a dot and its
    number at the middle one; under the rows the ends of the common scale, which is as wide as all bars."""
    low, middle, high = (frame[name] for name in columns)
    least, width = low.min(), max(high.max() - low.min(), 1e-12)

    def at(value: float) -> str:
        return f"{100 * (value - least) / width:.2f}%"

    row = "display:flex;align-items:center;gap:.6rem;height:1.55rem"
    name, track, number = (
        "flex:0 0 38%;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap",
        ("position:relative;flex:1;height:100%"),
        "flex:0 0 2.2rem",
    )
    rows = "".join(
        f'<div style="{row}"><span style="{name}" title="{escape(label)}">{escape(label)}</span>'
        f'<span style="{track}"><span style="position:absolute;top:25%;height:50%;left:{at(start)};'
        f'right:calc(100% - {at(end)});background:{_BAR};opacity:.5;border-radius:2px"></span>'
        f'<span style="position:absolute;top:calc(50% - 4px);left:calc({at(dot)} - 4px);width:8px;height:8px;'
        f'border-radius:50%;background:{_DOT}"></span></span><span style="{number}">{escape(unit(dot))}</span></div>'
        for label, start, dot, end in zip(frame.iloc[:, 0], low, middle, high, strict=True)
    )
    ends = (
        f'<span style="{track};display:flex;justify-content:space-between;border-top:{_LINE};{_FAINT}"><span>'
    )
    scale = f"{ends}{escape(unit(least))}</span><span>{escape(unit(high.max()))}</span></span>"
    foot = f'<div style="{row}"><span style="{name}"></span>{scale}<span style="{number}"></span></div>'
    return f'<div role="img" aria-label="{escape(alt)}" style="font-size:.8rem;padding-top:.4rem">{rows}{foot}</div>'
