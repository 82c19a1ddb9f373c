"""Results of the What-if page: one sentence, four numbers, charts, what the change did, files.

Leaves out: the numbers (`mopdsim.forecast.forecast`, `mopdsim.forecast.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mopdsim.app import charts, frames, state, views
from mopdsim.app.answers import Answer, answer, rival
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.base.numbers import count, duration, interval, score, usd, with_interval
from mopdsim.forecast.at_budget import bought
from mopdsim.forecast.compare import MEASURES, TIE, Difference, cells, difference
from mopdsim.forecast.forecast import Forecast, weakest
from mopdsim.forecast.why import assumptions, basis
from mopdsim.plan.words import capital
from mopdsim.recipes.catalogue import recipe_title

_LIKELY = 0.5  # a budget kept less often than that is said to be too small


def headline() -> None:
    """What is assumed, the finding, and four numbers."""
    with views.said():
        now = answer(state.choice())
        views.caption(assumptions(now.forecast.scenario))
        st.markdown(f"**{views.plain(finding_of(now))}**")
        _numbers(now)


def details() -> None:
    """Charts, the comparison, cautions and files."""
    with suppress(MopdError):  # the headline has said it
        now = answer(state.choice())
        shown = _beside(now)
        _charts(shown)
        _comparison(now, shown)
        views.warnings(now.forecast.warnings)
        _files(now, shown)


def finding_of(now: Answer) -> str:
    """The forecast's first sentence: against its rival, or alone where that fits no machine."""
    other = rival(now.choice)
    with suppress(MopdError):
        if other is not None:
            against_it = answer(other).forecast
            mean = difference(against_it, now.forecast, MEASURES["mean_score"], ("rival", "this"))
            return finding(now.forecast, against_it, mean)
    return plain_finding(now.document)


def finding(now: Forecast, rival: Forecast, mean: Difference) -> str:
    """One sentence: what the recipe at hand wins over its rival, and what it costs more. mean: now minus rival."""
    ours, theirs = recipe_title(now.scenario.recipe.name), recipe_title(rival.scenario.recipe.name)
    ratio = float(np.median(now.usd_N) / np.median(rival.usd_N))
    if mean.verdict == TIE:
        price = f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.0%} of"
        return (
            f"At these steps, untuned, {ours} and {theirs} end level in mean score, and the first costs {price} the "
            "second."
        )
    price = f"at {ratio:.1f} times its cost" if ratio >= 1 else f"at {ratio:.0%} of its cost"
    gain = 100 * float(np.median(mean.difference_N))
    side = "above" if gain > 0 else "below"
    sure = mean.probability_better if gain > 0 else 1 - mean.probability_better
    return (
        f"At these steps, untuned, {ours} ends {abs(gain):.1f} points {side} {theirs} in mean score ({sure:.0%} sure), "
        f"{price}."
    )


def plain_finding(document: Mapping[str, Any]) -> str:
    """One sentence where there is no rival to compare with."""
    costs, weeks = usd(document["usd"]["p50"]), duration(document["days"]["p50"])
    worst = weakest_domain(document)
    low = score(document["scores"][worst]["p50"])
    recipe = capital(recipe_title(document["recipe"]))
    return f"{recipe} costs {costs}, takes {weeks}, and is weakest in {worst} ({low})."


def weakest_domain(document: Mapping[str, Any]) -> str:
    """The domain of a forecast's document that ends lowest at P50."""
    scores: Mapping[str, Mapping[str, float]] = document["scores"]
    return min(scores, key=lambda name: scores[name]["p50"])


def _beside(now: Answer) -> dict[str, Answer]:
    """The scenario at hand and the pinned ones that can be forecast, by label."""
    shown, beside = {}, state.view().pinned
    for label, choice in (("now", now.choice), *beside.items()):
        with views.said():
            shown[label] = answer(choice)
    return shown


def _numbers(now: Answer) -> None:
    """Four numbers with P10 to P90 and grade; under them limits, and what the unchanged base scored."""
    found, grades = now.document, now.document["grades"]
    worst = weakest_domain(found)
    mean_grade = weakest([grades[f"scores.{name}"] for name in found["scores"]])
    rows = (
        ("Cost", found["usd"], usd, grades["usd"]),
        ("Calendar", found["days"], duration, grades["days"]),
        ("Mean score", found["mean_score"], score, mean_grade),
        (f"Weakest: {worst}", found["scores"][worst], score, grades[f"scores.{worst}"]),
    )
    with st.grid(4, min_column_width=150):
        for label, row, unit, weight in rows:
            st.metric(
                f"{views.plain(label)} {views.grade(weight)}", unit(row["p50"]), border=True,
                delta=views.plain(interval(row, unit)), delta_color="off", delta_arrow="off",
            )  # fmt: skip
    notes = ["Median, and P10 to P90 under it"]
    for name, limit in (("within_budget", "budget"), ("within_deadline", "deadline")):
        if found[name] is not None:
            notes.append(f"{limit} kept in {found[name]:.0%} of draws")
    st.caption("; ".join([*notes, *_before(now)]) + ".")
    budget = now.forecast.scenario.budget_usd
    if budget is not None and found["within_budget"] < _LIKELY:
        with views.said():
            st.caption(f"{views.plain(bought(now.forecast.scenario, budget))}.")


def _before(now: Answer) -> list[str]:
    """Cost and mean score of the unchanged base, where something was changed."""
    if now.choice == now.choice.base:
        return []
    with suppress(MopdError):
        base = answer(now.choice.base)
        price, mean = usd(base.document["usd"]["p50"]), score(base.document["mean_score"]["p50"])
        return [views.plain(f"before the change {price} and a mean of {mean}")]
    return []


def _charts(shown: dict[str, Answer]) -> None:
    documents = {label: found.document for label, found in shown.items()}
    names, now = list(shown), next(iter(shown.values()))
    table = frames.scores(documents)
    first = table[table.scenario == names[0]].sort_values("P50")
    views.figure(
        "Score of each domain", table, charts.scores(names), key="scores",
        says=f"Highest {first.domain.iloc[-1]} {score(first.P50.iloc[-1])}, lowest {first.domain.iloc[0]} "
        f"{score(first.P50.iloc[0])}.",
        note="Tick: the base. Bar: P10 to P90. Dot: P50.",
    )  # fmt: skip
    _waterfall(now)
    left, right = st.columns(2, gap="medium")
    stages = frames.stages(documents)
    with left:
        views.figure(
            "Cost by stage", stages, charts.stage_costs(names), key="costs",
            says=f"{usd(now.document['usd']['p50'])} in all at P50.",
            note="P50 of each stage; stages of one kind have one colour.",
        )  # fmt: skip
    with right:
        own = frames.by_domains(stages[stages.scenario == names[0]], now.forecast.scenario.recipe)
        views.calendar("Calendar", own, now.document, key="calendar")


def _waterfall(now: Answer) -> None:
    options = [frames.MEAN, *now.document["scores"]]
    domain = st.selectbox("Waterfall of", options, key="waterfall_of", persist_state="session")
    table = frames.waterfall(now.document, domain)
    losses = table[table.kind == "loss"].sort_values("change")
    largest = "nothing is lost"
    if not losses.empty:
        largest = f"largest loss: {losses.cause.iloc[0]}, {losses.change.iloc[0]:+.3f}"
    views.figure(
        f"What lifts and what caps the score: {domain}", table, charts.waterfall(), key="waterfall",
        says=f"From {score(table.to.iloc[0])} to {score(table.to.iloc[-1])}; {largest}.",
        note="Mean over draws; the causes add up.",
    )  # fmt: skip


def _comparison(now: Answer, shown: dict[str, Answer]) -> None:
    """Baseline against change: inputs that differ, and what that does, draw by draw."""
    pinned = list(shown)[1:]
    baseline = shown[pinned[0]] if pinned else answer(now.choice.base)
    title = f"pinned scenario {pinned[0]}" if pinned else "the question as it was"
    inputs = frames.changed_inputs(baseline.forecast.scenario, now.forecast.scenario)
    st.subheader(f"Now against {title}")
    if inputs.empty:
        st.caption("Nothing is changed. Move a slider, or pin this scenario and change it.")
    else:
        _differences(baseline, now)
        table = partial(
            st.dataframe, inputs, hide_index=True, alt="Inputs that differ between baseline and now"
        )
        views.fold(f"{len(inputs)} changed inputs", "changed_inputs", table)
    if pinned:
        st.markdown("**Side by side, P50 and P10 to P90**")
        st.table(
            side_by_side(shown), border="horizontal", alt="Each scenario's change, cost, calendar and scores"
        )
        with st.container(horizontal=True):
            for label in pinned:
                st.button(f"Unpin {label}", key=f"unpin_{label}", on_click=state.unpin, args=(label,))


def _differences(baseline: Answer, now: Answer) -> None:
    try:
        found = {
            name: difference(baseline.forecast, now.forecast, row, ("baseline", "now"))
            for name, row in MEASURES.items()
        }
    except UsageError:
        st.caption("The two are over different domains or draws: their differences mean nothing.")
        return
    table = pd.DataFrame([cells(name, row.to_document()) for name, row in found.items()]).map(views.plain)
    st.table(table.rename(columns={"difference": "now minus baseline"}),
             hide_index=True, border="horizontal", alt="Differences now minus baseline in the same draws")  # fmt: skip


def side_by_side(shown: Mapping[str, Answer]) -> pd.DataFrame:
    """A column a scenario: what it is, its costs, days and scores, P50 with P10 to P90."""
    columns = {}
    for label, found in shown.items():
        document, scenario = found.document, found.forecast.scenario
        worst = weakest_domain(document)
        column = {"recipe": recipe_title(scenario.recipe.name), "changed": found.choice.changes or "nothing"}
        for title, row, unit in (
            ("cost", document["usd"], usd),
            ("GPU-hours", document["gpu_hours"], count),
            ("calendar", document["days"], duration),
            ("mean score", document["mean_score"], score),
            ("weakest domain", document["scores"][worst], score),
        ):
            column[title] = with_interval(row, unit)
        column["weakest domain"] = f"{worst} {column['weakest domain']}"
        columns[label] = {title: views.plain(cell) for title, cell in column.items()}
    return pd.DataFrame(columns)


def _files(now: Answer, shown: dict[str, Answer]) -> None:
    """One menu: picture, workbook, scenario, link."""
    documents = {label: found.document for label, found in shown.items()}
    names = list(shown)
    inputs = {label: assumptions(found.forecast.scenario) for label, found in shown.items()}
    alike = len(set(inputs.values())) == 1
    views.export(
        "what_if",
        title=finding_of(now) if len(shown) == 1 else side_by_side_title(shown),
        inputs=inputs[names[0]] if alike else "; ".join(f"{label}: {line}" for label, line in inputs.items()),
        cautions=[basis(now.forecast.scenario), *now.forecast.warnings],
        picture=(charts.scores(names), frames.scores(documents)),
        tables={
            "scores": partial(frames.scores, documents),
            "stages": partial(frames.stages, documents),
            "totals": partial(frames.totals, documents),
            "waterfall": partial(frames.waterfall, now.document, frames.MEAN),
        },
        texts={"scenario.toml": now.toml},
    )
    st.caption("The same numbers on the command line: `mopd forecast scenario.toml`.")


def side_by_side_title(shown: Mapping[str, Answer]) -> str:
    """Each scenario's recipe, mean score and cost, for a picture that shows them all."""
    return "; ".join(
        f"{label}: {recipe_title(found.forecast.scenario.recipe.name)} "
        f"{score(found.document['mean_score']['p50'])} for {usd(found.document['usd']['p50'])}"
        for label, found in shown.items()
    )
