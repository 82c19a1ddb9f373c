"""Out and back with TRL itself: two specialists and a student, two steps each, and their logs beside the forecast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from trainer.model.tiny import init_model

RECIPE = Path(__file__).with_name("two_teachers.toml")
REWARD = '''"""The share of the answer's letters that the response has: a random model gets some of it."""


def grade(response, answer, row):
    return len(set(response) & set(answer)) / len(set(answer))
'''


def mopd(*arguments: object) -> str:
    command = [sys.executable, "-m", "mopdsim.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_trl_runs_what_is_exported_and_its_logs_come_back(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the extra `dev` brings trl")
    pytest.importorskip("datasets", reason="the extra `hf` brings datasets")
    base, out = tmp_path / "base", tmp_path / "out"
    init_model(base, seed=0, hidden=32, layers=2, heads=4)
    (tmp_path / "reward.py").write_text(REWARD)
    own = f'reward = "{tmp_path}/reward.py:grade"\n'
    (tmp_path / "tasks.toml").write_text(f"[sort]\n{own}[reverse]\n{own}")
    mopd("export", RECIPE, "--to", "trl", "--model", base, "--tasks", tmp_path / "tasks.toml", "--out", out)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(Path.cwd()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", str(out / "run_all.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    stages = ["teacher_sort", "teacher_reverse", "half", "student"]
    start = load_file(base / "model.safetensors")
    for name in stages:
        assert (out / name / "DONE").exists()
        trained = load_file(out / name / "weights" / "model.safetensors")
        assert trained.keys() == start.keys()
        assert any(not trained[key].equal(start[key]) for key in start), name
    found = json.loads(mopd("import", out, "--out", tmp_path / "observations.csv", "--json"))
    runs = {run["stage"]: run for run in found["runs"]}
    assert list(runs) == stages
    for name, run in runs.items():
        assert run["engine"] == "trl" and run["steps"] == {"work": 1, "warm-up": 1, "evaluation": 0}
        assert run["median"]["step_s"] > 0 and 1 <= run["median"]["mean_tokens"] <= 16
        step = run["forecast"]["rows"]["step"]
        assert step["measured"] == run["median"]["step_s"] and 0 <= step["place"] <= 1
        assert ("score" in run["median"]) == name.startswith("teacher")
    again = subprocess.run(
        ["bash", str(out / "run_all.sh")], env=environment, capture_output=True, check=False
    )
    assert again.returncode == 0 and not again.stdout
