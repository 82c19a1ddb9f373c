"""The simulator says what it said when it was last recorded: every answer, number by number.

Where numbers change on purpose: python tools/record.py --compare, then python tools/record.py.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SHOWN = 20  # changes of one answer that a failure lists


def _load() -> Any:
    """`tools/record.py`, which is in no package."""
    path = Path(__file__).resolve().parents[1] / "tools" / "record.py"
    spec = importlib.util.spec_from_file_location("record", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


record = _load()
QUESTIONS = record.questions()


def _is_long(command: str) -> bool:
    return command.startswith(("plan", "validate")) or "--all" in command


@cache
def answers() -> dict[str, Any]:
    return record.answers()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if _is_long(command) else [])
        for name, command in QUESTIONS.items()
    ],
)
def test_answers_as_recorded(name: str) -> None:
    found = list(record.changes(answers()[name], record.ask(QUESTIONS[name])))
    listed = "\n".join(str(change) for change in found[:SHOWN])
    assert not found, f"mopd {QUESTIONS[name]}: {len(found)} changes\n{listed}"


def test_every_question_has_an_answer() -> None:
    assert answers().keys() == QUESTIONS.keys()


def test_every_recipe_and_gpu_is_asked_about() -> None:
    asked = {word for command in QUESTIONS.values() for word in command.split()}
    named = {row["name"] for row in answers()["recipes"]}
    answered = {row["gpu"] for row in answers().values() if isinstance(row, dict) and "gpu" in row}
    assert named <= asked
    assert answers()["gpus"].keys() <= answered


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0 + 1e-13]}, []),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0 + 1e-11]}, ["a[1]"]),
        ({"a": 0.0}, {"a": 1e-16}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": {"b": None}}, {"a": {"b": "x"}}, ["a.b"]),
        ({"a": 1}, {"b": 1}, ["a", "b"]),
        ([1, 2], [1], ["[1]"]),
        ({"a": []}, {"a": {}}, ["a"]),
    ],
)
def test_changes_are_found(before: Any, after: Any, paths: list[str]) -> None:
    assert [change.path for change in record.changes(before, after)] == paths
