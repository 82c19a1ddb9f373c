"""What `mopd trace --json` says of answers, drawn: tokens coloured by a teacher's pull, shares, effects, a table."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import state, views
from mopdsim.app.pages.samples import difference, tokens_html

Answer = dict[str, Any]


def answers(document: dict[str, Any]) -> None:
    """Every traced answer."""
    for number, answer in enumerate(document["answers"]):
        _answer(answer, number)


def _answer(answer: Answer, number: int) -> None:
    teachers = list(answer["tokens"][0]["teachers"]) if answer["tokens"] else []
    st.caption("Prompt")
    st.code(answer["prompt"], language=None, wrap_lines=True)
    if teachers:
        key = f"trace_teacher_{number}"
        pulls = {name: pull(answer, name) for name in teachers}
        first = max(teachers, key=lambda name: sum(value or 0.0 for value in pulls[name]))
        state.mend(key, teachers)
        name = st.selectbox("Teacher", teachers, index=teachers.index(first), key=key)
        says = f"{name} pulls by {sum(value or 0.0 for value in pulls[name]):+.2f} nats over the answer."
        st.caption("Answer")
        st.html(tokens_html([row["text"] for row in answer["tokens"]], pulls[name], says=says))
        st.caption(
            f"{views.plain(says)} Green on a solid line: the teacher gives the token more log-probability than the "
            "start; orange on a dashed line: less."
        )
    st.markdown(f"##### Verdict: {views.plain(answer['verdict'])}")
    views.table(causes(answer), key=f"trace_shares_{number}", alt="Share of every cause, with 90% intervals")
    below = st.expander("Table of tokens", key=f"trace_tokens_{number}", on_change="rerun")
    if below.open:
        with below:
            views.table(
                tokens(answer), key=f"trace_table_{number}", alt="Log-probability of each token by model"
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
