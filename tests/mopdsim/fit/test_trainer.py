"""The pace of the project's own trainer: planted constants are recovered, and what ships is what its studies give."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

from mopdsim.cost.own_trainer import seconds_per_flop, step_fixed_s
from mopdsim.facts.model import model
from mopdsim.fit.trainer import KINDS, StageRun, design, document, fit, stages

SIZES = ("tiny", "tiny-large", "tiny-xlarge", "tiny-10M")


def test_planted_constants_are_recovered() -> None:
    truth = np.array([0.002, 0.006, 0.01, 3e-3, 0.8, 1.4, 1.1])
    rng = np.random.default_rng(0)
    rows = [
        StageRun(kind=kind, model=name, flops=float(np.exp(rng.normal(np.log(5e9), 1.0))), seconds=1.0)
        for kind in KINDS
        for name in SIZES
        for _ in range(20)
    ]
    noisy = design(rows) @ truth * np.exp(0.05 * rng.standard_normal(len(rows)))
    noisy[::20] *= 3.0  # a busy machine now and then
    found = fit(
        [
            StageRun(kind=row.kind, model=row.model, flops=row.flops, seconds=float(seconds))
            for row, seconds in zip(rows, noisy, strict=True)
        ]
    )
    np.testing.assert_allclose(found, truth, rtol=0.2)


def test_what_ships_is_what_the_studies_give() -> None:
    shipped = json.loads(files("mopdsim").joinpath("data", "trainer.json").read_text(encoding="utf-8"))
    assert document(stages()) == shipped


def test_sizes_left_out_of_the_fit_are_forecast() -> None:
    """RL and fine-tuning within a quarter, within a fifth in the middle of the sizes; distillation within a half."""
    left_out = document(stages())["left_out"]
    assert set(left_out) == set(SIZES)
    for name, kinds in left_out.items():
        inside = name not in (SIZES[0], SIZES[-1])
        for kind in ("sft", "rl"):
            assert kinds[kind]["median_error"] < (0.2 if inside else 0.25)
        assert kinds["distill"]["median_error"] < 0.5


def test_a_wider_model_computes_faster_and_a_deeper_one_launches_more() -> None:
    small, wide = model("tiny"), model("tiny-10M")
    assert seconds_per_flop("rl", wide) < 0.4 * seconds_per_flop("rl", small)
    assert step_fixed_s("rl", small) == pytest.approx(step_fixed_s("rl", wide))  # three layers each
    assert step_fixed_s("distill", small) > step_fixed_s("sft", small)
