"""The benchmark measures the same computation on both sides; how fast is not tested."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.batch.score import score
from trainer.batch.update import accumulate_gradients
from trainer.bench import bench, step
from trainer.bench.memory import bench_memory
from trainer.bench.step import DistillStep, Size, reverse_kl

SMALL = Size(hidden=16, feed_forward=24, layers=2, heads=2, key_heads=1, prompts=8, group=4)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (step, bench):
        monkeypatch.setattr(module, "SIZES", {"small": SMALL})
        monkeypatch.setattr(module, "WARM_UP", 1)


@pytest.mark.parametrize(("measure", "rows"), [(bench.bench_distill, 8), (bench.bench_grpo, 8)])
def test_warm_up_and_repeats_are_kept_apart(measure: Callable[..., Any], rows: int) -> None:
    found = measure("small", repeats=2)
    assert found["rows"] == rows
    assert len(found["ours_all_s"]) == 2
    assert len(found["warm_up_s"]) == 1
    assert min(found["ours_all_s"]) <= found["ours_s"] <= max(found["ours_all_s"])
    assert "trl_s" not in found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_trl_computes_the_same_loss_on_its_batch() -> None:
    pytest.importorskip("trl")
    found = bench.bench_distill("small", against="trl", repeats=1)
    assert found["our_loss_on_its_batch"] == pytest.approx(found["trl_first_loss"], rel=1e-4)
    assert found["trl_first_loss"] > 1e-5


def test_without_trl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UsageError, match="extra 'bench'"):
        bench.bench_distill("small", against="trl")


@pytest.mark.parametrize("measure", [bench.bench_distill, bench.bench_grpo, bench_memory])
def test_an_unknown_size_is_refused(measure: Callable[..., Any]) -> None:
    with pytest.raises(NotFoundError, match=r"'smal'.*'small'"):
        measure("smal")


def test_a_reverse_kl_of_several_teachers_reads_each_ones_rows() -> None:
    ours = DistillStep(SMALL)
    rollouts = ours.sample()
    whole, _ = accumulate_gradients(ours.policy, rollouts, ours.loss_of(rollouts))
    halves = [rollouts.rows(slice(0, 4)), rollouts.rows(slice(4, 8))]
    scored = [score(ours.teacher, half) for half in halves]
    split, _ = accumulate_gradients(ours.policy, rollouts, reverse_kl(rollouts, scored))
    assert split == pytest.approx(whole, rel=1e-5)
