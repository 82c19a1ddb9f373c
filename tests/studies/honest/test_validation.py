"""The frozen validation, the page that quotes it and what the simulator says today are one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopdsim.validate import cost, projects
from studies.honest.validation import RESULTS, table

DOCS = RESULTS.parents[2] / "docs" / "results.md"
QUOTED = {
    "decode": "decode, time per token",
    "train_throughput": "training throughput",
    "rl_steps": "RL step time",
    "quality": "scores of published recipes",
    "project_totals": "GPU-hours of whole projects",
}


def frozen(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{kind}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("kind", QUOTED)
def test_the_page_quotes_what_was_frozen(kind: str) -> None:
    _, rows, _, p90, naive, coverage = (
        cell.strip() for cell in table({kind: frozen(kind)}).splitlines()[2].strip("| ").split(" | ")
    )
    page = DOCS.read_text(encoding="utf-8").partition("## Predicted against published")[2].splitlines()
    line = next(line for line in page if line.startswith(f"| {QUOTED[kind]} |"))
    cells = [cell.strip().replace(",", "") for cell in line.split("|")[1:-1]]
    assert cells[2].split()[0] == rows and cells[4] == p90 and cells[6].startswith(coverage)
    assert kind in ("quality", "project_totals") or cells[5] == naive


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rl_steps", "train_throughput", "project_totals"])
def test_what_was_frozen_is_what_the_simulator_says(kind: str) -> None:
    """Otherwise `mopd study validation` is due."""
    found = projects.validate() if kind == "project_totals" else cost.validate(kind)
    for name in ("rows", "median_error", "p90_error", "coverage_80"):
        assert found[name] == pytest.approx(frozen(kind)[name], rel=1e-6), name
