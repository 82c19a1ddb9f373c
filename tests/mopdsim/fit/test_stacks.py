"""The fit of stacks recovers factors that were planted, shrinks a stack with one run, and shrugs off an outlier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.fit.stacks import LAUNCHES, Run, fit


def planted(factors: dict[str, float], projects: int, *, within: float = 0.1) -> list[Run]:
    rng = np.random.default_rng(0)
    found = []
    for name, value in factors.items():
        for number in range(projects):
            off = value + within * rng.standard_normal()
            found.append(
                Run(
                    project=f"{name}{number}",
                    stack=name,
                    gpu="H100",
                    own=(off,) * len(LAUNCHES),
                    unnamed=(off,) * len(LAUNCHES),
                    log_sd=0.05,
                )
            )
    return found


def test_planted_factors_are_recovered() -> None:
    truth = {"megatron": 0.0, "verl": 0.6, "fsdp": 1.0, "hugging_face": 0.8}
    found = fit(planted(truth, 12))["stacks"]
    for name, value in truth.items():
        assert found[name]["log_bias"] == pytest.approx(value, abs=0.12)
        assert found[name]["log_sd"] < found["unknown"]["log_sd"]
    assert found["unknown"]["log_bias"] == pytest.approx(0.6, abs=0.15)


def test_a_stack_with_one_run_is_drawn_to_the_others() -> None:
    runs = planted({"verl": 0.5, "fsdp": 0.5}, 8) + planted({"hugging_face": 1.5}, 1)
    found = fit(runs)["stacks"]
    assert 0.5 < found["hugging_face"]["log_bias"] < 1.5
    assert found["hugging_face"]["log_sd"] > found["verl"]["log_sd"]


def test_one_run_far_out_moves_little() -> None:
    runs = planted({"verl": 0.5, "fsdp": 0.5}, 8)
    wild = replace(planted({"verl": 4.0}, 1)[0], project="wild")
    moved = fit([*runs, wild])["stacks"]["verl"]["log_bias"] - fit(runs)["stacks"]["verl"]["log_bias"]
    assert abs(moved) < 0.2


def test_the_launches_under_which_runs_agree_are_chosen() -> None:
    short = [
        Run(project=f"p{i}", stack="fsdp", gpu="H100", own=(1.5, 0.9, 0.5, 0.1), unnamed=(0.0,) * 4, log_sd=0.05)
        for i in range(4)
    ]  # fmt: skip
    long = planted({"fsdp": 0.5}, 6)
    assert fit([*short, *long])["launch_layer_s"] == LAUNCHES[2]
