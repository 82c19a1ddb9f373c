"""What is the visitor's own: a question or scenario file, a model's config.json, a domain, measured step times.

Each goes into the choice, so it changes forecast and plan at once, and stands in the address and in the scenario that
is downloaded. Leaves out: reading the files (`mopdsim.app.uploads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import streamlit as st

from mopdsim.app import questions, state, uploads
from mopdsim.app.choice import Choice
from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count
from mopdsim.cost.constants import NORMAL_80
from mopdsim.facts.domains import domain as of_table
from mopdsim.facts.domains import domains
from mopdsim.forecast.scenario import Scenario
from mopdsim.recipes.stage import Rl

LONGEST = 3  # times the mean answer is the longest, where only the mean is given


def file() -> None:
    """A scenario, recipe or question (TOML) takes the preset's place."""
    st.file_uploader(
        "Own scenario, recipe or question (TOML)", type=["toml"], key="own_file", max_upload_size=1,
        on_change=_taken, args=("own_file", _file),
    )  # fmt: skip


def config() -> None:
    """A model by its config.json."""
    st.file_uploader(
        "Your own: its config.json", type=["json"], key="own_config", max_upload_size=1, on_change=_taken,
        args=("own_config", lambda data, _: state.change(model=uploads.config_text(data))),
    )  # fmt: skip


def domain(scenario: Scenario) -> None:
    """A domain that the table does not have: like one that it has, but for what is known."""
    with st.form("own_domain", border=True, clear_on_submit=True):
        st.markdown("**A domain of your own**")
        left, right = st.columns(2)
        left.text_input("Name", key="own_name", max_chars=40, placeholder="law")
        right.selectbox("Like", [name for name in domains() if not name.endswith(":")], key="own_like")
        for column, key, label in (
            (left, "start", "Score of the base"),
            (right, "asymptote", "Score RL tends to"),
        ):
            column.number_input(
                label, 0.0, 1.0, None, 0.01, key=f"own_{key}", placeholder="as that one", format="%.3f"
            )
        left.number_input(
            "Tokens of an answer", 1, 1_000_000, None, key="own_tokens", placeholder="as that one"
        )
        right.number_input(
            "Seconds of its verifier", 0.0, 1e6, None, key="own_seconds", placeholder="as that one"
        )
        st.form_submit_button("Add the domain", on_click=_domain, args=(scenario,))


@state.noticed()
def _domain(scenario: Scenario) -> None:
    given = {key: st.session_state.get(f"own_{key}") for key in ("start", "asymptote", "tokens", "seconds")}
    name, like = str(st.session_state.own_name).strip(), st.session_state.own_like
    taken = [*domains(), *scenario.recipe.domains]
    if not name or name in taken:
        raise UsageError(
            f"name = {name!r}: {'there is such a domain' if name else 'is empty'}: choose another"
        )
    facts: list[tuple[str, str, float | str]] = [(name, "like", like)]
    facts += [(name, key, value) for key in ("start", "asymptote") if (value := given[key]) is not None]
    if (tokens := given["tokens"]) is not None:
        facts.append((name, "response_tokens", float(tokens)))
        if LONGEST * tokens > of_table(like).max_response_tokens:
            facts.append((name, "max_response_tokens", float(LONGEST * tokens)))
    if given["seconds"] is not None:
        facts.append((name, "environment_seconds", given["seconds"]))
    choice = state.choice()
    changed = choice.changed(domains=(*scenario.recipe.domains, name), facts=(*choice.facts, *facts))
    changed.scenario()
    state.put(changed)


def steps(scenario: Scenario) -> None:
    """Seconds of own steps: one by hand, a table, or an engine's log."""
    st.markdown("**How fast your own steps are**")
    choice = state.choice()
    if choice.measured is not None:
        middle, width = math.exp(choice.measured[0]), math.exp(NORMAL_80 * choice.measured[1])
        ends = f"{count(middle / width)} to {count(middle * width)}"
        st.caption(f"Your stack takes {count(middle)} times the time model's seconds ({ends}).")
        st.button("Forget own steps", on_click=state.change, kwargs={"measured": None})
    with st.form("own_step", border=True):
        st.caption("One RL step on this model and the whole pool:")
        left, middle_column, right = st.columns(3)
        left.number_input("Seconds", 0.001, 1e6, None, key="own_step_seconds")
        middle_column.number_input("Samples", 1, 10_000_000, 1024, key="own_step_samples")
        right.number_input("Mean tokens", 1, 1_000_000, 2000, key="own_step_tokens")
        st.form_submit_button("Use this step", on_click=_step, args=(scenario,))
    stages = [stage.name for stage in scenario.recipe.stages if isinstance(stage, Rl)]
    if stages:
        st.selectbox("Stage that the log is from", stages, key="own_stage")
    st.file_uploader(
        "Or a table with the columns of rl_steps.csv, or a log of verl, TRL, NeMo-RL, prime-rl or Tinker",
        key="own_steps", max_upload_size=4, on_change=_taken,
        args=("own_steps", lambda data, name: _steps(data, name, scenario)),
    )  # fmt: skip


@state.noticed()
def _step(scenario: Scenario) -> None:
    found = st.session_state
    if found.own_step_seconds is None:
        raise UsageError("seconds is empty: give what one step took")
    given = {"samples": found.own_step_samples, "tokens": found.own_step_tokens}
    state.change(measured=uploads.factor_of_step(scenario, seconds=found.own_step_seconds, **given))


def _steps(data: bytes, name: str, scenario: Scenario) -> None:
    if name.endswith(".csv"):
        return state.change(measured=uploads.factor_of_steps(data, scenario.stack))
    if "own_stage" not in st.session_state:
        raise UsageError("file: the recipe at hand has no RL stage that a log could be of: send a table")
    state.change(measured=uploads.factor_of_log(data, name, scenario, st.session_state.own_stage))


@state.noticed()
def _taken(key: str, take: Callable[[bytes, str], None]) -> None:
    """An uploaded file is read; what is wrong with it is one sentence, and nothing changes."""
    found = st.session_state[key]
    if found is not None:
        take(found.getvalue(), found.name)


def _file(data: bytes, _: str) -> None:
    """A question keeps what it wishes; a scenario or recipe is taken as it is."""
    text = uploads.scenario_text(data)
    document = uploads.toml_document(text, source="file")
    is_question = "recipe" not in document and "stages" not in document
    found = questions.to_choice(text) if is_question else Choice(own=text)
    found.scenario()
    state.put(found)
