"""The question's fields, as chips on the first screen and plain on the page Plan, and the dials of one recipe.

Each widget is set from the choice and replaces a field of it when moved. Leaves out: what is computed from the choice;
uploads (`mopdsim.app.pages.own`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import streamlit as st

from mopdsim.app import state, views
from mopdsim.app.choice import MAX_DOMAINS, NO_LIMIT, PRESETS, Choice
from mopdsim.app.pages import own
from mopdsim.base.numbers import count, duration, usd
from mopdsim.facts.domains import domains
from mopdsim.facts.hardware import gpus
from mopdsim.facts.model import model, models, title
from mopdsim.forecast.scenario import Scenario
from mopdsim.forecast.why import DEFAULT
from mopdsim.recipes import published
from mopdsim.recipes.catalogue import CATALOGUE, recipe_title

QUALITIES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
POOLS = tuple(2**power for power in range(15))
TEAMS = (*range(1, 13), 16, 24, NO_LIMIT)
BUDGETS = tuple(digit * 10.0**power for power in range(1, 9) for digit in (1, 2, 3, 5))
WEEK = 7.0


def chips(scenario: Scenario) -> None:
    """The question in seven short words, each of which opens to be changed."""
    choice = state.choice()
    price = scenario.price
    mark = "" if scenario.usd_per_gpu_hour else DEFAULT
    pool = count(sum(scenario.pools.values()))
    weeks = "no deadline" if scenario.deadline_days is None else duration(scenario.deadline_days)
    parts: list[tuple[str, str, Callable[[Scenario], None]]] = [
        ("question", "own file" if choice.own is not None else "example", lambda _: example(choice)),
        ("model", title(scenario.model).rpartition("/")[2], of_model),
        ("domains", f"{len(scenario.recipe.domains)} domains", of_domains),
        ("machine", f"{pool} x {scenario.gpu}, {usd(price)}{mark} an hour", of_machine),
        ("money", "any money" if scenario.budget_usd is None else usd(scenario.budget_usd), of_money),
        ("time", weeks, of_time),
        ("teams", "any teams" if scenario.teams is None else f"{scenario.teams} teams", of_teams),
    ]
    with st.container(horizontal=True, gap="xsmall", key="chips"):
        for name, label, fields in parts:
            chip = st.popover(views.plain(label), key=f"chip_{name}", icon=_ICONS[name], on_change="rerun")
            views.opened(chip, partial(fields, scenario))


_ICONS = {
    "question": ":material/folder_open:", "model": ":material/deployed_code:", "domains": ":material/category:",
    "machine": ":material/memory:", "money": ":material/payments:", "time": ":material/calendar_month:",
    "teams": ":material/groups:",
}  # fmt: skip


def example(choice: Choice) -> None:
    """Which question to begin with: a preset, a published system, or an own file."""
    titles = {name: preset.title for name, preset in PRESETS.items()}
    titles |= {name: f"{published.system(name).title}, as published" for name in published.NAMES}
    if choice.own is not None:
        titles = {"": "Own file", **titles}
    begun = "" if choice.own is not None else choice.preset
    st.selectbox(
        "Begin with", list(titles), format_func=titles.__getitem__, index=list(titles).index(begun),
        key=state.hold("w_preset", begun), on_change=_preset,
    )  # fmt: skip
    own.file()


def _preset() -> None:
    if st.session_state.w_preset:
        state.put(Choice(preset=st.session_state.w_preset))


def of_model(scenario: Scenario) -> None:
    """A model of the table, or an own config.json."""
    of_model_alone(scenario)
    own.config()


def of_model_alone(scenario: Scenario) -> None:
    """A model of the table; the own one stays offered while it is chosen."""
    known = [] if scenario.model.lstrip().startswith("{") else [model(scenario.model).name]
    named = known or [scenario.model]
    _select("Base model", "model", named[0], [*dict.fromkeys([*named, *models()])], shown=title)


def of_domains(scenario: Scenario) -> None:
    """Domains of the table, and own ones."""
    of_domains_alone(scenario)
    if state.choice().named:
        own.domain(scenario)


def of_domains_alone(scenario: Scenario) -> None:
    """Which domains, of those that are known."""
    given = list(scenario.recipe.domains)
    if not state.choice().named:
        st.caption(f"This file writes its recipe out in full, over {', '.join(given)}: edit it there.")
        return
    known = [name for name in domains() if not name.endswith(":")]
    st.multiselect(
        "Domains", known + [name for name in given if name not in known], max_selections=MAX_DOMAINS,
        default=given, key=state.hold("q_domains", given), on_change=_take, args=("domains", "q_domains"),
    )  # fmt: skip


def of_machine(scenario: Scenario) -> None:
    """How many GPUs of which kind at what price, and own step times."""
    of_gpus(scenario)
    of_price(scenario)
    own.steps(scenario)


def of_gpus(scenario: Scenario) -> None:
    """The pool's size."""
    if len(scenario.pools) == 1:
        _number("GPUs", "gpus", next(iter(scenario.pools.values())), least=1, most=1_000_000)
    else:
        st.caption("This scenario has several pools of GPUs: edit them in its file.")


def of_price(scenario: Scenario) -> None:
    """Kind of GPU and price."""
    _select("GPU type", "gpu", scenario.gpu, list(gpus()))
    price = scenario.price
    _number(
        "USD per GPU-hour", "usd_per_gpu_hour", float(price), most=1e6, step=0.1,
        help="What you pay. 0: the list price of this GPU.",
    )  # fmt: skip


def of_money(scenario: Scenario) -> None:
    """The budget."""
    _number(
        "Budget, USD (0: no limit)", "budget_usd", float(scenario.budget_usd or 0), most=1e12, step=100_000.0,
        format="%.0f",
    )  # fmt: skip


def of_time(scenario: Scenario) -> None:
    """The deadline."""
    _number(
        "Days (0: no limit)", "deadline_days", float(scenario.deadline_days or 0), most=1e4, step=WEEK,
        format="%g", help="A week is 7.",
    )  # fmt: skip


def of_teams(scenario: Scenario) -> None:
    """Stages worked on at once."""
    _number("Teams (0: no limit)", "teams", scenario.teams or 0, most=1000, help="Stages worked on at once.")


def sliders(scenario: Scenario) -> None:
    """The six dials: teachers, conflict, teachers' training, budget, GPUs, teams."""
    choice = state.choice()
    domains_count = len(scenario.recipe.domains)
    if choice.groupable and domains_count > 1:
        groups = choice.groups or ()
        _slider(
            "Teachers", "teachers", choice.teachers or len(groups) or domains_count, range(1, domains_count + 1),
            help="How many teachers share the domains, in their order. Other groupings: page Interference.",
        )  # fmt: skip
        st.toggle(
            "Same total steps, whoever teaches", choice.equal_total,
            key=state.hold("w_equal_total", choice.equal_total), on_change=_take, args=("equal_total", "w_equal_total"),
            help="Fewer teachers train longer, so that the number of teachers does not change their compute. Off: "
            "each teacher trains as long as before.",
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
        "Training of the teachers", "quality", choice.quality, QUALITIES, shown=lambda factor: f"{factor:g} × RL steps",
        help="Factor on the RL steps of the teachers; of every RL stage where the recipe has no teachers.",
    )  # fmt: skip
    _slider(
        "Budget", "budget_usd", scenario.budget_usd or NO_LIMIT, (*BUDGETS, NO_LIMIT),
        shown=lambda value: "no limit" if value == NO_LIMIT else usd(value),
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


def recipe(scenario: Scenario) -> None:
    """Which recipe is dialled, and how the pool is shared."""
    choice = state.choice()
    if choice.named:
        _select("Recipe", "recipe", scenario.recipe.name, list(CATALOGUE), shown=recipe_title)
    st.toggle(
        "Equal shares of the pool", choice.shared, key=state.hold("w_share", choice.shared), on_change=_take,
        args=("share", "w_share"),
    )  # fmt: skip


def _slider(
    label: str, field: str, value: Any, options: Sequence[Any], *, shown: Any = str, help: str | None = None
) -> None:  # fmt: skip
    """A slider over options, the value's own place among them made where it has none."""
    if value not in options:
        limits = [option for option in options if option == NO_LIMIT and field != "conflict"]
        ordered = sorted({value, *options} - set(limits), reverse=field == "conflict")
        options = [*ordered, *limits]
    key = f"w_{field}"
    st.select_slider(
        label, options=list(options), value=value, format_func=shown, key=state.hold(key, value), help=help,
        on_change=_take, args=(field, key),
    )  # fmt: skip


def _select(label: str, field: str, value: str, options: list[str], *, shown: Any = str) -> None:
    key = f"q_{field}"
    if value not in options:
        options = [value, *options]
    st.selectbox(
        label, options, options.index(value), key=state.hold(key, value), format_func=shown, on_change=_take,
        args=(field, key),
    )  # fmt: skip


def _number(label: str, field: str, value: Any, *, most: float, least: int = 0, **settings: Any) -> None:
    """A number of the choice, whole where its value is."""
    key, kind = f"q_{field}", type(value)
    st.number_input(
        label, kind(least), kind(most), value, key=state.hold(key, value), on_change=_take, args=(field, key),
        **settings,
    )  # fmt: skip


def _take(field: str, key: str) -> None:
    """A widget's new value becomes the choice's."""
    value = st.session_state[key]
    if field == "domains" and not value:
        st.session_state.notice = "domains is empty: keep at least one"
    elif value is not None:
        state.change(**{field: value})
