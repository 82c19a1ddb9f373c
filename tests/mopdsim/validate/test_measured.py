"""Own measurements: one row narrows a stack's seconds, more rows narrow them more, and another run lies inside."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mopdsim.base.documents import write_document
from mopdsim.base.errors import UsageError
from mopdsim.cli.commands import cost_kind
from mopdsim.cost.constants import NORMAL_80, read_measured, stack
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.validate.measured import Measured, before_and_after, document, factor, rows_of, text
from mopdsim.validate.tables import published

HEAD = "framework,model,gpu,precision,gpus,mode,max_tokens,mean_tokens,samples_per_step,step_s\n"
ROW = "mine,Qwen3-8B,H100,BF16,32,On policy,8192,3000,1024,{}\n"
UNKNOWN = stack("unknown")


def table(path: Path, *rows: str) -> Path:
    path.write_text(HEAD + "".join(rows))
    return path


def of_framework(kind: str, part: str, folder: Path) -> list[Measured]:
    """The rows of a published table whose source or framework has this in it, as a user's own."""
    lines = [text for text in published(kind).read_text().splitlines() if not text.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if part in row.get("framework", "") + row["source"]]
    path = folder / "own.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows_of("rl_steps" if kind == "rl_steps" else "train_throughput", path)


@pytest.mark.parametrize(
    ("kind", "part", "known", "other"),
    [
        ("rl_steps", "NeMo-RL v0.4", 5, 0),
        ("rl_steps", "NeMo-RL v0.6", 1, 2),
        ("train_throughput_fsdp", "prime-rl", 8, 1),
    ],
)
def test_one_row_narrows_an_unseen_stack_and_another_run_lies_inside(
    kind: str, part: str, known: int, other: int, tmp_path: Path
) -> None:
    rows = of_framework(kind, part, tmp_path)
    log_bias, log_sd = factor([rows[known]], UNKNOWN)
    width = 2 * NORMAL_80 * math.hypot(log_sd, rows[other].log_sd)
    assert math.exp(width) < 2.0 < math.exp(2 * NORMAL_80 * UNKNOWN.log_sd)
    assert abs(rows[other].residual - log_bias) <= width / 2


@pytest.mark.parametrize("part", ["NeMo-RL v0.4", "NeMo-RL v0.6"])
def test_nearly_every_row_of_a_stack_places_its_others(part: str, tmp_path: Path) -> None:
    """41 of 42 ordered pairs of the one release (one step off in it was slower than on policy), all 12 of the other."""
    rows = of_framework("rl_steps", part, tmp_path)
    inside = []
    for known in rows:
        log_bias, log_sd = factor([known], UNKNOWN)
        for other in (row for row in rows if row is not known):
            width = 2 * NORMAL_80 * math.hypot(log_sd, other.log_sd)
            assert math.exp(width) < 2.0
            inside.append(abs(other.residual - log_bias) <= width / 2)
    assert sum(inside) >= 0.9 * len(inside)


def test_the_factor_is_the_posterior_of_normal_errors() -> None:
    row = Measured(label="a", seconds=200.0, forecast=100.0, log_sd=0.2)
    prior = replace(UNKNOWN, log_bias=0.0, log_sd=0.2)
    assert factor([row], prior) == pytest.approx((math.log(2) / 2, 0.2 / math.sqrt(2)))
    assert factor([], prior) == (0.0, 0.2)
    narrow = [factor([row] * count, prior)[1] for count in (1, 4, 16)]
    assert narrow == sorted(narrow, reverse=True)


def test_rows_that_scatter_are_believed_less() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Measured(label="a", seconds=float(np.exp(rng.normal(0, 1))), forecast=1.0, log_sd=0.2)
        for _ in range(9)
    ]
    calm = [replace(row, seconds=1.0) for row in rows]
    assert factor(rows, UNKNOWN)[1] > 2 * factor(calm, UNKNOWN)[1]
    found = before_and_after(calm, UNKNOWN)
    assert found["after"]["median_width"] < found["before"]["median_width"]
    assert found["after"]["interval_score"] < found["before"]["interval_score"]


def test_a_forecast_takes_the_measured_factor(tmp_path: Path) -> None:
    path = tmp_path / "my_stack.json"
    write_document(path, document("rl_steps", table(tmp_path / "mine.csv", ROW.format(231))))
    name, (log_bias, log_sd) = read_measured(path)
    assert name == "unknown" and log_sd < 0.25
    asked = f"""
recipe = "mixed_rl"
domains = ["math"]
model = "Qwen3-8B"
gpu = "H100"
gpus = 32
measured = "{path}"
"""
    own = scenario.loads(asked)
    assert own.factor == (log_bias, log_sd)
    assert scenario.loads(scenario.dump(own)) == own
    told, before = (
        forecast(one).step_seconds_N("mixed") for one in (own, replace(own, factor=None, measured=None))
    )
    assert np.quantile(told, 0.9) / np.quantile(told, 0.1) < np.quantile(before, 0.9) / np.quantile(
        before, 0.1
    )


def test_a_row_without_lengths_narrows_less(tmp_path: Path) -> None:
    whole = document("rl_steps", table(tmp_path / "a.csv", ROW.format(231)))
    part = document("rl_steps", table(tmp_path / "b.csv", ROW.format(231).replace(",3000,", ",,")))
    assert whole["log_sd"] < part["log_sd"] < UNKNOWN.log_sd
    assert "mean_tokens" in part["made_of"][0]["row"]
    json.dumps(part, allow_nan=False)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROW.format(231_000)], "another unit: give seconds, not milliseconds"),
        ([ROW.format(0)], "no row that can be forecast: line 2: step_s is '0'"),
        ([ROW.format("231 ms")], "line 2: step_s is '231 ms'; it must be a positive number"),
        ([ROW.format("1,024")], "line 2 has more cells than there are columns: put quotes"),
        (
            [ROW.format(231).replace("3000", "9000")],
            "line 2: max_tokens = 8192 lies below mean_tokens = 9000",
        ),
        ([ROW.format(231).replace("Qwen3-8B", "Qwen99")], "line 2: model 'Qwen99'"),
        ([], "no row that can be forecast"),
    ],
)
def test_tables_that_say_nothing_are_one_sentence(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        document("rl_steps", table(tmp_path / "mine.csv", *rows))


def test_rows_that_cannot_be_forecast_are_named_beside_the_others(tmp_path: Path) -> None:
    found = document("rl_steps", table(tmp_path / "mine.csv", ROW.format(231), ROW.format(0)))
    assert len(found["made_of"]) == 1 and len(found["left_out"]) == 1
    assert found["left_out"][0].startswith("line 3: step_s is '0'")
    assert "left out: line 3: step_s" in text(found)


def test_a_table_without_rows_or_a_directory_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no rows"):
        cost_kind(table(tmp_path / "mine.csv"))
    with pytest.raises(UsageError, match="is a directory"):
        cost_kind(tmp_path)


def test_a_table_of_another_engine_is_told_which_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("timing_s/step,response_length/mean\n231,3000\n")
    with pytest.raises(UsageError, match=r"rl_steps: framework, model.*read by `mopd import`"):
        cost_kind(path)
