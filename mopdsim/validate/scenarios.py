"""Whole runs and single steps of many frameworks, each a scenario file, against what was measured.

A table has the columns of `data/published/scenarios.csv`; row `id` is the scenario file `scenarios/ID.toml` beside it.
A row is judged as a user would meet it: P10, P50 and P90 of `mopd forecast` on that file. `gpu_hours` and `days` are
those of the whole forecast; `step_s` is one step of its last stage, without evaluation, failures and reruns.
Leaves out: steps whose layout is known (`mopdsim.validate.rl_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, NotFoundError, UsageError, did_you_mean
from mopdsim.cost.constants import MECHANISMS, stack
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.scenario import Scenario
from mopdsim.validate.intervals import judged, summary
from mopdsim.validate.tables import number, published, read_rows

COLUMNS = ("id", "unit", "measured")
OPTIONAL_COLUMNS = ("project", "stack", "documented", "bound", "grade", "source", "note")
FOLDER = "scenarios"
UNITS: Mapping[str, Callable[[Forecast], Array]] = {
    "gpu_hours": lambda found: found.gpu_hours_N,
    "days": lambda found: found.days_N,
    "step_s": lambda found: found.step_seconds_N(found.scenario.recipe.stages[-1].name),
}


SCHEMES: Mapping[str, Callable[[Mapping[str, str], Scenario], str | None]] = {
    "shipped factors (in sample for published projects)": lambda row, given: None,
    "leave one project out": lambda row, given: _published(row, "project"),
    "leave one framework out": lambda row, given: f"stack:{_published(row, 'stack')}",
    "leave one GPU out": lambda row, given: f"gpu:{given.gpu}",
}
HEADLINE = "leave one project out"


def _published(row: Mapping[str, str], key: str) -> str:
    """A row's project or stack, and where its table does not say that of the shipped row of that name: a run that the
    factors were fitted to is left out of them whatever file it comes from."""
    return row[key] or _shipped_rows().get(row["id"], {}).get(key, "")


@cache
def _shipped_rows() -> dict[str, dict[str, str]]:
    return {row["id"]: row for _, row in read_rows(published("scenarios"), COLUMNS, OPTIONAL_COLUMNS)}


def validate(path: Path | None = None) -> dict[str, Any]:
    """The report. `rows` counts every row of the table, and one that is refused is a miss. Headline numbers are of
    stack factors fitted without the row's project, where a fit has seen it; `schemes` has the others."""
    path = Path(path or published("scenarios"))
    rows = read_rows(path, COLUMNS, OPTIONAL_COLUMNS)
    if not rows:
        raise UsageError(f"data file {str(path)!r} has no rows")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMES}
    refused = []
    for line, row in rows:
        try:
            schemes = _schemes(line, row, path.parent / FOLDER)
        except (UsageError, NotFoundError, InfeasibleError) as error:
            refused.append({"line": line, "id": row["id"], "reason": str(error)})
            continue
        for name, prediction in schemes.items():
            found[name].append(prediction)
    return {
        "kind": "scenarios",
        "rows": len(rows),
        **summary(found[HEADLINE], len(refused)),
        "schemes": {name: summary(predictions, len(refused)) for name, predictions in found.items()},
        "refused": refused,
        "predictions": found[HEADLINE],
    }


def _schemes(line: int, row: Mapping[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    """A row's prediction under every scheme."""
    if row["unit"] not in UNITS:
        raise UsageError(f"line {line}: unit is {row['unit']!r}; it must be one of {', '.join(UNITS)}.")
    if (software := _published(row, "stack")) and software not in MECHANISMS:
        raise UsageError(
            f"line {line}: stack is {software!r}, no class of software{did_you_mean(software, MECHANISMS)}"
        )
    measured = number(dict(row), "measured", line)
    given = scenario.load(folder / f"{row['id']}.toml")
    found = {}
    for name, left_out in SCHEMES.items():
        shrunk = stack(given.stack, without=left_out(row, given))
        factor = given.factor or (shrunk.log_bias, shrunk.log_sd)
        asked = replace(given, factor=factor, launch_layer_s=shrunk.launch_layer_s)
        told = judged(UNITS[row["unit"]](forecast(asked)), measured, bound=row["bound"])
        found[name] = {
            "line": line,
            "id": row["id"],
            "unit": row["unit"],
            **told,
            "bound": row["bound"],
            "ratio": told["p50"] / measured,
            "stack": given.stack,
            "source": row["source"],
        }
    return found
