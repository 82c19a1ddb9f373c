"""Forecast documents as tables: one row a thing shown, columns in the words of the page.

The tables feed the charts, stand beside them, and are what CSV and XLSX hold. Leaves out: charts
(`mopdsim.app.charts`), files (`mopdsim.app.views`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pandas as pd

from mopdsim.forecast.scenario import Scenario
from mopdsim.quality.step import CAUSES, Cause
from mopdsim.recipes.graph import KINDS
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Rl

Documents = Mapping[str, Mapping[str, Any]]  # forecast documents by the scenario's label
CAUSE_TITLES: Mapping[Cause, str] = {
    "gain": "gain of training",
    "interference": "interference",
    "cap": "cap of the teachers",
    "shortfall": "budget too short",
    "routing": "wrong teacher",
    "bias": "training elsewhere",
    "reward": "reward mixed in",
    "judge": "reward model's errors",
    "collapse": "collapse",
}
_NAMED = 3  # domains in a stage's title
FEW = 6  # pairs of K that are listed one by one
MEAN = "mean of domains"


def of_rows(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A row for each row of a document; columns: by title, where a cell stands, as in "usd.p50"; no cell where it is
    absent."""
    found = [tuple(_at(row, path) for path in columns.values()) for row in rows]
    return pd.DataFrame(found, columns=list(columns))


def _at(row: Any, path: str) -> Any:
    for key in path.split("."):
        row = None if row is None else row.get(key)
    return row


def scores(documents: Documents) -> pd.DataFrame:
    """Final score by scenario and domain, with its start and grade."""
    rows = [
        (
            label,
            domain,
            found["waterfall"][domain]["start"],
            *_three(row),
            found["grades"][f"scores.{domain}"],
        )
        for label, found in documents.items()
        for domain, row in found["scores"].items()
    ]
    return pd.DataFrame(rows, columns=["scenario", "domain", "start", "P10", "P50", "P90", "grade"])


def waterfall(document: Mapping[str, Any], domain: str) -> pd.DataFrame:
    """Start, the causes that act, and the final score of one domain or of their mean, with each bar's two ends."""
    rows = document["waterfall"]
    chosen = list(rows.values()) if domain == MEAN else [rows[domain]]
    mean = {cause: sum(row[cause] for row in chosen) / len(chosen) for cause in chosen[0]}
    table, level = [("base", 0.0, mean["start"], "level")], mean["start"]
    for cause in CAUSES:
        change = mean.get(cause, 0.0)
        if abs(change) >= 5e-4:
            table.append((CAUSE_TITLES[cause], level, level + change, "gain" if change > 0 else "loss"))
        level += change
    table.append(("final", 0.0, mean["final"], "level"))
    frame = pd.DataFrame(table, columns=["cause", "from", "to", "kind"])
    frame["change"] = [high if kind == "level" else high - low for _, low, high, kind in table]
    frame["place"] = range(len(frame))
    return frame


def stages(documents: Documents) -> pd.DataFrame:
    """Cost of every stage by scenario, and when it runs."""
    rows = [
        {**row, "scenario": label, "kind": KINDS[row["kind"]], "layout": row["layout"] or ""}
        for label, found in documents.items()
        for row in found["stages"]
    ]
    return of_rows(rows, {
        "scenario": "scenario", "stage": "name", "kind": "kind", "pool": "pool", "GPUs": "gpus", "steps": "steps",
        "start day": "start_day.p50", "end day": "end_day.p50", "end day P90": "end_day.p90",
        "GPU-hours": "gpu_hours.p50", "USD P10": "usd.p10", "USD": "usd.p50", "USD P90": "usd.p90",
        "memory GB": "memory_gb", "layout": "layout",
    })  # fmt: skip


def by_domains(stages: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The same with each stage that trains some of the domains called by them: "math + code", and "math 2"
    in a second round."""
    names: dict[str, str] = {}
    times: Counter[str] = Counter()
    for stage in recipe.stages:
        own = tuple(getattr(stage, "domains", ()) or ())
        title = re.sub(r"^r\d+_", "", stage.name)  # the prefix of a round
        if isinstance(stage, Rl) and 0 < len(own) < len(recipe.domains):
            title = " + ".join(own[:_NAMED]) + (f" + {len(own) - _NAMED} more" if len(own) > _NAMED else "")
        times[title] += 1
        names[stage.name] = title if times[title] == 1 else f"{title} {times[title]}"
    return stages.assign(stage=[names.get(name, name) for name in stages.stage])


def gpus_in_use(stages: pd.DataFrame, pool: int) -> pd.DataFrame:
    """GPUs used and idle from one change to the next, stages at their P50: `from` and `to` in days,
    `low` and `high` where the band lies."""
    changes = sorted({0.0, *stages["start day"], *stages["end day"]})
    rows = []
    for begin, end in pairwise(changes):
        middle = (begin + end) / 2
        running = stages[(stages["start day"] <= middle) & (stages["end day"] > middle)]
        used = min(int(running.GPUs.sum()), pool)
        rows += [("used", begin, end, used, 0, used), ("idle", begin, end, pool - used, used, pool)]
    return pd.DataFrame(rows, columns=["GPUs are", "from", "to", "GPUs", "low", "high"])


def idle_share(used: pd.DataFrame) -> float:
    """The share of GPU-days that are idle."""
    days = used.assign(days=used.GPUs * (used["to"] - used["from"])).groupby("GPUs are").days.sum()
    return float(days.get("idle", 0.0) / days.sum())


def totals(documents: Documents) -> pd.DataFrame:
    """Cost, calendar and scores of each scenario: a row a measure, P10, P50 and P90."""
    rows: list[tuple[str, str, float | None, float, float | None, str]] = []
    for label, found in documents.items():
        for name, title in (("usd", "cost, USD"), ("gpu_hours", "GPU-hours"), ("days", "calendar, days")):
            rows.append((label, title, *_three(found[name]), found["grades"][name]))
        for name, title in (
            ("within_budget", "within the budget"),
            ("within_deadline", "within the deadline"),
        ):
            if found[name] is not None:
                rows.append((label, title, None, found[name], None, found["grades"]["usd"]))
    return pd.DataFrame(rows, columns=["scenario", "measure", "P10", "P50", "P90", "grade"])


def changed_inputs(baseline: Scenario, now: Scenario) -> pd.DataFrame:
    """Inputs that differ, and nothing else: name, baseline, now. Many own pairs of K are one row."""
    before, after = _inputs(baseline), _inputs(now)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    pairs = [name for name in names if name.startswith("conflict ")]
    rows = [(name, before.get(name, "-"), after.get(name, "-")) for name in names]
    if len(pairs) > FEW:
        rows = [row for row in rows if row[0] not in pairs]
        rows.append((f"K of {len(pairs)} pairs", "as before", "own P10 to P90"))
    return pd.DataFrame(rows, columns=["input", "baseline", "now"])


def _inputs(scenario: Scenario) -> dict[str, str]:
    """Every input of a scenario in words, stage by stage and pair by pair."""
    found = {"recipe": scenario.recipe.name, "domains": ", ".join(scenario.recipe.domains)}
    for field in fields(scenario):
        value = getattr(scenario, field.name)
        if field.name in ("recipe", "reliability", "facts", "stated"):
            continue
        if field.name == "conflict_shift":
            found["K of every pair, moved by"] = f"{value or 0.0:+.2f}"
            continue
        if isinstance(value, Mapping):
            found |= {f"{field.name} {name}": _worded(row) for name, row in value.items()}
        else:
            found[field.name.replace("_", " ")] = _worded(value)
    for name, row in scenario.facts.items():
        found |= {f"{name}: {key}": _worded(value) for key, value in row.items()}
    for stage in scenario.recipe.stages:
        found[f"stage {stage.name}"] = (
            f"{stage.kind} over {', '.join(stage.domains)}" if hasattr(stage, "domains") else stage.kind
        )
    found |= {f"steps of {name}": str(amounts.steps) for name, amounts in scenario.recipe.amounts.items()}
    return found


def _worded(value: Any) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, tuple | list):
        return " to ".join(_worded(end) for end in value)
    return str(value)


def _three(row: Mapping[str, float]) -> tuple[float, float, float]:
    return row["p10"], row["p50"], row["p90"]
