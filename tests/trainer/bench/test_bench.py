"""The benchmark measures the same computation on both sides; how fast is not tested."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.batch.score import score
from trainer.batch.update import accumulate_gradients
from trainer.bench import bench, step
from trainer.bench.ledger import WARM_UP, bench_ledger
from trainer.bench.memory import bench_adapters, bench_memory
from trainer.bench.step import DistillStep, Size, reverse_kl
from trainer.model.sources import cached_model

SMALL = Size(hidden=16, feed_forward=24, layers=2, heads=2, key_heads=1, prompts=8, group=4)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "SIZES", {"small": SMALL})
    for module in (step, bench):
        monkeypatch.setattr(module, "WARM_UP", 1)


@pytest.mark.parametrize(("measure", "rows"), [(bench.bench_distill, 8), (bench.bench_grpo, 8)])
def test_warm_up_and_repeats_are_kept_apart(measure: Callable[..., Any], rows: int) -> None:
    found = measure("small", repeats=2)
    assert found["rows"] == rows
    assert len(found["ours_all_s"]) == 2
    assert len(found["warm_up_s"]) == 1
    assert min(found["ours_all_s"]) <= found["ours_s"] <= max(found["ours_all_s"])
    assert "trl_s" not in found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_trl_computes_the_same_loss_on_its_batch() -> None:
    pytest.importorskip("trl")
    found = bench.bench_distill("small", against="trl", repeats=1)
    assert found["our_loss_on_its_batch"] == pytest.approx(found["trl_first_loss"], rel=1e-4)
    assert found["trl_first_loss"] > 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_each_trainer_counts_with_its_best_number_of_threads() -> None:
    pytest.importorskip("trl")
    found = bench.with_threads(bench.bench_grpo, "small", (1, 2, 1), against="trl", repeats=1)
    rows = found["by_threads"]
    assert [rows[count]["threads"] for count in ("1", "2")] == [1, 2] and len(rows) == 2
    best = found["best"]
    assert best["ours_s"] == min(row["ours_s"] for row in rows.values())
    assert best["ratio_to_trl"] == best["ours_s"] / min(row["trl_s"] for row in rows.values())


def test_throughput_counts_the_sampled_tokens_of_each_kind_of_work() -> None:
    found = bench.bench_throughput("small", repeats=2)
    assert set(found["tokens_per_cpu_second"]) == {"generation", "scoring", "training"}
    for row in found["tokens_per_cpu_second"].values():
        assert len(row["all"]) == 2 and row["best"] == max(row["all"]) > 0


@pytest.mark.slow
def test_the_open_model_is_timed_in_bfloat16() -> None:
    if cached_model("smollm2-135m") is None:
        pytest.skip("smollm2-135m is not at hand: mopd train get-model smollm2-135m")
    size = step.size_of("smollm2-135m")
    assert isinstance(size, step.Real) and size.dtype == torch.bfloat16
    own, theirs = size.model(step.STUDENT), size.model(step.TEACHER)
    assert not torch.equal(own.model.norm.weight, theirs.model.norm.weight)
    assert len(size.texts(3)) == 3


@pytest.mark.slow
def test_adapters_are_measured_beside_one_whole_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the measured processes know the real sizes only
    found = bench_adapters("0.36M", teachers=3, rank=2)
    assert found["peak_ratio"] == found["adapters"]["peak_bytes"] / found["whole"]["peak_bytes"] > 0
    assert found["step_ratio"] == found["adapters"]["step_cpu_s"] / found["whole"]["step_cpu_s"] > 0


def test_a_model_that_was_not_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOPD_CACHE", str(tmp_path))
    with pytest.raises(NotFoundError, match="mopd train get-model smollm2-135m"):
        bench.bench_throughput("smollm2-135m")


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
    parts = [rollouts.rows(slice(0, 5)), rollouts.rows(slice(5, 8))]
    scored = [score(ours.teacher, part) for part in parts]
    split, _ = accumulate_gradients(ours.policy, rollouts, reverse_kl(rollouts, scored))
    assert split == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_a_ledger_is_timed_against_the_same_steps_without() -> None:
    found = bench_ledger("small", prompts=6, repeats=2, steps=WARM_UP + 1)
    assert found["steps"] == 2
    assert found["ratio"] == pytest.approx(found["with_cpu_s"] / found["without_cpu_s"])
    assert min(found["with_cpu_s"], found["without_cpu_s"]) > 0
