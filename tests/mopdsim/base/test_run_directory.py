"""Logs of a run, whole or half written, as the trainer and the app read them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from mopdsim.base.errors import UsageError
from mopdsim.base.run_directory import PHASES, checked_manifest, checked_summary, named, rows_of

ROWS = b'{"kind": "step", "step": 0}\n{"no": "kind"}\n[1]\n{"kind": "step", "step": 1}\n{"kind": "st'

GONE = object()


def test_a_line_half_written_and_what_is_no_row_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(ROWS)
    assert [row["step"] for row in rows_of(path)] == [0, 1]
    assert [row["step"] for row in rows_of(path, most=len(ROWS))] == [0, 1]
    assert [row["step"] for row in rows_of(path, most=len(ROWS) - 1)] == [1]  # the first line is cut


def test_teachers_get_their_names_and_one_without_a_row_is_left_out() -> None:
    row = {"kind": "sample", "teacher_kl": [0.5, None], "teachers": [[-1.0], [-2.0]], "own": [1]}
    assert named(row, ["a", "b"]) == {
        "kind": "sample",
        "teacher_kl": {"a": 0.5},
        "teachers": {"a": [-1.0], "b": [-2.0]},
        "own": ["b"],
    }
    assert row["own"] == [1]
    assert named({"kind": "step"}, []) == {"kind": "step"}


STEP = {"kind": "step", "stage": "student", "step": 0, "loss": 0.5, "gradient_cosine": {"a|b": 0.5}}
SAMPLE = {
    "kind": "sample", "stage": "student", "step": 0, "domain": "a", "prompt": "p", "length": 1, "reward": 1.0,
    "tokens": ["x"], "student": [-1.0], "teachers": {"t": [None]}, "own": ["t"],
}  # fmt: skip
SCORED = {
    "kind": "evaluation",
    "stage": "student",
    "step": 0,
    "domains": {"a": {"pass_rate": 0.5, "se": None}},
}


def test_rows_as_trainers_write_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rows = [STEP, SAMPLE, SCORED, {**STEP, "loss": math.nan}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "[" * 100_000 + "\n")
    found = list(rows_of(path, of_run=True))
    assert found[:3] == rows[:3] and math.isnan(found[3]["loss"]) and len(found) == 4


@pytest.mark.parametrize(
    ("row", "named_in_error"),
    [
        ({**STEP, "step": "x"}, "step = 'x'"),
        ({**STEP, "loss": "0.5"}, "loss = '0.5'"),
        ({**STEP, "seconds": [1]}, "seconds"),
        ({**STEP, "gradient_cosine": {"a": 0.5}}, "gradient_cosine"),
        ({**SCORED, "domains": [1]}, "domains"),
        ({**SCORED, "domains": {"a": {"pass_rate": "high"}}}, "domains.a.pass_rate = 'high'"),
        ({**SAMPLE, "student": []}, "one number for each token"),
        ({**SAMPLE, "teachers": None}, "no teacher"),
        ({**SAMPLE, "own": ["stranger"]}, "no teacher"),
        ({key: value for key, value in SAMPLE.items() if key != "tokens"}, "tokens is missing"),
        ({key: value for key, value in STEP.items() if key != "stage"}, "stage"),
    ],
)
def test_a_row_that_no_trainer_writes_is_said(
    tmp_path: Path, row: dict[str, Any], named_in_error: str
) -> None:
    path = tmp_path / "log"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=re.escape(named_in_error)) as error:
        list(rows_of(path, of_run=True))
    assert str(path) in str(error.value) and "changed since it was written" in str(error.value)


def test_a_stage_with_more_teachers_than_names_is_said() -> None:
    with pytest.raises(UsageError, match="names 1 teachers of 2"):
        named({"kind": "sample", "teachers": [[-1.0], [-2.0]], "own": [1]}, ["a"])


DONE = {
    "kind": "rl",
    "domains": {"a": {"pass_rate": 0.5, "se": None}},
    "flops": dict.fromkeys(PHASES, 1.0),
    "seconds": dict.fromkeys(PHASES, 0.5),
    "peak_memory_bytes": 1,
    "steps": 2,
    "tokens": {"generated": {"a": 3}},
    "wall_seconds": 2.0,
}
WHOLE = {
    "run": "x", "seconds": 1.0, "weights_sha256": "0", "stages": {"student": DONE},
    "scores": {"a": {"start": 0.25, "final": 0.5, "se": 0.1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named_in_error"),
    [
        ({"stages": {}}, "stages = {}"),
        ({"stages": {"student": 3}}, "stages.student = 3"),
        ({"stages": {"student": {**DONE, "domains": {"a": 3}}}}, "stages.student.domains.a = 3"),
        (
            {"stages": {"student": {**DONE, "flops": {"training": 1.0}}}},
            "stages.student: flops and seconds are not",
        ),
        (
            {"stages": {"student": {**DONE, "domains": {"a": {"pass_rate": 1.0}, "b": {}}}}},
            "stages.student: its domains",
        ),
        ({"scores": {"a": {"start": math.nan, "final": 1.0, "se": 0.1}}}, "scores.a.start = nan"),
        ({"stages": {"student": {**DONE, "wall_seconds": "1"}}}, "stages.student.wall_seconds = '1'"),
        ({"scores": {"a": {"start": 0.25, "final": "x", "se": 0.1}}}, "scores.a.final = 'x'"),
        ({"scores": {"a": {"start": 0.25}}}, "scores.a.final is missing"),
    ],
)
def test_a_summary_changed_by_hand_is_said(change: dict[str, Any], named_in_error: str) -> None:
    assert checked_summary(WHOLE, Path("summary.json")) == WHOLE
    with pytest.raises(UsageError, match=rf"summary.json: {re.escape(named_in_error)}"):
        checked_summary({**WHOLE, **change}, Path("summary.json"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("runs",), 3),
        (("runs", "RUN", "seed"), "7"),
        (("stages", "STAGE", "flops"), "1"),
        (("prediction_sha256",), None),
        *(((name,), GONE) for name in ("date", "scale", "prediction_sha256", "study")),
        *((("runs", "RUN", name), GONE) for name in ("output", "document")),
        (("stages", "STAGE", "wall_seconds"), GONE),
    ],
)
def test_a_studys_manifest_changed_by_hand_is_said(place: tuple[str, ...], value: Any) -> None:
    path = Path(__file__).parents[3] / "studies" / "results" / "order" / "manifest.json"
    whole = json.loads(path.read_text())
    assert checked_manifest(whole, path, of_study=True) == whole
    given = {"RUN": next(iter(whole["runs"])), "STAGE": next(iter(whole["stages"]))}
    *above, last = [given.get(name, name) for name in place]
    table = whole
    for name in above:
        table = table[name]
    del table[last]
    if value is not GONE:
        table[last] = value
    said = ".".join([*above, last]) + (" is missing: add it" if value is GONE else f" = {value!r}")
    with pytest.raises(UsageError, match=rf"manifest.json: {re.escape(said)}"):
        checked_manifest(whole, path, of_study=True)
