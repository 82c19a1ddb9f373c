"""Page Runs: runs on disk, curves of a running one as it goes, cost split; a tiny run started as a subprocess.

Leaves out: its samples (`mopdsim.app.pages.samples`); the run itself (`mopd train run`), which knows nothing of this
page.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pandas as pd
import streamlit as st

from mopdsim.app import charts, state, views
from mopdsim.app import runs_on_disk as disk
from mopdsim.app.answers import answer
from mopdsim.app.background import PROGRAM
from mopdsim.app.choice import Choice
from mopdsim.app.pages import samples
from mopdsim.app.runs_on_disk import Run
from mopdsim.base.errors import MopdError, UsageError
from mopdsim.base.run_directory import STATUS
from mopdsim.recipes.catalogue import PLAIN, recipe_title

REFRESH_S = 2
DOMAINS = ("sort", "reverse", "shift", "swap", "brackets", "rle_decode")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
STALE_S = 120  # a running run whose logs have been still for so long is doubted


def page() -> None:
    """A list, the chosen run, and the form of a new one."""
    state.notice()
    found = disk.runs()
    left, right = st.columns([2, 1], gap="medium")
    with right:
        _new(found)
    with left:
        if not found:
            st.info(f"No runs in {disk.root()}/ yet: start a tiny one; it takes a few minutes.")
            return
        name = st.selectbox("Run", list(found), key="run", bind="query-params")
        running = found[name].running
        st.fragment(_show, run_every=REFRESH_S if running else None)(name, running)


def _show(name: str, was_running: bool) -> None:
    """One run; drawn again every two seconds while it runs, and the whole page when it has ended."""
    with views.said():
        chosen = disk.run(name)
        if was_running and not chosen.running:
            st.rerun()
        rows = disk.metrics(chosen)
        rates, training = disk.curves(rows)
        _status(chosen, rows)
        if rates.empty and training.empty:
            st.caption("Nothing measured yet.")
            return
        if not rates.empty:
            _rates(rates)
        if not training.empty:
            _training(training)
        split = disk.cost_split(rows)
        if not split.empty:
            views.figure(
                "Where the time goes", split, charts.cost_split(), key="cost_split",
                says=f"Seconds by stage and phase, {split.seconds.sum():.1f} in all.",
            )  # fmt: skip
        _scores(chosen)
        samples.show(chosen)


def _rates(rates: pd.DataFrame) -> None:
    stages = list(rates.stage.unique())
    stage = st.pills("Stage", stages, default=stages[-1], key="stage_shown", required=True)
    own = rates[rates.stage == stage]
    last = own.groupby("domain")["pass rate"].last().sort_values()
    views.figure(
        f"Pass rates of {views.plain(stage)}", own, charts.pass_rates(), key="pass_rates",
        says=f"Pass rates of {len(last)} domains in stage {stage}: last {last.index[-1]} {last.iloc[-1]:.2f} at best, "
        f"{last.index[0]} {last.iloc[0]:.2f} at worst.",
        note="On validation prompts; the last point of a finished stage on test prompts.",
    )  # fmt: skip


def _training(training: pd.DataFrame) -> None:
    quantities = list(training.quantity.unique())
    quantity = st.pills("Quantity", quantities, default=quantities[0], key="quantity_shown", required=True)
    own = training[training.quantity == quantity]
    views.figure(
        "Training", own, charts.training(quantity), key="training",
        says=f"{quantity} over {len(own)} steps of {own.stage.nunique()} stages; last {own.value.iloc[-1]:.3g}.",
    )  # fmt: skip


def _status(chosen: Run, rows: list[dict[str, object]]) -> None:
    steps = sum(row["kind"] == "step" for row in rows)
    text = f"{chosen.recipe}: {chosen.status}, {steps} steps logged"
    if chosen.running:
        text += f", last written {chosen.age_s:.0f} s ago"
    st.subheader(f"{views.plain(text)}", anchor=False)
    if chosen.running and chosen.age_s > STALE_S:
        st.warning(f"Nothing was written for {chosen.age_s:.0f} s: it may have been killed. It goes on with "
                   f"mopd train resume {chosen.directory}.")  # fmt: skip


def _scores(chosen: Run) -> None:
    """What came out, beside what the simulator says of the same recipe and steps."""
    table = disk.final_scores(chosen)
    if table is None:
        return
    st.markdown("**Scores on test prompts** :green-badge[measured]")
    try:
        told = answer(Choice(own=disk.scenario_text(chosen))).document["scores"]
        table = with_forecast(table, told)
    except MopdError as error:
        views.caption(f"No forecast beside it: {error}")
    views.table(
        table, key="run_scores", alt="Measured scores of the finished run by domain, and their forecast"
    )


def with_forecast(table: pd.DataFrame, told: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The measured scores with P10, P50 and P90 of the forecast, and whether they lie inside."""
    known = table[table.domain.isin(list(told))].reset_index(drop=True)
    for end in ("p10", "p50", "p90"):
        known[f"forecast {end.upper()}"] = [told[name][end] for name in known.domain]
    inside = known.final.between(known["forecast P10"], known["forecast P90"])
    return known.assign(forecast=["inside" if one else "outside" for one in inside])


def _new(taken: Mapping[str, Run]) -> None:
    """The form of a tiny run. taken: the runs that there are, by name."""
    busy = any(one.running and one.age_s < STALE_S for one in taken.values())
    free = next(name for number in count(1) if (name := f"tiny-{number}") not in taken)
    with st.form("new_run"):
        st.markdown("**Start a tiny run**")
        recipe = st.selectbox(
            "Recipe", list(PLAIN), index=list(PLAIN).index("mopd"), format_func=recipe_title
        )
        domains = st.multiselect("Domains", list(DOMAINS), default=list(DOMAINS[:3]), max_selections=6)
        scale = st.select_slider(
            "Scale",
            [0.02, 0.05, 0.1, 0.25, 0.5, 1.0],
            value=0.5,
            help="Factor on all steps. Below .5 the base learns too little for scores to move.",
        )
        name = st.text_input("Name", value=free, max_chars=40)
        if st.form_submit_button("Start", type="primary", disabled=busy) and not busy:
            with views.said():
                start(recipe, domains, scale, name)
                st.session_state["run"] = name
                st.rerun()
    if busy:
        st.caption("A run is going on; this machine carries one at a time.")


def start(recipe: str, domains: list[str], scale: float, name: str) -> None:
    """Start `mopd train run` in a process of its own and wait for its directory. UsageError for bad input."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"name = {name!r}: must be 1 to 40 small letters, digits, - or _, such as tiny-1")
    if recipe not in PLAIN or not domains or not set(domains) <= set(DOMAINS) or not 0 < scale <= 1:
        raise UsageError("recipe, domains or scale: choose from what is offered, and at least one domain")
    out = disk.root() / name
    if out.exists():
        raise UsageError(f"name = {name!r}: there is such a run already; choose another")
    disk.root().mkdir(parents=True, exist_ok=True)
    words = ["train", "run", recipe, "--domains", ",".join(domains), "--scale", str(scale), "--out", str(out)]
    with _log(out).open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAM, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    for _ in range(300):
        if (out / STATUS).is_file():
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        raise UsageError(f"the run ended at once: {_last_line(_log(out))}")
    raise UsageError(f"the run has not begun after 30 s: see {_log(out)}")


def _log(out: Path) -> Path:
    return out.with_suffix(".log")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no word of why"
