"""Page Calibration: predicted against measured, own runs held out too, parameters with grades, studies, a refit.

Leaves out: the validation and the fits; they are those of `mopd validate`, `mopd calibrate` and `mopd study fit`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mopdsim.app import background, charts, state, views
from mopdsim.app.answers import answer
from mopdsim.app.uploads import csv_text
from mopdsim.base.errors import UsageError
from mopdsim.base.numbers import count, share
from mopdsim.belief.calibration import Calibration, default_calibration, scaled, unscaled
from mopdsim.cost.constants import KINDS, parse
from mopdsim.facts.domains import P90, Scope
from mopdsim.recipes.catalogue import recipe_title
from mopdsim.validate import report_of
from mopdsim.validate.cost import LOADERS


def page() -> None:
    """Three tabs, of which only the open one is computed."""
    state.notice()
    parts = {
        "Predicted against measured": _measured,
        "Parameters and studies": _known,
        "Own observations": _own,
    }
    views.tabs(parts, key="calibration_tab")


_report = st.cache_data(report_of, max_entries=8, show_spinner="Comparing predictions with measurements")


@st.fragment
def _measured() -> None:
    titles = {name: kind.title for name, kind in VALIDATIONS.items()}
    own = None
    with views.said():
        own = read_held_out(RESULTS)
    if own is not None:
        titles = {"held_out": "Scores of own runs, held out", **titles}
    kind = st.segmented_control(
        "Of what", list(titles), format_func=titles.__getitem__, default=next(iter(titles)), key="validation",
        bind="query-params", required=True,
    )  # fmt: skip
    if own is not None and kind == "held_out":
        show_held_out(own)
        return
    with views.said():
        report = _report(kind)
        about = VALIDATIONS[kind]
        views.caption(about.scope)
        _headline(report, ratio=about.ratio)
        _compared(
            predictions(report), key=kind, ratio=about.ratio, unit=about.unit,
            note="Rows of a model are predicted by constants that never saw it where it can be left out.",
        )  # fmt: skip
        errors = left_out(report)
        if not errors.empty:
            st.markdown("**Errors by what the fit never saw**")
            error = share if about.ratio else count
            views.table(
                errors, key=f"left_out_{kind}", alt="Median and P90 error by what was left out",
                shown_as={"median error": error, "P90 error": error},
            )  # fmt: skip


def _compared(table: pd.DataFrame, *, key: str, ratio: bool, unit: str, note: str = "") -> None:
    """Predictions against measurements, a chart for each unit, and how many miss by how much. unit: of rows that name
    none."""
    for own in table.unit.unique():
        rows = table[table.unit == own]
        outside = int((rows["80% interval"] == "outside").sum())
        views.figure(
            f"Predicted against measured, {own or unit}", rows, charts.predicted(ratio), key=f"predicted_{key}_{own}",
            says=f"{len(rows):,} predictions against measurements; {outside} lie outside their 80% interval.",
            note=f"Line: P10 to P90 of the prediction; on the diagonal it is exact. {note}",
        )  # fmt: skip
    column = "log2 of the ratio" if ratio else "residual"
    views.figure(
        "Residuals", table, charts.residuals(column), key=f"residuals_{key}",
        says=f"Residuals of {len(table):,} predictions: median {table[column].median():+.2f}.",
        note="log2 of the ratio: 1 is twice the measurement." if ratio else "Points, predicted minus measured.",
    )  # fmt: skip


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
    _metrics(cells)


def _metrics(cells: Sequence[tuple[str, str]]) -> None:
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
        table = parameters(default_calibration(), scope)
        counts = ", ".join(f"{count} {name}" for name, count in table.grade.value_counts().items())
        st.markdown(f"**Parameters of the quality model** ({counts})")
        views.table(
            table, key="parameters", alt=f"{len(table)} parameters with P10, P50, P90, grade and source"
        )
    st.markdown("**Studies with results**")
    done = studies()
    if done.empty:
        st.caption("None on this machine: `mopd study list` names them.")
    else:
        views.table(done, key="studies", alt="Studies: whether predicted, measured and reported")


@st.fragment
def _own() -> None:
    st.subheader("Refit the cost model to what you measured", anchor=False)
    kind = st.selectbox("What was measured", list(NAMES), format_func=NAMES.__getitem__, key="refit_kind")
    columns = ", ".join(f"`{name}`" for name in LOADERS[kind].COLUMNS)
    st.caption(f"A CSV with at least these columns: {columns}. It stays on this machine.")
    file = st.file_uploader("Observations (CSV)", type=["csv"], key="refit_upload", max_upload_size=2)
    key: background.Key = st.session_state.get("refit", ())
    with views.said():
        found = background.known(key)
        if background.under_way(key) is not None:
            background.wait(key, says="Fitting, with every model and GPU left out in turn: {seconds:.0f} s")
            return
        if file is not None:
            text = csv_text(file.getvalue())
            st.caption(f"{check_refit(kind, text)} rows can be fitted.")
            st.button("Refit", type="primary", on_click=_begin, args=(kind, text))
        if found is not None:
            _refitted(key[1], found)


@state.noticed()
def _begin(kind: str, text: str) -> None:
    command = ("calibrate", kind, "--data", FILE)
    key = (*command, hashlib.sha256(text.encode()).hexdigest())
    background.begin(key, command, {FILE: text}, anew=True)
    st.session_state.refit = key


def _refitted(kind: str, document: dict[str, Any]) -> None:
    report = document["report"]
    st.subheader(f"{NAMES[kind]}, refitted to {report['rows']} rows", anchor=False)
    _headline(report, ratio=True)
    table: pd.DataFrame = refitted(kind, document["entry"])
    views.table(table, key="refitted", alt="Refitted constants beside their textbook values, P10, P50, P90")
    _compared(predictions(report), key="refit", ratio=True, unit="your measurements")
    views.download("Constants, JSON", json.dumps(document, indent=1), "refit.json", "application/json")


RESULTS = Path(__file__).parents[3] / "studies" / "results"


STEPS = {"predicted": "prediction.json", "measured": "observations.csv", "reported": "report.md"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One validation: its title, what a measurement is, whether its scale is a ratio, and what it was measured on."""

    title: str
    unit: str
    ratio: bool
    scope: str


VALIDATIONS: Mapping[str, Kind] = {
    "rl_steps": Kind(
        title="RL step times",
        unit="seconds of a step",
        ratio=True,
        scope="Published steps of RL on models of 3 to 671 billion parameters on H100, GB200, A800 and H20, most of "
        "them of one framework. Each model is left out of the fit that forecasts it.",
    ),
    "train_throughput": Kind(
        title="Training throughput",
        unit="seconds a token and GPU",
        ratio=True,
        scope="Published pre-training and fine-tuning of dense and expert models, most of them tuned by the vendor. "
        "Your stack may be slower: measure a step.",
    ),
    "quality": Kind(
        title="Scores of published recipes",
        unit="benchmark points",
        ratio=False,
        scope="Benchmarks of published post-training studies, each study forecast from the others.",
    ),
    "project_totals": Kind(
        title="Totals of published projects",
        unit="FLOPs or GPU-hours",
        ratio=True,
        scope="Whole published runs, forecast from what their papers state; what they leave out is drawn from priors.",
    ),
}


def predictions(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row a measurement: what, measured, P10, P50, P90, whether inside, and the residual."""
    rows = []
    for row in document["predictions"]:
        low, middle, high = (row.get(new, row.get(old)) for new, old in _ENDS)
        measured = row["measured"]
        what = " ".join(
            str(row[key])
            for key in ("row", "study", "run", "model", "method", "stage", "domain")
            if key in row
        )
        inside = "inside" if low <= measured <= high else "outside"
        ratio = math.log2(middle / measured) if middle > 0 and measured > 0 else math.nan
        unit = _UNITS.get(str(row.get("unit")), "")
        rows.append((what, unit, measured, low, middle, high, inside, middle - measured, ratio))
    ends = ["P10", "P50", "P90"]
    columns = ["what", "unit", "measured", *ends, "80% interval", "residual", "log2 of the ratio"]
    return pd.DataFrame(rows, columns=columns)


_UNITS = {"flop": "FLOPs", "gpu_hours": "GPU-hours"}  # of rows that say which
_ENDS = (("low", "p10"), ("predicted", "p50"), ("high", "p90"))


def left_out(document: Mapping[str, Any]) -> pd.DataFrame:
    """Errors by what was left out of the fit, or by study and method."""
    rows = []
    for scheme, found in (document.get("schemes") or document.get("by_study") or {}).items():
        if count := found.get("rows", found.get("count")):
            rows.append((scheme, count, found["median_error"], found["p90_error"]))
    return pd.DataFrame(rows, columns=["left out", "rows", "median error", "P90 error"])


def parameters(calibration: Calibration, scope: Scope) -> pd.DataFrame:
    """Every parameter of the quality model at this scope: P10, P50, P90, grade and source."""
    rows = []
    for name, parameter in calibration.parameters.items():
        found = parameter.at(scope)
        kind, middle = parameter.distribution, scaled(parameter.distribution, found.value)
        low, high = unscaled(kind, middle + P90 * found.sd * np.array([-1.0, 1.0])).tolist()
        rows.append((name, low, found.value, high, kind, found.grade, found.source))
    return pd.DataFrame(rows, columns=["parameter", "P10", "P50", "P90", "distribution", "grade", "rests on"])


def studies() -> pd.DataFrame:
    """Studies with files on disk: which are predicted, measured and reported."""
    found = sorted(path for path in RESULTS.glob("*") if path.is_dir()) if RESULTS.is_dir() else []
    rows = [(path.name, *((path / file).is_file() for file in STEPS.values())) for path in found]
    return pd.DataFrame(rows, columns=["study", *STEPS])


def refitted(kind: str, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Constants of a refit beside the textbook values they were drawn to, with P10 and P90."""
    constants = parse(kind, dict(entry)).constants
    textbook = KINDS[kind]()
    rows = []
    for place, name in enumerate(constants.names()):
        sd = math.sqrt(max(0.0, entry["log_covariance"][place][place]))
        value = getattr(constants, name)
        ends = (value * math.exp(-P90 * sd), value, value * math.exp(P90 * sd))
        rows.append((name, getattr(textbook, name), *ends, "fitted"))
    return pd.DataFrame(rows, columns=["constant", "textbook", "P10", "P50", "P90", "grade"])


FILE = "data.csv"
NAMES = {"rl_steps": "RL step times", "train_throughput": "Training throughput", "decode": "Decoding speed"}


def check_refit(kind: str, text: str) -> int:
    """The number of rows that the kind can be fitted to. UsageError, one sentence, for any other file."""
    rows = len(LOADERS[kind].load(text).rows)
    if not rows:
        raise UsageError(
            "file: none of its rows has every number that the fit needs: compare it with the example"
        )
    return rows


HELD_OUT = Path("held_out") / "held_out.json"  # under the directory of the studies' results
POINTS = 100.0
SCOPE = (
    "Runs that no fit has seen: tiny models of 0.17 to 10 million parameters, synthetic tasks on strings, scores "
    "sampled at temperature 1. Little of this transfers to a large model."
)


def read_held_out(results: Path) -> dict[str, Any] | None:
    """The document, None where no fit has been tested on held-out runs. UsageError for a damaged one."""
    path = results / HELD_OUT
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document if document["held_out"]["n"] and document["trials"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path.name}: damaged ({error!r}): run `mopd study fit --all --report` again"
        ) from None


def held_out_finding(found: Mapping[str, Any]) -> str:
    """The result in a sentence: the forecast's mean error against the best simple rule's."""
    low, high = (f"{end:.0%}" for end in found["skill_interval"])
    verb = "beats" if found["skill"] > 0 else "does not beat"
    return (
        f"On {found['n']:,} scores of {found['runs']:,} runs that the fit never saw, the forecast misses by "
        f"{found['mae_points']:.1f} points and {verb} the best simple rule, which misses by "
        f"{found['best_baseline_mae_points']:.1f} (saved of that: {found['skill']:.0%}, {low} to {high})."
    )


def held_out_trials(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row a score of a domain that its recipe trained: what, measured, P10, P50, P90, whether inside, residual."""
    rows = [row for row in document["trials"] if row["in_set"]]
    found = predictions({"predictions": rows})
    recipes = [recipe_title(row["strategy"]) for row in rows]
    return found.assign(recipe=recipes, residual=POINTS * found.residual)


def by_group(document: Mapping[str, Any], key: str, of: str) -> pd.DataFrame:
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


def show_held_out(document: Mapping[str, Any]) -> None:
    """The whole section."""
    found = document["held_out"]
    st.caption(SCOPE)
    st.subheader(views.plain(held_out_finding(found)), anchor=False)
    _held_out_numbers(found)
    _compared(held_out_trials(document), key="held_out", ratio=False, unit="pass rate")
    for of, key in (("recipe", "by_strategy"), ("study", "by_study")):
        rows = by_group(document, key, of)
        if not rows.empty:
            st.markdown(f"**By {of}**")
            views.table(
                rows, key=f"held_out_{key}", alt=f"Errors on held-out scores by {of}",
                shown_as={"inside the 80% interval": share},
            )  # fmt: skip


def _held_out_numbers(found: Mapping[str, Any]) -> None:
    """Error, coverage and what a choice loses; under them what each is measured by."""
    low, high = found["coverage_80_interval"]
    cells = [
        ("Mean error", f"{found['mae_points']:.1f} points"),
        ("Best simple rule's error", f"{found['best_baseline_mae_points']:.1f} points"),
        ("Inside the 80% interval", f"{found['coverage_80']:.0%}"),
    ]
    notes = [f"Best simple rule: {found['best_baseline']}", f"the true coverage is {low:.0%} to {high:.0%}"]
    if found["regret_points"] is not None:
        cells.append(("Lost by choosing with it", f"{found['regret_points']:.1f} points"))
        constant, rule = found["best_constant_rule_regret_points"], found["best_constant_rule"]
        if constant is not None:
            notes.append(f"always {recipe_title(rule)} loses {constant:.1f}")
    _metrics(cells)
    views.caption("; ".join(notes) + ".")
