"""Page Recipes: one recipe's graph, stages, calendar and cost; all of them at one budget, the planner's plans first.

Leaves out: the graph as text (`mopdsim.recipes.graph`), the comparison (`mopdsim.forecast.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, frames, opening, planned, questions, state, views
from mopdsim.app.answers import Answer, answer
from mopdsim.app.choice import POOLS, Choice, Pools
from mopdsim.base.numbers import count, duration, score, usd, with_interval
from mopdsim.forecast.compare import RIVALS, compare_all
from mopdsim.plan import words
from mopdsim.recipes import graph
from mopdsim.recipes.catalogue import CATALOGUE, SYSTEMS, entries, recipe_title
from mopdsim.recipes.recipe import Recipe

POOL_TITLES: dict[Pools, str] = {
    "as_is": "As asked",
    "by_kind": "One for each kind of stage",
    "by_stage": "One for each stage",
}
RANKED = {
    "plan": "name", "of": "of", "score": "value", "P10": "utility.p10", "P90": "utility.p90",
    "worst domain": "worst_score.p50", "USD": "usd.p50", "days": "days.p50",
    "better than the first": "probability_better",
}  # fmt: skip
COMPARED = {
    "recipe": "recipe", "sort": "recipe", "mean P10": "mean.p10", "mean P50": "mean.p50", "mean P90": "mean.p90",
    "worst P50": "worst.p50", "cap P50": "cap.p50", "below start": "risk.below_start", "collapse": "risk.collapse",
    "GPU-hours": "gpu_hours.p50", "USD": "usd.p50", "days": "days.p50", "stages": "stages", "teachers": "teachers",
    "within budget": "off_budget", "why not": "off_budget",
}  # fmt: skip
SCALES = {"asked": "The question of What if", "published": "As published"}


def page() -> None:
    """Two tabs, of which only the open one is computed."""
    state.notice()
    views.tabs({"One recipe": _one, "All at one budget": _all}, key="recipes_tab")


@st.fragment
def _one() -> None:
    left, right = st.columns(2)
    names = [*SYSTEMS, *(name for name in CATALOGUE if name not in SYSTEMS)]
    name = left.selectbox(
        "Recipe", names, index=names.index("mopd"), format_func=title, key="recipe", bind="query-params"
    )
    scale = "asked"
    if name in SYSTEMS:
        scale = right.segmented_control(
            "Scale", list(SCALES), format_func=SCALES.__getitem__, default="asked", key="scale", required=True,
            bind="query-params",
        )  # fmt: skip
    summary = {entry.name: entry.summary for entry in entries()}[name]
    st.subheader(views.plain(summary), anchor=False)
    pools = st.segmented_control(
        "GPU pools", list(POOLS), format_func=POOL_TITLES.__getitem__, default="as_is", key="pools", required=True,
        bind="query-params",
    )  # fmt: skip
    with views.said():
        _show(answer(_chosen(name, scale, pools)))


def title(name: str) -> str:
    """A recipe as the page calls it: in words, and as commands call it where that is shorter."""
    return recipe_title(name) if name in SYSTEMS else f"{recipe_title(name)} ({name})"


def _chosen(name: str, scale: str, pools: Pools) -> Choice:
    """The recipe under the question of What if, or at its published scale."""
    if scale == "published":
        return Choice(preset=name, pools=pools)
    return state.choice().changed(recipe=name, pools=pools)


def _show(found: Answer) -> None:
    document, recipe = found.document, found.forecast.scenario.recipe
    gpus = f"{sum(document['pools'].values())} {document['gpu']}"
    cost, calendar = with_interval(document["usd"], usd), with_interval(document["days"], duration)
    views.caption(f"{document['model']}, {gpus}: cost {cost}, {calendar}.")
    _graph(recipe)
    st.markdown("**Stages**")
    plan = pd.DataFrame(graph.stage_rows(recipe))
    views.table(
        plan,
        key="stage_plan",
        alt=f"Stages of {recipe.name} with what each starts from and spends",
    )
    table = frames.by_domains(frames.stages({recipe.name: document}), recipe)
    views.calendar("Calendar", table, document, key="recipe_calendar", by_pool=len(document["pools"]) > 1)
    ordered = table.sort_values("USD", ascending=False)
    views.figure(
        "Cost per stage", table, charts.cost_per_stage(), key="recipe_costs",
        says=f"Cost per stage with P10 to P90: most for {ordered.stage.iloc[0]}, {usd(ordered.USD.iloc[0])}.",
        note="Bar: P10 to P90. Dot: P50.",
    )  # fmt: skip
    views.warnings(found.forecast.warnings)
    with st.container(horizontal=True):
        views.download("Scenario, TOML", found.toml, "recipe_scenario.toml", "application/toml")
        views.workbook(
            {"stages": lambda: plan, "cost and calendar": lambda: table},
            f"recipe_{recipe.name}",
        )


def _graph(recipe: Recipe) -> None:
    """The graph in the page's own light or dark, and in words."""
    st.mermaid_chart(graph.mermaid(recipe))
    with st.expander("The graph in words"):
        st.markdown(views.plain(graph.described(recipe)))


@st.fragment
def _all() -> None:
    """The planner's candidates; every system and rival with the same training FLOPs, over the question's domains."""
    choice = state.choice()
    if not choice.named:
        st.info(
            "The question's recipe is written out in full; pick a preset of a named recipe to compare all."
        )
        return
    with views.said():
        _ranked(choice)
    title = "Untuned: every recipe's own proportions at the same training compute"
    views.fold(title, "untuned", lambda: _untuned(choice))


def _untuned(choice: Choice) -> None:
    """What each recipe's own amounts come to, cut to one budget: what it is before anybody tunes it."""
    with views.said(), st.spinner("Forecasting every recipe"):
        document = _compared(**common_keys(choice))
        table = compared(document)
        views.caption(
            f"{count(document['budget_flops'])} training FLOPs each, teachers and data included, on "
            f"{document['model']}, over {', '.join(document['domains'])}."
        )
        best = table.sort_values("mean P50", ascending=False)
        views.figure(
            "Mean score at the same training compute", table, charts.ranking(), key="compare_all",
            says=f"Mean score of every recipe at one budget: highest {best.recipe.iloc[0]} "
            f"{score(best['mean P50'].iloc[0])}, lowest {best.recipe.iloc[-1]} {score(best['mean P50'].iloc[-1])}.",
            note="Bar: P10 to P90. Dot: P50. Hollow: its stages cannot be cut down to the budget. "
            "The same table: mopd compare --all.",
        )  # fmt: skip
        views.table(table, key="compare_all_table", alt="All recipes at one budget: cost, days, scores, risk")


def _ranked(choice: Choice) -> None:
    """This question's finalists beside the published systems; the planner makes the table where it is not known."""
    text = questions.of_choice(choice)
    if planned.told(text, "ranked") is None and planned.under_way(text, "ranked") is None:
        st.caption(
            "The planner gives every kind of plan its best grouping and steps under the question's limits, then sets "
            "the published systems beside them at equal dollars. It takes half a minute or so."
        )
    planned.answer(text, _ranked_table, kind="ranked", ask="Rank with the planner")


def _ranked_table(question: str, document: Mapping[str, Any]) -> None:
    opening.verdict(document)
    table = ranked(document)
    with st.container(horizontal=True, vertical_alignment="center"):
        views.export(
            "ranked",
            title=document["headline"],
            inputs=document["assumptions"],
            cautions=[document["basis"], f"systems scaled to {usd(document['usd'])}"],
            picture=(charts.plans(), table.rename(columns={"score": "mean"})),
            tables={"plans and systems": lambda: table},
            texts={"question.toml": question},
        )
        opening.badge(document)
    shown = pd.DataFrame(words.ranked_cells(document))
    st.table(
        shown[["plan", "of", *shown.columns.drop(["plan", "of"])]].map(views.plain), border="horizontal",
        hide_index=True, alt="Plans of the planner, then published systems at equal dollars",
    )  # fmt: skip
    for note in words.ranking_notes(document):
        views.caption(note)


def ranked(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row a candidate, in numbers."""
    found = frames.of_rows([*document["finalists"], *document["systems"]], RANKED)
    told = words.ranked_cells(document)
    return found.assign(**{name: [row[name] for row in told] for name in ("plan", "of")})


def common_keys(choice: Choice) -> dict[str, Any]:
    """The keys of the question's scenario that every recipe shares."""
    document = choice.document()
    keep = ("domains", "model", "gpu", "gpus", "teams", "domain", "conflict", "reliability", "gpus_per_stage")
    found = {key: document[key] for key in keep if key in document}
    amounts = document.get("options", {}).get("amounts")
    return found | ({"options": {"amounts": amounts}} if amounts else {})


_compared = st.cache_data(compare_all, max_entries=8, show_spinner=False)


def compared(document: dict[str, Any]) -> pd.DataFrame:
    """`mopd compare --all` as a table, best mean score first."""
    found = frames.of_rows(document["rows"], COMPARED)
    found["recipe"] = found.recipe.map(recipe_title)
    found["sort"] = ["rival" if name in RIVALS else "system" for name in found["sort"]]
    found["within budget"] = found["within budget"] == ""
    return found.sort_values("mean P50", ascending=False, ignore_index=True)
