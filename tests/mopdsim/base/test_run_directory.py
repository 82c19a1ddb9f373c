"""Logs of a run, whole or half written, as the trainer and the app read them."""

from __future__ import annotations

from pathlib import Path

from mopdsim.base.run_directory import named, rows_of

ROWS = b'{"kind": "step", "step": 0}\n{"no": "kind"}\n[1]\n{"kind": "step", "step": 1}\n{"kind": "st'


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
