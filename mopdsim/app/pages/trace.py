"""Page Trace: pick a run and an answer, see its tokens coloured by a teacher's pull and the verdict, have it confirmed,
take the report away.

All of it is `mopd trace` in a process of its own. Leaves out: every number, which `mopd trace` finds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import pandas as pd
import streamlit as st

from mopdsim.app import background, state, views
from mopdsim.app.pages.samples import LEGEND, colored, difference
from mopdsim.app.runs_on_disk import Run, root, runs
from mopdsim.base.errors import UsageError
from mopdsim.base.run_directory import DONE

Kind = Literal[
    "traced", "reported"
]  # by it the session holds its last command of that kind, words and key in one
KINDS: tuple[Kind, ...] = get_args(Kind)


def page() -> None:
    """The run, what to trace, what was found."""
    state.notice()
    found = {name: one for name, one in runs().items() if one.status == DONE}
    if not found:
        st.info(f"No finished runs in {root()}/ yet: start one on the page Runs, or with `mopd train run`.")
        return
    chosen = found[st.selectbox("Run", list(found), key="trace_run", bind="query-params")]
    results = {kind: _result(kind, chosen) for kind in KINDS}
    left, right = st.columns([2, 1], gap="medium")
    with left:
        _answer(chosen)
    with right:
        _report(chosen)
    for key in _under_way():
        background.wait(key, says="Loading the models and reading: {seconds:.0f} s")
    if results["traced"] is not None:
        _traced(chosen, results["traced"])
    if results["reported"] is not None:
        _reported(chosen, results["reported"])


def _asked(kind: Kind) -> background.Key:
    """The words of the session's last command of a kind, which are its key."""
    found: background.Key = st.session_state.get(kind, ())
    return found


def _result(kind: Kind, chosen: Run) -> dict[str, Any] | None:
    """What the last command of a kind found, where it was about this run."""
    with views.said():
        found = background.known(_asked(kind))
        return found if _asked(kind)[1:2] == (str(chosen.directory),) else None
    return None


def _answer(chosen: Run) -> None:
    """The form of an answer to trace."""
    with st.form("trace_answer"):
        prompt = st.text_input("Prompt", max_chars=2000, placeholder="s:bghja")
        answer = st.text_input("Answer", max_chars=2000, help="Left empty: the student's likeliest answer.")
        better = st.text_input(
            "Better answer", max_chars=2000, help="Effects are then on the odds of the two."
        )
        if st.form_submit_button("Trace", type="primary", disabled=bool(_under_way())):
            with views.said():
                if not prompt:
                    raise UsageError("prompt: it is empty: type what the student is asked")
                words = ["--prompt", prompt]
                words += ["--answer", answer] if answer else []
                words += ["--instead", better] if better else []
                _begin("traced", chosen, words)


def _report(chosen: Run) -> None:
    """What needs no prompt."""
    with st.container(border=True):
        st.caption("Over all test prompts: who taught what, habits, harm, and recipe changes.")
        if st.button("Report on the run", disabled=bool(_under_way())):
            with views.said():
                _begin("reported", chosen, ["--report"])


def _under_way() -> list[background.Key]:
    return [_asked(kind) for kind in KINDS if background.under_way(_asked(kind)) is not None]


def _begin(kind: Kind, chosen: Run, words: Sequence[str]) -> None:
    """Hand the question to `mopd trace` and draw the page anew."""
    key = ("trace", str(chosen.directory), *words)
    background.begin(key, key, {}, anew=True)
    st.session_state[kind] = key
    st.rerun()


def _traced(chosen: Run, document: dict[str, Any]) -> None:
    """The answers that were traced, and the offer to confirm."""
    _, _, *words = _asked("traced")
    for number, answer in enumerate(document["answers"]):
        _drawn(answer, number)
    confirmed = "--confirm" in words
    st.caption(
        "Effects are nats of log-probability that the answer would lose without each teacher."
        if confirmed
        else "This is evidence. Proof is to distil the student again without each teacher, which takes as long as "
        "its distillation did for each of them; what was made is kept, and asking again goes on."
    )
    if not confirmed and st.button("Confirm by distilling again", disabled=bool(_under_way())):
        with views.said():
            _begin("traced", chosen, [*words, "--confirm"])


def _reported(chosen: Run, document: dict[str, Any]) -> None:
    """The report on all test prompts, and its files."""
    st.markdown("**Report**")
    st.code(document["text"], language=None)
    text = json.dumps(document, indent=1, sort_keys=True)
    views.download("Report", document["text"], f"{chosen.name}_trace.txt", "text/plain")
    views.download("Report, JSON", text, f"{chosen.name}_trace.json", "application/json")
    for number, change in enumerate(document["changes"], start=1):
        views.download(
            f"Recipe change {number}",
            change["recipe"],
            f"{chosen.name}_change_{number}.toml",
            "application/toml",
        )


Answer = dict[str, Any]


def _drawn(answer: Answer, number: int) -> None:
    teachers = list(answer["tokens"][0]["teachers"]) if answer["tokens"] else []
    st.caption("Prompt")
    st.code(answer["prompt"], language=None, wrap_lines=True)
    if teachers:
        key = f"trace_teacher_{number}"
        pulls = {name: pull(answer, name) for name in teachers}
        first = max(teachers, key=lambda name: sum(value or 0.0 for value in pulls[name]))
        name = st.selectbox("Teacher", teachers, index=teachers.index(first), key=key)
        says = f"{name} pulls by {sum(value or 0.0 for value in pulls[name]):+.2f} nats over the answer."
        colored(
            [row["text"] for row in answer["tokens"]], pulls[name], says=says, note=LEGEND.format("start")
        )
    st.markdown(f"##### Verdict: {views.plain(answer['verdict'])}")
    views.table(causes(answer), key=f"trace_shares_{number}", alt="Share of every cause, with 90% intervals")
    key, alt = f"trace_table_{number}", "Log-probability of each token by model"
    views.fold(
        "Table of tokens", f"trace_tokens_{number}", lambda: views.table(tokens(answer), key=key, alt=alt)
    )


def pull(answer: Answer, teacher: str) -> list[float | None]:
    """By token, log-prob under the teacher less that under the start, nats."""
    rows = answer["tokens"]
    return difference([row["teachers"][teacher] for row in rows], [row["start"] for row in rows])


def causes(answer: Answer) -> pd.DataFrame:
    """A row for each cause, the largest share first; its effect where it was found."""
    rows = [{"cause": cause, **share} for cause, share in answer["shares"].items()]
    frame = pd.DataFrame(rows).sort_values("share", ascending=False, kind="stable", ignore_index=True)
    effects = answer.get("effects")
    return frame if effects is None else frame.assign(effect_nats=frame.cause.map(effects))


def tokens(answer: Answer) -> pd.DataFrame:
    """A row for each token and its log-probability under every model."""
    return pd.DataFrame(
        [
            {"token": row["text"], "student": row["student"], "start": row["start"], **row["teachers"]}
            for row in answer["tokens"]
        ]
    )
