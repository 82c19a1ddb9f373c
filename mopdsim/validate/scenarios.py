"""Whole runs and single steps of many frameworks, each a scenario file, against what was measured.

A table has the columns of `data/published/scenarios.csv`; row `id` is the scenario file `scenarios/ID.toml` beside it.
A row is judged as a user would meet it: P10, P50 and P90 of `mopd forecast` on that file. `gpu_hours` and `days` are
those of the whole forecast; `step_s` is one step of its last stage, without evaluation, failures and reruns.
Leaves out: steps whose layout is known (`mopdsim.validate.rl_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mopdsim.base.arrays import Array
from mopdsim.base.errors import InfeasibleError, NotFoundError, UsageError
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.validate.cost import published
from mopdsim.validate.intervals import held, summary
from mopdsim.validate.tables import number, read_rows

COLUMNS = ("id", "unit", "measured")
OPTIONAL_COLUMNS = ("bound", "grade", "source", "note")
FOLDER = "scenarios"
UNITS: Mapping[str, Callable[[Forecast], Array]] = {
    "gpu_hours": lambda found: found.gpu_hours_N,
    "days": lambda found: found.days_N,
    "step_s": lambda found: found.step_seconds_N(found.scenario.recipe.stages[-1].name),
}


def validate(path: Path | None = None) -> dict[str, Any]:
    """The report. `rows` counts every row of the table, and one that is refused is a miss."""
    path = Path(path or published("scenarios"))
    predictions, refused = [], []
    for line, row in read_rows(path, COLUMNS, OPTIONAL_COLUMNS):
        try:
            predictions.append(_judge(line, row, path.parent / FOLDER))
        except (UsageError, NotFoundError, InfeasibleError) as error:
            refused.append({"line": line, "id": row["id"], "reason": str(error)})
    if not predictions and not refused:
        raise UsageError(f"data file {str(path)!r} has no rows")
    return {
        "kind": "scenarios",
        "rows": len(predictions) + len(refused),
        **summary(predictions, len(refused)),
        "refused": refused,
        "predictions": predictions,
    }


def _judge(line: int, row: Mapping[str, str], folder: Path) -> dict[str, Any]:
    if row["unit"] not in UNITS:
        raise UsageError(f"line {line}: unit is {row['unit']!r}; it must be one of {', '.join(UNITS)}.")
    measured = number(dict(row), "measured", line)
    told = quantiles(UNITS[row["unit"]](forecast(scenario.load(folder / f"{row['id']}.toml"))))
    return {
        "line": line,
        "id": row["id"],
        "unit": row["unit"],
        **told,
        "measured": measured,
        "bound": row["bound"],
        "inside_80": held(told, measured, row["bound"]),
        "ratio": told["p50"] / measured,
        "source": row["source"],
    }
