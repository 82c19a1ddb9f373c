"""Errors that peers make without a word: those whose tests stand nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_world import job_of, run_watched, steps_in

from mopdsim.recipes.stage import BASE, Distill, Teacher
from trainer.files.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")


def teach(small: dict[str, str], **options: Any) -> Distill:
    low = small["low"]
    return Distill(
        name="student", domains={low: 1.0}, teachers=(Teacher(stage="a", domains=(low,)),), **options
    )


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from small_world import write_model

    return {BASE: model, "a": write_model(tmp_path_factory.mktemp("teacher"), seed=2)}


def test_a_loss_is_a_mean_whatever_the_size_of_the_batch(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    """The reported loss of 4 and of 64 prompts is of one size: that of the KL a token."""
    losses = {}
    for prompts in (4, 64):
        job = job_of(
            teach(small), weights, tmp_path / str(prompts), domains=[small["low"]], prompts_per_step=prompts
        )
        (step,), rows = run_watched(job)
        (row,) = steps_in(rows)
        losses[prompts] = step.loss
        assert step.loss == pytest.approx(row["domains"][small["low"]]["kl"], rel=1e-5)
    assert losses[4] == pytest.approx(losses[64], rel=0.5)


def test_the_mass_inside_the_top_k_is_logged(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    stage = teach(small, loss="top_k_reverse_kl", top_k=4)
    _, rows = run_watched(job_of(stage, weights, tmp_path, domains=[small["low"]]))
    row = steps_in(rows)[0]["domains"][small["low"]]
    assert 0 < row["teacher_mass"] < 1 and 4 / 102 < row["student_mass"] < 1


def test_truncated_sampling_is_no_setting() -> None:
    for key in ("top_k", "top_p"):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            Settings.model_validate({key: 1})
    with pytest.raises(ValidationError, match="greater than 0"):
        Settings(temperature=0.0)
