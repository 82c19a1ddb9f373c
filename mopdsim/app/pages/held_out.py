"""Forecasts of this project's held-out runs against what happened: the result of the studies' fit, as one section.

Leaves out: the fit and its test (`mopd study fit`), which write the document; nothing is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, views
from mopdsim.app.words import recipe_title
from mopdsim.base.errors import UsageError

FILE = Path("held_out") / "held_out.json"  # under the directory of the studies' results
POINTS = 100.0
SCOPE = (
    "Runs that no fit has seen: tiny models of 0.17 to 10 million parameters, synthetic tasks on strings, scores "
    "sampled at temperature 1. Little of this transfers to a large model."
)


def read(results: Path) -> dict[str, Any] | None:
    """The document, None where no fit has been tested on held-out runs. UsageError for a damaged one."""
    path = results / FILE
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document if document["held_out"]["n"] and document["trials"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path.name}: damaged ({error!r}): run `mopd study fit --all --report` again"
        ) from None


def finding(found: Mapping[str, Any]) -> str:
    """The result in a sentence: the forecast's mean error against the best simple rule's."""
    low, high = (f"{end:.0%}" for end in found["skill_interval"])
    verb = "beats" if found["skill"] > 0 else "does not beat"
    return (
        f"On {found['n']} scores of {found['runs']} runs that the fit never saw, the forecast misses by "
        f"{found['mae_points']:.1f} points and {verb} the best simple rule, which misses by "
        f"{found['best_baseline_mae_points']:.1f} (skill {found['skill']:.0%}, {low} to {high})."
    )


def trials(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row a score of a domain that its recipe trained: what, measured, P10, P50, P90, whether inside, residual."""
    rows = [
        {
            "what": f"{row['domain']}, {row['study']} {row['run']}",
            "recipe": recipe_title(row["strategy"]),
            "measured": row["measured"],
            "P10": row["low"],
            "P50": row["predicted"],
            "P90": row["high"],
            "80% interval": "inside" if row["low"] <= row["measured"] <= row["high"] else "outside",
            "residual": POINTS * (row["predicted"] - row["measured"]),
        }
        for row in document["trials"]
        if row["in_set"]
    ]
    return pd.DataFrame(rows)


def grouped(document: Mapping[str, Any], key: str, of: str) -> pd.DataFrame:
    """Errors by recipe (`by_strategy`) or study (`by_study`), beside the simple rule that was best there."""
    rows = [
        {
            of: recipe_title(name),
            "scores": row["n"],
            "error, points": row["mae_points"],
            "bias, points": row["bias_points"],
            "inside the 80% interval": row["coverage_80"],
            "best simple rule": row["best_baseline"],
            "its error, points": row["best_baseline_mae_points"],
            "wins": "the forecast" if row["mae_points"] < row["best_baseline_mae_points"] else "the rule",
        }
        for name, row in document.get(key, {}).items()
        if row["n"]
    ]
    return pd.DataFrame(rows)


def show(document: Mapping[str, Any]) -> None:
    """The whole section."""
    found = document["held_out"]
    st.caption(SCOPE)
    st.subheader(views.plain(finding(found)), anchor=False)
    _numbers(found)
    table = trials(document)
    outside = int((table["80% interval"] == "outside").sum())
    views.figure(
        "Predicted against measured, pass rate", table, charts.predicted(False), key="predicted_held_out",
        says=f"{len(table)} held-out scores; {outside} lie outside their 80% interval.",
        note="Line: P10 to P90 of the forecast; on the diagonal it is exact.",
    )  # fmt: skip
    views.figure(
        "Residuals", table, charts.residuals("residual"), key="residuals_held_out",
        says=f"Residuals of {len(table)} forecasts: median {table.residual.median():+.1f} points.",
        note="Forecast minus measured.",
    )  # fmt: skip
    for of, key in (("recipe", "by_strategy"), ("study", "by_study")):
        rows = grouped(document, key, of)
        if not rows.empty:
            st.markdown(f"**By {of}**")
            views.table(rows, key=f"held_out_{key}", alt=f"Errors on held-out scores by {of}")


def _numbers(found: Mapping[str, Any]) -> None:
    """Error, coverage and regret; under them what each is measured by."""
    low, high = found["coverage_80_interval"]
    cells = [
        ("Mean error", f"{found['mae_points']:.1f} points"),
        ("Best simple rule's error", f"{found['best_baseline_mae_points']:.1f} points"),
        ("Inside the 80% interval", f"{found['coverage_80']:.0%}"),
    ]
    notes = [f"Best simple rule: {found['best_baseline']}", f"the true coverage is {low:.0%} to {high:.0%}"]
    if found["regret_points"] is not None:
        cells.append(("Regret of its choices", f"{found['regret_points']:.1f} points"))
        constant, rule = found["best_constant_rule_regret_points"], found["best_constant_rule"]
        if constant is not None:
            notes.append(f"always {recipe_title(rule)} has a regret of {constant:.1f}")
    with st.grid(len(cells), min_column_width=150):
        for label, value in cells:
            st.metric(label, value, border=True)
    st.caption(views.plain("; ".join(notes) + "."))
