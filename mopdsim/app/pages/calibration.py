"""Page Calibration: predicted against measured, parameters with grades, studies, and a refit to own observations.

Leaves out: the validation and the fits; they are those of `mopd validate` and `mopd calibrate`.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from mopdsim.app import charts, state, views
from mopdsim.app.answers import answer
from mopdsim.app.pages import held_out, refits
from mopdsim.app.tables import evidence
from mopdsim.base.errors import MopdError
from mopdsim.belief.calibration import default_calibration

POLL_S = 1


def page() -> None:
    """Three tabs, of which only the open one is computed."""
    state.notice()
    measured, known, own = st.tabs(
        ["Predicted against measured", "Parameters and studies", "Own observations"],
        key="calibration_tab", on_change="rerun",
    )  # fmt: skip
    if measured.open:
        with measured:
            _measured()
    if known.open:
        with known:
            _known()
    if own.open:
        with own:
            _own()


@st.cache_data(max_entries=8, show_spinner="Comparing predictions with measurements")
def _report(kind: str) -> dict[str, Any]:
    return evidence.report(kind)


@st.fragment
def _measured() -> None:
    titles = {name: kind.title for name, kind in evidence.VALIDATIONS.items()}
    own = None
    with views.said():
        own = held_out.read(evidence.RESULTS)
    if own is not None:
        titles = {"held_out": "Scores of own runs, held out", **titles}
    kind = st.segmented_control(
        "Of what", list(titles), format_func=titles.__getitem__, default=next(iter(titles)), key="validation",
        bind="query-params", required=True,
    )  # fmt: skip
    if own is not None and kind == "held_out":
        held_out.show(own)
        return
    with views.said():
        report = _report(kind)
        about = evidence.VALIDATIONS[kind]
        st.caption(views.plain(about.scope))
        _headline(report, ratio=about.ratio)
        table = evidence.predictions(report)
        for unit in table.unit.unique():
            rows = table[table.unit == unit]
            outside = int((rows["80% interval"] == "outside").sum())
            views.figure(
                f"Predicted against measured, {unit or about.unit}", rows, charts.predicted(about.ratio),
                key=f"predicted_{kind}_{unit}",
                says=f"{len(rows)} predictions against measurements; {outside} lie outside their 80% interval.",
                note="Line: P10 to P90 of the prediction; on the diagonal it is exact. Rows of a model are "
                "predicted by constants that never saw it where it can be left out.",
            )  # fmt: skip
        column = "log2 of the ratio" if about.ratio else "residual"
        views.figure(
            "Residuals", table, charts.residuals(column), key=f"residuals_{kind}",
            says=f"Residuals of {len(table)} predictions: median {table[column].median():+.2f}.",
            note="log2 of the ratio: 1 is twice the measurement." if about.ratio else "Predicted minus measured.",
        )  # fmt: skip
        errors = evidence.left_out(report)
        if not errors.empty:
            st.markdown("**Errors by what the fit never saw**")
            views.table(errors, key=f"left_out_{kind}", alt="Median and P90 error by what was left out")


def _headline(report: dict[str, Any], *, ratio: bool) -> None:
    def shown(error: float | None) -> str:
        if error is None:
            return "-"
        return f"{error:.0%}" if ratio else f"{error:.1f} points"

    cells = [
        ("Measurements", str(report["rows"])),
        ("Median error", shown(report["median_error"])),
        ("P90 error", shown(report["p90_error"])),
        ("Inside the 80% interval", f"{report['coverage_80']:.0%}"),
    ]
    if report.get("naive_median_error") is not None:
        cells.append(("Median error of a simple rule", shown(report["naive_median_error"])))
    with st.grid(len(cells), min_column_width=150):
        for label, value in cells:
            st.metric(label, value, border=True)


def _known() -> None:
    with views.said():
        found = answer(state.choice())
        scope = found.forecast.scenario.scope
        st.subheader(f"Where the question of What if stands: scope {scope}", anchor=False)
        if found.forecast.warnings:
            st.markdown("\n".join(f"- {views.plain(line)}" for line in found.forecast.warnings))
        else:
            st.caption("Nothing leaves the calibrated range.")
        table = evidence.parameters(default_calibration(), scope)
        counts = ", ".join(f"{count} {name}" for name, count in table.grade.value_counts().items())
        st.markdown(f"**Parameters of the quality model** ({counts})")
        views.table(
            table, key="parameters", alt=f"{len(table)} parameters with P10, P50, P90, grade and source"
        )
    st.markdown("**Studies with results**")
    done = evidence.studies()
    if done.empty:
        st.caption("None on this machine: `mopd study list` names them.")
    else:
        views.table(done, key="studies", alt="Studies: whether predicted, measured and reported")


@st.fragment
def _own() -> None:
    st.subheader("Refit the cost model to what you measured", anchor=False)
    kind = st.selectbox(
        "What was measured", list(refits.NAMES), format_func=refits.NAMES.__getitem__, key="refit_kind"
    )
    columns = ", ".join(f"`{name}`" for name in refits.columns(kind))
    st.caption(f"A CSV with at least these columns: {columns}. It stays on this machine.")
    file = st.file_uploader("Observations (CSV)", type=["csv"], key="refit_upload", max_upload_size=2)
    if file is not None:
        with views.said():
            rows = refits.check(kind, file.getvalue())
            st.caption(f"{rows} rows can be fitted.")
            busy = st.session_state.get("refit") is not None
            st.button("Refit", type="primary", disabled=busy, on_click=_begin, args=(kind, file.getvalue()))
    if st.session_state.get("refit") is not None:
        _wait()
    elif st.session_state.get("refitted"):
        _refitted(*st.session_state.refitted)


def _begin(kind: str, data: bytes) -> None:
    st.session_state.refitted = None
    try:
        st.session_state.refit = (kind, refits.start(kind, data))
    except MopdError as error:
        st.session_state.notice = str(error)


@st.fragment(run_every=POLL_S)
def _wait() -> None:
    if st.session_state.get("refit") is None:
        return
    kind, work = st.session_state.refit
    if work.running:
        st.info(
            f"Fitting, with every model and GPU left out in turn: {work.seconds:.0f} s. It can take a minute."
        )
        return
    st.session_state.refit = None
    try:
        st.session_state.refitted = (kind, work.result())
    except MopdError as error:
        st.session_state.notice = str(error)
    st.rerun()


def _refitted(kind: str, document: dict[str, Any]) -> None:
    report = document["report"]
    st.subheader(f"{refits.NAMES[kind]}, refitted to {report['rows']} rows", anchor=False)
    _headline(report, ratio=True)
    table: pd.DataFrame = evidence.refitted(kind, document["entry"])
    views.table(table, key="refitted", alt="Refitted constants beside their textbook values, P10, P50, P90")
    shown = evidence.predictions(report)
    views.figure(
        "Predicted against measured", shown, charts.predicted(True), key="refit_predicted",
        says=f"{len(shown)} predictions of the refit against your measurements.",
    )  # fmt: skip
    views.download("Constants, JSON", json.dumps(document, indent=1), "refit.json", "application/json")
