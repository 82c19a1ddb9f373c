"""Samples of a run on the page Runs: tokens coloured by what a teacher gives them, and every score as a table.

Leaves out: how samples are chosen and scored (`trainer.stages.samples`), where they lie (`mopdsim.app.runs_on_disk`).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import views
from mopdsim.app.charts import GAIN, LOSS
from mopdsim.app.runs_on_disk import Run, samples

Sample = Mapping[str, Any]
Numbers = Sequence[float | None]
FULL = 1.0  # nats, or units of advantage, at which a token's colour is strongest
OWN = "its own"  # the teacher that a sample learns from, the first where there are several
STRONGEST = 0.55  # opacity of that colour, under text that stays readable
LEGEND = (
    "Green on a solid line: the teacher gives the token more log-probability than the {}; orange on a dashed line: "
    "less."
)


def show(found: Run) -> None:
    """Choose a stage, a step, a domain, a sample and a teacher; nothing but a word where there are no samples."""
    rows = samples(found)
    if not rows:
        st.caption("No samples were kept of this run.")
        return
    st.markdown("**Samples, token by token**")
    left, middle, right, last = st.columns([3, 1, 3, 1])
    with left:
        rows = _chosen("Stage", "stage", rows)
    with middle:
        rows = _chosen("Step", "step", rows)
    with right:
        rows = _chosen("Domain", "domain", rows, first=True)
    with last:
        numbers = range(1, len(rows) + 1)
        sample = rows[st.selectbox("Sample", numbers, key="sample_number") - 1]
    if "teachers" in sample:
        _taught(sample)
    else:
        _rewarded(sample)


def _chosen(
    label: str, field: str, rows: Sequence[dict[str, Any]], *, first: bool = False
) -> list[dict[str, Any]]:
    """The rows of the value that is picked of a field; the last one, or the first, before any is."""
    values, key = list(dict.fromkeys(row[field] for row in rows)), f"sample_{field}"
    value = st.selectbox(
        label, values, index=0 if first else len(values) - 1, key=key, bind="query-params", format_func=str
    )
    return [row for row in rows if row[field] == value]


def _taught(sample: Sample) -> None:
    """A sample that is distilled, against one of the teachers."""
    offered = [OWN, *sample["teachers"]]
    chosen = st.selectbox("Teacher", offered, key="sample_teacher", bind="query-params")
    name = sample["own"][0] if chosen == OWN else chosen
    gaps = difference(sample["teachers"][name], sample["student"])
    said = _gap_in_words(name, sample["tokens"], gaps)
    _drawn(
        sample,
        gaps,
        says=f"Reward {sample['reward']:g}; it learns from {', '.join(sample['own'])}. {said}",
        note=LEGEND.format("student"),
        table=tokens_table(sample).assign(**{f"{name} less student": pd.Series(gaps, dtype=float)}),
    )


def _rewarded(sample: Sample) -> None:
    """A sample of reinforcement learning."""
    judged = f"; the reward model gives {sample['judged_reward']:.3g}" if "judged_reward" in sample else ""
    known = [value for value in sample["advantage"] if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    _drawn(
        sample,
        sample["advantage"],
        says=f"Reward {sample['reward']:g}{judged}; mean advantage {mean:+.2f}.",
        note="Green on a solid line: an advantage above 0, the token is made likelier; orange on a dashed line: below.",
        table=tokens_table(sample),
    )


def _drawn(sample: Sample, values: Numbers, *, says: str, note: str, table: pd.DataFrame) -> None:
    """Prompt, coloured tokens, a sentence; folded, the table with its CSV."""
    st.caption("Prompt")
    st.code(sample["prompt"], language=None, wrap_lines=True)
    length, shown = sample["length"], len(sample["tokens"])
    cut = f" The first {shown} of {length} tokens." if shown < length else ""
    scored = "Scored at the sampling temperature, before the step's update."
    colored(sample["tokens"], values, says=says, note=f"{note}{cut} {scored}")
    alt = "Table: every model's log-probability of each token"
    views.fold("Table and files", "samples_table", lambda: views.table(table, key="samples", alt=alt))


def colored(tokens: Sequence[str], values: Numbers, *, says: str, note: str) -> None:
    """An answer with each token's number as its colour; under it what they say, and how to read them."""
    st.caption("Answer")
    st.html(tokens_html(tokens, values, says=says))
    st.caption(f"{views.plain(says)} {note}")


def difference(teacher: Numbers, student: Numbers) -> list[float | None]:
    """teacher - student by token, nats; None where one of them has no number."""
    pairs = zip(teacher, student, strict=True)
    return [None if a is None or b is None else round(a - b, 4) for a, b in pairs]


def tokens_table(sample: Sample) -> pd.DataFrame:
    """A row for each token: place, text, log-probability under the student and under each teacher, or its advantage."""
    taught = {f"log p {name}": numbers for name, numbers in sample.get("teachers", {}).items()}
    numbers = {"log p": sample["student"], **(taught or {"advantage": sample["advantage"]})}
    text = sample["tokens"]
    frame = pd.DataFrame({"token": range(1, len(text) + 1), "text": text, **numbers})
    return frame.astype(dict.fromkeys(numbers, float))


def _gap_in_words(name: str, tokens: Sequence[str], gaps: Numbers) -> str:
    """What the colours say."""
    known = {place: gap for place, gap in enumerate(gaps) if gap is not None}
    if not known:
        return f"{name} shares none of its tokens."
    above, widest = sum(gap > 0 for gap in known.values()), max(known, key=lambda place: abs(known[place]))
    return (
        f"{name} gives {above} of {len(known)} tokens more log-probability than the student, on average "
        f"{sum(known.values()) / len(known):+.2f} nats a token; widest at token {widest + 1}, "
        f"{tokens[widest]!r}: {known[widest]:+.2f}."
    )


def tokens_html(tokens: Sequence[str], values: Numbers, *, says: str) -> str:
    """The tokens as text whose background and underline show each one's number; grey where it has none."""
    spans = "".join(_span(text, value) for text, value in zip(tokens, values, strict=True))
    style = "font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2"
    return f'<div role="group" aria-label="{html.escape(says)}" style="{style}">{spans}</div>'


def _span(text: str, value: float | None) -> str:
    shown = html.escape(text).replace("\n", "\u21b5\n") or "\u2205"
    if value is None:
        return f'<span style="opacity: 0.6" title="not sampled">{shown}</span>'
    color, line = (GAIN, "solid") if value >= 0 else (LOSS, "dashed")
    opacity = round(255 * STRONGEST * min(1.0, abs(value) / FULL))
    style = f"background: {color}{opacity:02x}; border-bottom: 2px {line} {color}; margin-right: 1px"
    return f'<span style="{style}" title="{value:+.2f}">{shown}</span>'
