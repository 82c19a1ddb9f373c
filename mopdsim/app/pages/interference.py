"""Page Interference: K as a heat map and a signed graph, to be edited; domains dealt to teachers; gradients beside it.

Edits and groups go into the choice, so What if, Plan and the link know them. Leaves out: what K means
(`mopdsim.quality.step`), groupings read off the graph (`mopdsim.plan.grouping`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, runs_on_disk, state, views
from mopdsim.app.answers import Answer, answer
from mopdsim.app.choice import split
from mopdsim.app.views import Cells
from mopdsim.base.numbers import score, usd
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import P90, Estimate
from mopdsim.forecast.stage_draws import conflicts_of
from mopdsim.plan.grouping import Grouping, friendliness, suggested
from mopdsim.plan.words import capital
from mopdsim.recipes.catalogue import recipe_title

K_IS = "K is the effect of training one domain on another: above 0 it helps, below 0 it hurts."
Known = Mapping[str, Estimate]  # K by pair "source>target"
Groups = Sequence[Sequence[str]]


@st.fragment
def page() -> None:
    """The page; every edit redraws it as one fragment."""
    state.notice()
    with views.said():
        found = answer(state.choice())
        state.write_link()
        scenario = found.forecast.scenario
        domains = scenario.recipe.domains
        if len(domains) < 2:
            st.info("One domain has nobody to interfere with: choose more domains on the page What if.")
            return
        known = conflicts_of(scenario, default_calibration())
        st.subheader(f"{views.plain(_finding(known))}", anchor=False)
        _summary(found)
        groups = _groups(found)
        left, right = st.columns(2, gap="medium")
        with left:
            _heat_map(known, domains)
        with right:
            _graph(known, domains, groups)
        _editor(known, domains)
        _gradients(known)


def _finding(known: Known) -> str:
    """The strongest pull among the pairs whose sign is known, in a sentence."""
    if not any(row.value or row.sd for row in known.values()):
        return "No domain pulls on another: every K is 0."
    sure = {name: row for name, row in known.items() if abs(row.value) > P90 * row.sd}
    if not sure:
        return "No pull between two domains is known by its sign: every K may help or hurt."
    pair = max(sure, key=lambda name: abs(sure[name].value))
    source, target = pair.split(">")
    verb = "helps" if sure[pair].value > 0 else "hurts"
    return (
        f"The strongest pull whose sign is known: training on {source} {verb} {target} "
        f"(K {sure[pair].value:+.2f}, {sure[pair].grade})."
    )


def _summary(found: Answer) -> None:
    """What K is, and what the grouping comes to."""
    document = found.document
    mean, cost = score(document["mean_score"]["p50"]), usd(document["usd"]["p50"])
    text = f"{recipe_title(document['recipe'])}: mean score {mean}, cost {cost}, both at P50."
    views.caption(f"{K_IS} {capital(text)}")


def _groups(found: Answer) -> tuple[tuple[str, ...], ...]:
    """Which teacher each domain has; drawn and set here."""
    choice, domains = state.choice(), found.forecast.scenario.recipe.domains
    if not choice.groupable:
        st.caption(
            "This recipe does not share domains among teachers: choose distillation or merging on What if."
        )
        return (tuple(domains),)
    groups = choice.groups or split(list(domains), choice.teachers or len(domains))
    with st.container(border=True):
        st.markdown("**Teachers of the domains**")
        own = {name: number for number, group in enumerate(groups, start=1) for name in group}
        with st.grid(min(4, len(domains)), min_column_width=130):
            for name in domains:
                st.selectbox(
                    views.plain(name), range(1, len(domains) + 1), own[name] - 1,
                    key=state.hold(f"group_{name}", own[name]), format_func=lambda number: f"teacher {number}",
                    on_change=_regroup, args=(tuple(domains),),
                )  # fmt: skip
        options = {len(group): group for group in _suggested(found)}
        count = st.select_slider(
            "Or let K group them into", sorted(options), value=len(groups) if len(groups) in options else None,
            key="grouped_by_k", format_func=lambda number: f"{number} teachers" if number > 1 else "1 teacher",
        )  # fmt: skip
        st.button("Group by K", on_click=state.change, kwargs={"groups": options[count]})
    return groups


def _suggested(found: Answer) -> list[Grouping]:
    world = found.forecast.world
    return suggested(world.names, friendliness(world.conflict_DDN))


def _regroup(domains: tuple[str, ...]) -> None:
    by_teacher: dict[int, list[str]] = {}
    for name in domains:
        by_teacher.setdefault(st.session_state[f"group_{name}"], []).append(name)
    groups = tuple(tuple(by_teacher[number]) for number in sorted(by_teacher))
    state.change(groups=groups)


def _heat_map(known: Known, domains: Sequence[str]) -> None:
    table = pair_table(known)
    ordered = table.sort_values("P50")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    ends = f"lowest {low.source} on {low.target} {low.P50:+.2f}, highest {high.source} on {high.target} {high.P50:+.2f}"
    ends = f"all {low.P50:+.2f}" if low.P50 == high.P50 else ends
    views.figure(
        "K: row trained, column affected", table, charts.heat_map(domains), key="interference",
        says=f"K of {len(table)} pairs: {ends}.",
        note="P50 of each pair; P10, P90 and grade in the table.",
    )  # fmt: skip


def _graph(known: Known, domains: Sequence[str], groups: Groups) -> None:
    listed = [group for group in groups if group] if sum(map(len, groups)) == len(domains) else (domains,)
    table = drawing(known, domains, listed)
    views.figure(
        "Signed graph, coloured by teacher", table, charts.signed_graph(), key="signed_graph",
        says=f"{len(domains)} domains on a circle by teacher; effects of at least {VISIBLE} in K: "
        f"{(table.part == 'link').sum()}.",
        note="Each half line shows the effect on the domain at its end: solid helps, dashed hurts; width is size.",
    )  # fmt: skip


def _editor(known: Known, domains: Sequence[str]) -> None:
    """K to be typed over; the edits go into the choice."""
    st.markdown("**Edit K**")
    width = st.slider(
        "A number typed below is taken as K, plus or minus", 0.0, 0.5, 0.1, 0.05, key="k_width",
        persist_state="session", help="P10 and P90 of K lie so far below and above it.",
    )  # fmt: skip
    table = square(known, domains)
    number = st.column_config.NumberColumn(min_value=-5.0, max_value=5.0, step=0.01, format="%.2f")
    columns = {"source": st.column_config.TextColumn(width=150), **dict.fromkeys(table.columns, number)}
    views.editor(
        "k", table, partial(_edited, width=width), column_config=columns,
        alt="K by source (rows) and target (columns), editable",
    )  # fmt: skip
    st.button(
        "Forget own K", icon=":material/undo:", disabled=not state.choice().pairs, on_click=state.change,
        kwargs={"pairs": ()}, help="Back to what the calibration or the scenario's file knows.",
    )  # fmt: skip


def _edited(cells: Cells, *, width: float) -> None:
    """The numbers typed become the choice's own pairs, before its shift of every pair."""
    choice = state.choice()
    pairs = {(source, target): (low, high) for source, target, low, high in choice.pairs}
    for source, target, value in cells:
        if value is not None and source != target:
            shifted = value - choice.conflict
            pairs[source, target] = (shifted - width, shifted + width)
    state.change(pairs=tuple((*pair, *ends) for pair, ends in pairs.items()))


def _gradients(known: Known) -> None:
    """Cosines of gradients that runs on disk have measured, beside K."""
    st.markdown("**Gradients of real runs**")
    table = beside(known, runs_on_disk.gradient_cosines())
    if table.empty:
        st.caption(
            "No run on disk has measured gradients of two of these domains; a mixed or distilled run does."
        )
        return
    views.table(
        table, key="gradients", alt="Cosine of gradients beside K of each pair, mean over runs and steps"
    )


VISIBLE = 0.02  # |K| below it is not drawn as a link


def pair_table(known: Known) -> pd.DataFrame:
    """A row a pair: source, target, P10, P50, P90, grade and source of the number."""
    return pd.DataFrame(
        [
            (*pair.split(">"), k.value - P90 * k.sd, k.value, k.value + P90 * k.sd, k.grade, k.source)
            for pair, k in known.items()
        ],
        columns=["source", "target", "P10", "P50", "P90", "grade", "rests on"],
    )


def square(known: Known, domains: Sequence[str]) -> pd.DataFrame:
    """P50 of K with sources as rows and targets as columns; a domain on itself is empty."""
    rows = [
        [known[f"{source}>{target}"].value if source != target else math.nan for target in domains]
        for source in domains
    ]
    return pd.DataFrame(rows, index=pd.Index(domains, name="source"), columns=list(domains))


def nodes(domains: Sequence[str], groups: Groups) -> dict[str, tuple[str, float, float]]:
    """Domains on a circle, those of one teacher side by side: teacher, x and y by domain."""
    turn = 2 * math.pi / max(1, len(domains))
    order = [(name, f"teacher {number}") for number, group in enumerate(groups, start=1) for name in group]
    return {
        name: (teacher, math.sin(place * turn), math.cos(place * turn))
        for place, (name, teacher) in enumerate(order)
    }


def drawing(known: Known, domains: Sequence[str], groups: Groups) -> pd.DataFrame:
    """Domains and effects in one table, as a chart with one source of rows takes it.

    An effect is half a line, at the target's end: what the source does to it.
    """
    placed = nodes(domains, groups)
    rows: list[dict[str, Any]] = [
        {"part": "node", "domain": name, "teacher": teacher, "x": x, "y": y}
        for name, (teacher, x, y) in placed.items()
    ]
    for pair, k in known.items():
        source, target = pair.split(">")
        if abs(k.value) < VISIBLE:
            continue
        (_, x, y), (_, far_x, far_y) = placed[target], placed[source]
        rows.append({
            "part": "link", "source": source, "target": target, "K": k.value, "size": abs(k.value),
            "sign": "helps" if k.value > 0 else "hurts", "x": x, "y": y,
            "x2": (x + far_x) / 2, "y2": (y + far_y) / 2,
        })  # fmt: skip
    columns = ["part", "domain", "teacher", "source", "target", "sign", "K", "size", "x", "y", "x2", "y2"]
    return pd.DataFrame(rows, columns=columns)


def beside(known: Known, cosines: Mapping[str, float]) -> pd.DataFrame:
    """K of both directions of a pair beside the cosine of its gradients, for pairs that both know."""
    rows: list[dict[str, Any]] = []
    for pair, cosine in cosines.items():
        one, other = pair.split("|")
        if f"{one}>{other}" in known:
            there, back = known[f"{one}>{other}"], known[f"{other}>{one}"]
            rows.append({
                "pair": f"{one} and {other}",
                "gradient cosine": cosine,
                "K first > second": there.value,
                "K second > first": back.value,
                "grade": there.grade,
            })  # fmt: skip
    return pd.DataFrame(rows)
