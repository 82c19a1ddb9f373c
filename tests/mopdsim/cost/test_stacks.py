"""Stacks: what was fitted, what a project left out changes, and files of own measurements that are damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.cost.constants import MECHANISMS, fitted, read_measured, stack


@pytest.mark.parametrize("name", sorted(MECHANISMS))
def test_every_stack_has_a_factor(name: str) -> None:
    found = stack(name)
    assert found.title and 0.05 < found.log_sd < 1.0 and abs(found.log_bias) < 1.0
    assert 1e-3 < found.launch_layer_s < 0.02


def test_any_stack_is_less_sure_than_a_named_one_with_many_runs() -> None:
    assert stack("unknown").log_sd > max(stack("verl").log_sd, stack("fsdp").log_sd)


def test_a_project_that_was_fitted_can_be_left_out() -> None:
    assert {run["project"] for run in fitted()["residuals"]} <= set(fitted()["without"])
    assert stack("verl", without="ProRL") != stack("verl")
    assert stack("verl", without="nobody's") == stack("verl")


def test_a_stack_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match=r"'megatrom'.*did you mean 'megatron'"):
        stack("megatrom")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "mopd calibrate cost"),
        (json.dumps({"schema": 1, "kinds": {}}), "not a measured stack"),
        (
            json.dumps({"schema_version": 9, "stack": "verl", "log_bias": 0, "log_sd": 1}),
            "schema_version 9",
        ),
        (json.dumps({"schema_version": 1, "stack": "verl", "log_bias": 0, "log_sd": 0}), "above 0"),
        *(
            (
                json.dumps({"schema_version": 1, "stack": "verl", "log_bias": 0, "log_sd": 1} | {name: far}),
                "at most 20",
            )
            for name, far in (("log_bias", 1e308), ("log_sd", 1e308), ("log_bias", math.nan))
        ),
        (json.dumps({"schema_version": 1, "stack": "mine", "log_bias": 0, "log_sd": 1}), "'mine'"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_measured(path)
    with pytest.raises(NotFoundError, match="mopd calibrate cost"):
        read_measured(tmp_path / "none.json")
