"""The pace of the trainer's phases on this machine: every kind, size and batch is a row; how fast is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from trainer.bench import pace
from trainer.bench.pace import bench_pace
from trainer.cli import app

SMALL = {"2": {"hidden": 16, "layers": 2, "heads": 2}, "3": {"hidden": 32, "layers": 3, "heads": 2}}


@pytest.mark.slow
def test_a_row_is_one_step_of_a_real_stage() -> None:
    found = bench_pace("cpu", shapes={"2": SMALL["2"]}, sequences=(8,), steps=1)
    rows = {row["kind"]: row for row in found["rows"]}
    assert list(rows) == ["sft", "rl", "distill"] and len(found["rows"]) == 3  # no warm-up among them
    assert set(rows["sft"]["seconds"]) == {"training"}
    assert set(rows["rl"]["seconds"]) == {"generation", "training"}
    assert set(rows["distill"]["seconds"]) == {"generation", "scoring", "training"}
    for row in rows.values():
        assert all(value > 0 for value in (*row["seconds"].values(), *row["flops"].values()))
        assert 1 <= row["response_tokens"] <= row["longest"]
    flops = rows["distill"]["flops"]
    assert flops["training"] == pytest.approx(3 * flops["generation"]) and rows["distill"]["teachers"] == 3
    assert found["models"]["2"]["hidden_size"] == 16 and found["threads"] == 1
    assert {"torch", "transformers"} <= set(found["versions"])


@pytest.mark.slow
def test_the_command_writes_rows_and_their_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "CPU", SMALL)
    monkeypatch.setattr(pace, "SEQUENCES", {"cpu": (8, 16)})
    monkeypatch.setattr(pace, "STEPS", 1)
    out, threads = tmp_path / "pace.json", torch.get_num_threads()
    done = CliRunner().invoke(app, ["pace", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 2 * 3 * 2 and set(found["pace"]["left_out"]) == set(SMALL)
    assert "2 left out: generation" in done.output
    assert torch.get_num_threads() == threads


def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = CliRunner().invoke(app, ["pace", "--device", "cuda", "--out", str(tmp_path / "pace.json")])
    assert "PyTorch sees no GPU here" in str(done.exception)
