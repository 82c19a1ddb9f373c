"""Numbers of three steps of every loop, frozen with the loop's ALGORITHM_VERSION.

A change of a loop that moves its numbers must raise the version, or stores would mix stages of both. To renew the
file after that: PYTHONPATH=.:tests/support python tests/trainer/runs/test_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import SETTINGS, job_of, plain_model, run_watched, steps_in, write_domains, write_model

from mopdsim.recipes.stage import (
    BASE,
    AnyStage,
    Distill,
    Merge,
    Preference,
    RejectionSampling,
    Rl,
    Sft,
    Teacher,
)
from trainer.runs.worker import ALGORITHM_VERSIONS

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-4  # relative, for other CPUs
LOGGED = (
    "loss",
    "grad_norm",
    "learning_rate",
    "reward",
    "zero_signal",
    "entropy",
    "accuracy",
    "nll",
    "flops",
)


def stages(low: str, high: str) -> dict[str, AnyStage]:
    """A stage of every loop, together touching most settings."""
    both = {low: 2.0, high: 1.0}
    teachers = (Teacher(stage="a", domains=(low, high)), Teacher(stage="b", domains=(high,), weight=0.5))
    on_policy = Distill(
        name="on_policy",
        domains=both,
        teachers=teachers,
        balance="remaining_gap",
        reward_mix=0.5,
        misrouting=0.0,
    )
    return {
        "sft": Sft(name="tuned", domains={"sort": 2.0, "guess": 1.0}),
        "rl": Rl(name="trained", domains=both, kl_coefficient=0.1, curriculum="signal", updates_per_batch=2),
        "distill on-policy": on_policy,
        "distill off-policy": Distill(
            name="off", domains=both, teachers=teachers, on_policy=False, loss="forward_kl"
        ),
        "distill samples": Distill(
            name="samples",
            domains=both,
            teachers=teachers,
            on_policy=False,
            loss="sample_nll",
            correct_only=True,
        ),
        "preference": Preference(name="preferred", domains=both, noise=0.2, likelihood_weight=0.2),
        "rejection sampling": RejectionSampling(name="kept", domains=both, keep="passed"),
        "merge": Merge(name="merged", inputs=("a", "b"), method="ties", scale=0.7, density=0.4),
    }


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """What every loop does in three steps from models and prompts that never change."""
    specs = write_domains(folder)
    weights = {name: write_model(folder / name, seed=seed) for name, seed in ((BASE, 1), ("a", 2), ("b", 3))}
    low, high = specs["low"], specs["high"]
    found = {}
    for name, stage in stages(low, high).items():
        job = job_of(
            stage,
            weights,
            folder / name,
            domains=list(getattr(stage, "domains", {"sort": 1.0})),
            settings=SETTINGS,
            key=f"golden/{name}",
            steps=3,
            prompts_per_step=8,
            rollouts_per_prompt=1 if name.startswith("sft") else 4,
            learning_rate=0 if isinstance(stage, RejectionSampling) else 5e-3,
        )
        _, rows = run_watched(job)
        steps = [{key: row[key] for key in LOGGED if key in row} for row in steps_in(rows)]
        found[name] = {
            "algorithm_version": ALGORITHM_VERSIONS[stage.kind],
            "steps": steps,
            "scores": list(rows[-1]["domains"].values()),
        }
        if (job.directory / "weights").exists():
            parameters = plain_model(job.directory / "weights").parameters()
            size = sum(float(tensor.detach().double().abs().sum()) for tensor in parameters)
            found[name]["sum_of_absolute_weights"] = size
    return found


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    import torch

    torch.set_num_threads(1)
    return measured(tmp_path_factory.mktemp("golden"))


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Where two documents of numbers differ by more than the tolerance."""
    if isinstance(before, dict) and isinstance(after, dict):
        if set(before) != set(after):
            return [f"{place}: keys {sorted(set(before) ^ set(after))}"]
        return [found for key in before for found in differences(before[key], after[key], f"{place}/{key}")]
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return [f"{place}: {len(before)} and {len(after)} entries"]
        pairs = enumerate(zip(before, after, strict=True))
        return [found for n, (x, y) in pairs for found in differences(x, y, f"{place}/{n}")]
    return (
        []
        if after == pytest.approx(before, rel=TOLERANCE, abs=1e-6)
        else [f"{place}: {before} became {after}"]
    )


@pytest.mark.parametrize("name", list(stages("low", "high")))
def test_the_numbers_of_a_loop_move_only_with_its_version(now: dict[str, dict[str, Any]], name: str) -> None:
    frozen = json.loads(GOLDEN.read_text())[name]
    version = now[name]["algorithm_version"]
    assert frozen["algorithm_version"] == version, (
        f"{name}: ALGORITHM_VERSION is {version}, golden.json holds the numbers of version "
        f"{frozen['algorithm_version']}: renew it as this file's first lines say"
    )
    moved = differences(frozen, now[name])
    assert not moved, (
        f"{name}: the same version gives other numbers, so stores would mix old and new stages: raise "
        f"ALGORITHM_VERSION of the loop and renew the file as this one's first lines say; first of "
        f"{len(moved)} differences: {moved[0]}"
    )


def test_the_frozen_numbers_are_those_of_these_loops() -> None:
    assert list(json.loads(GOLDEN.read_text())) == list(stages("low", "high"))


if __name__ == "__main__":
    import tempfile

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        GOLDEN.write_text(json.dumps(measured(Path(place)), indent=1) + "\n")
