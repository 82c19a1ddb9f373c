"""Several processes against one: the same samples, gradients and weights; and a run of two that is killed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ranks import watched
from small_world import SETTINGS, distance, job_of, shrunk, timeless, write_model
from torch import nn

from mopdsim.base.errors import UsageError
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.stage import BASE, AnyStage, Distill, Preference, Rl, Sft, Teacher
from trainer.model import processes

pytestmark = pytest.mark.usefixtures("one_thread")
SUPPORT = Path(__file__).parents[2] / "support"


def stages(low: str, high: str) -> dict[str, AnyStage]:
    both = {low: 2.0, high: 1.0}
    teachers = (Teacher(stage="a", domains=(low, high)), Teacher(stage="b", domains=(high,)))
    return {
        "sft": Sft(name="sft", domains={"sort": 1.0, "guess": 1.0}),
        "grpo": Rl(name="grpo", domains=both, kl_coefficient=0.1, advantage_scale="domain"),
        "ppo": Rl(name="ppo", domains=both, algorithm="ppo", kl_coefficient=0.1, updates_per_batch=2),
        "distill": Distill(name="student", domains=both, teachers=teachers, reward_mix=0.3),
        "off-policy": Distill(name="off", domains=both, teachers=teachers, on_policy=False),
        "dpo": Preference(name="dpo", domains=both),
    }


def launched(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", stages("a", "b"))
def test_two_processes_do_what_one_does(
    small: dict[str, str], model: Path, tmp_path: Path, kind: str
) -> None:
    weights = {
        BASE: model,
        "a": write_model(tmp_path / "a", seed=2),
        "b": write_model(tmp_path / "b", seed=3),
    }
    stage = stages(small["low"], small["high"])[kind]
    settings = SETTINGS.model_copy(update={"diagnose_every": 2})
    jobs = {}
    for count in (1, 2):
        jobs[count] = job_of(
            stage,
            weights,
            tmp_path / str(count) / "stage",
            domains=list(stage.domains),
            settings=settings.model_copy(update={"processes": count}),
            key="stage",
            steps=5,
            prompts_per_step=7,
            rollouts_per_prompt=1 if kind == "sft" else 4,
            learning_rate=1e-3,
        )
    given, out = tmp_path / "job", tmp_path / "out.pt"
    given.write_bytes(pickle.dumps(jobs[2]))
    assert launched([str(SUPPORT / "ranks.py"), str(given), str(out)]).wait() == 0
    one, two = watched(jobs[1], tmp_path / "1"), torch.load(out, weights_only=False)
    assert len(one["steps"]) == len(two["steps"]) == (10 if kind == "ppo" else 5)
    for first, second in zip(one["steps"], two["steps"], strict=True):
        assert torch.equal(first["response"], second["response"])  # the same samples
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5, abs=1e-6)
    before, after = one["steps"][0]["gradient"], two["steps"][0]["gradient"]
    assert distance(before, after) < 5e-6  # float32 sums in another order: some 5e-7
    assert distance(one["weights"], two["weights"]) < 1e-6
    for name in ("flops", "tokens", "steps"):
        assert one["summary"][name] == two["summary"][name]
    logs = [(tmp_path / str(count) / "stage" / "metrics.jsonl").read_text() for count in (1, 2)]
    assert logs[0].count("\n") == logs[1].count("\n") > 5


def command(recipe: Path, model: Path, out: Path) -> list[str]:
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1, "evaluate_every": 100})
    options = ["--model", str(model), "--out", str(out), "--processes", "2"]
    for name, value in settings.model_dump(exclude_defaults=True).items():
        options += ["--setting", f"{name}={json.dumps(value)}"]
    return [sys.executable, "-m", "trainer", "run", str(recipe), *options]


@pytest.mark.slow
def test_a_run_of_two_that_is_killed_ends_as_an_unbroken_one(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    """First one process, which is taken up again by itself; then all, which `resume` goes on from."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_file.dump(shrunk(catalogue.recipe("mixed_rl", [small["low"]]), steps=40)))
    unbroken, out = tmp_path / "unbroken", tmp_path / "killed"
    subprocess.run(command(recipe, model, unbroken), check=True, capture_output=True)
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(command(recipe, model, out), stdout=said, stderr=said)

    def killed_after(steps: int, *, all_of_them: bool) -> None:
        deadline = time.monotonic() + 200
        while not any(int(path.name[5:]) >= steps for path in out.glob("store/*/checkpoints/step_*")):
            assert run.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.01)
        family = psutil.Process(run.pid).children(recursive=True)
        ranks = [process for process in family if "trainer" in process.cmdline()]
        for process in [psutil.Process(run.pid), *family] if all_of_them else ranks[-1:]:
            process.kill()

    killed_after(3, all_of_them=False)
    killed_after(12, all_of_them=True)
    run.wait()
    subprocess.run([sys.executable, "-m", "trainer", "resume", str(out)], check=True, capture_output=True)
    assert "attempt 2 goes on" in (tmp_path / "said").read_text()
    documents = [timeless(json.loads((place / "summary.json").read_text())) for place in (unbroken, out)]
    assert documents[0] == documents[1]
    one, other = (place / "weights" / "model.safetensors" for place in (unbroken, out))
    assert one.read_bytes() == other.read_bytes()


def test_the_number_of_processes_is_part_of_a_key_where_there_are_several() -> None:
    assert "processes" not in SETTINGS.keyed()
    assert SETTINGS.model_copy(update={"processes": 2}).keyed()["processes"] == 2


def test_another_number_than_was_started_is_refused() -> None:
    with (
        pytest.raises(UsageError, match=r"processes = 2, but 1 were started.*--processes 2"),
        processes.joined(2, "cpu"),
    ):
        pass


def test_sharded_weights_are_refused() -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(2, 2))
    processes.check_whole(model)
    init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UsageError, match=r"parameter '0.weight' is sharded over processes.*without FSDP"):
            processes.check_whole(model)
    finally:
        destroy_process_group()


def test_shares_are_whole_groups_and_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, rows, group in ((2, 28, 4), (3, 8, 4), (5, 6, 2)):
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        shares = []
        for rank in range(count):
            monkeypatch.setattr(processes.distributed, "get_rank", lambda rank=rank: rank)
            shares.append(processes.share_of(rows, group))
        assert shares[0].start == 0 and shares[-1].stop == rows
        assert all(a.stop == b.start for a, b in pairwise(shares))
        assert all(share.start % group == 0 for share in shares)
