"""A run that is killed, loses a checkpoint or meets a full disk ends as the unbroken run would have, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from damage import hurt, quota
from small_world import SETTINGS, carry_out, rows_of, shrunk, timeless
from stopping import Stop, stop_after

from mopdsim.base.errors import DivergenceError, Interrupted, MopdError, NotFoundError, UsageError
from mopdsim.recipes import catalogue, recipe_file
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Preference, RejectionSampling, Sft, default_amounts
from trainer.files import checkpoint
from trainer.runs import run as runs
from trainer.runs.execute import execute
from trainer.runs.plan import Node, plan
from trainer.runs.progress import Progress
from trainer.runs.store import Store
from trainer.runs.worker import run_job
from trainer.stages import loop

pytestmark = pytest.mark.usefixtures("one_thread")


def forgetful(specs: dict[str, str], **options: Any) -> Recipe:
    """Distillation whose weights follow what earlier steps measured: all of a loop's memory matters."""
    domains = [specs["low"], specs["high"]]
    return shrunk(
        catalogue.recipe("mopd", domains, balance="remaining_gap", **options), steps=6, prompts_per_step=5
    )


def fed_back(specs: dict[str, str], kind: type[Sft] | type[Preference]) -> Recipe:
    """DPO on a model's own samples, or fine-tuning on those that it kept."""
    shares = dict.fromkeys(specs.values(), 1.0)
    kept = RejectionSampling(name="kept", domains=shares)
    stages = (kept, Sft(name="sft", domains=shares, data=("kept",)))
    chosen = stages if kind is Sft else (Preference(name="dpo", domains=shares),)
    amounts = {stage.name: default_amounts("tiny", stage.kind) for stage in chosen}
    output = chosen[-1].name
    made = Recipe(
        name="fed_back",
        domains=tuple(shares),
        amounts_name="tiny",
        stages=chosen,
        amounts=amounts,
        output=output,
    )
    return shrunk(made, steps=6)


def left_by(out: Path) -> tuple[Any, Any, bytes]:
    """Metrics, summary and weights of a run, the clock aside."""
    summary = json.loads((out / "summary.json").read_text())
    return timeless(rows_of(out)), timeless(summary), (out / "weights" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_at_random_and_in_the_middle_of_saves_it_ends_as_if_unbroken(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = forgetful(small)
    carry_out(recipe, model, tmp_path / "unbroken")
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_file.dump(recipe))
    script = Path(__file__).parents[2] / "support" / "kill_script.py"
    done = subprocess.run(
        [sys.executable, str(script), str(model), str(tmp_path / "killed"), str(file), "0"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    codes = {code for _, code in report["happened"]}
    killed = [what for what, code in report["happened"] if code == -signal.SIGKILL]
    assert codes == {0, -signal.SIGKILL}, (report, done.stderr)
    assert len(killed) >= 10 and len({*killed} - {"at a random moment"}) >= 6, report
    for out in report["outs"]:
        assert left_by(Path(out)) == left_by(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_killed_run_takes_its_workers_with_it_and_resumes(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    """Workers left alone would go on in the store that the resumed run wants."""
    recipe = shrunk(catalogue.recipe("mopd", [small["low"], small["high"]]), steps=25)
    file, out = tmp_path / "recipe.toml", tmp_path / "run"
    file.write_text(recipe_file.dump(recipe))
    options = ["--model", str(model), "--out", str(out), "--workers", "2"]
    quick = SETTINGS.model_copy(update={"evaluate_every": 100, "diagnose_every": 100})
    for name, value in quick.model_dump(exclude_defaults=True).items():
        options += ["--setting", f"{name}={json.dumps(value)}"]
    code = "from mopdsim.cli.main import main; main()"
    with (tmp_path / "stderr").open("w") as heard:
        command = [sys.executable, "-c", code, "train", "run", str(file), *options]
        run = subprocess.Popen(command, stdout=heard, stderr=heard)
    deadline = time.monotonic() + 120
    while not list(out.glob("store/*/checkpoints/step_*")) and time.monotonic() < deadline:
        assert run.poll() is None, (tmp_path / "stderr").read_text()
        time.sleep(0.02)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) >= 3  # two, the server that forks them, and a tracker
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []
    for place in (out, tmp_path / "unbroken"):
        carry_out(recipe, model, place, settings=quick)
    assert left_by(out) == left_by(tmp_path / "unbroken")


# One stage, stopped in this process.


def node_of(recipe: Recipe, model: Path, root: Path, label: str, **changes: Any) -> Node:
    settings = SETTINGS.model_copy(update=changes)
    whole = plan({"run": recipe}, model=str(model), settings=settings, store=Store(root=root))
    before = [node for node in whole.nodes if node.label != f"run/{label}"]
    execute(
        type(whole)(nodes=tuple(before), keys=whole.keys),
        Store(root=root),
        workers=1,
        progress=Progress(quiet=True),
    )
    return next(node for node in whole.nodes if node.label == f"run/{label}")


def finish(node: Node, root: Path) -> tuple[Any, Any, bytes]:
    """Run a stage to its end and read what it left."""
    summary = run_job(node.job, node.made_from, root, lambda done: None)
    place = root / node.key
    weights = (place / "weights" / "model.safetensors").read_bytes()
    return timeless(rows_of(place / "metrics.jsonl")), timeless(summary), weights


STAGES: dict[str, tuple[str, Callable[[dict[str, str]], Recipe]]] = {
    "student": ("student", forgetful),
    "rewarded": ("student", lambda specs: forgetful(specs, reward_mix=0.5, misrouting=0.3)),
    "rl": (
        "mixed",
        lambda specs: shrunk(
            catalogue.recipe("mixed_rl", [*specs.values()], curriculum="signal"), steps=6, prompts_per_step=5
        ),
    ),
    "dpo": ("dpo", lambda specs: fed_back(specs, Preference)),
    "sft on data": ("sft", lambda specs: fed_back(specs, Sft)),
    "off-policy": (
        "student",
        lambda specs: shrunk(catalogue.recipe("off_policy", [*specs.values()]), steps=6),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_a_split_stage_equals_a_straight_one(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Routing, data, balance and curriculum go on where they were."""
    label, make = STAGES[kind]
    recipe, root = make(small), tmp_path / "split"
    node = node_of(recipe, model, root, label)
    shutil.copytree(root, tmp_path / "straight")  # what the stage starts from is made once
    straight = finish(node_of(recipe, model, tmp_path / "straight", label), tmp_path / "straight")
    for saves in (2, 1):
        with monkeypatch.context() as patch:
            stop_after(patch, saves)
            with pytest.raises(Stop):
                run_job(node.job, node.made_from, root, lambda done: None)
    steps = [
        json.loads((path / "state.json").read_text())["step"]
        for path in (root / node.key).glob("checkpoints/*")
    ]
    assert sorted(steps) == [2, 3]
    assert finish(node, root) == straight


@pytest.mark.slow
def test_the_wall_clock_counts_what_earlier_attempts_spent(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, own = node_of(forgetful(small), model, tmp_path, "student"), checkpoint.save

    def slow(*arguments: Any, **named: Any) -> None:
        own(*arguments, **named)
        time.sleep(0.5)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", slow)
        stop_after(patch, 2)
        with pytest.raises(Stop):
            run_job(node.job, node.made_from, tmp_path, lambda done: None)
    before = time.perf_counter()
    summary = run_job(node.job, node.made_from, tmp_path, lambda done: None)
    last = time.perf_counter() - before
    assert last < summary["wall_seconds"] and summary["wall_seconds"] > last + 0.4


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    recipe = forgetful(small)
    straight = finish(node_of(recipe, model, tmp_path / "straight", "student"), tmp_path / "straight")
    root = tmp_path / "damaged"
    node = node_of(recipe, model, root, "student")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stop):
            run_job(node.job, node.made_from, root, lambda done: None)
    hurt(root / node.key / "checkpoints" / "step_00000004" / "model.safetensors", damage)
    assert finish(node, root) == straight


@pytest.mark.slow
@pytest.mark.parametrize("size", [3_000, 30_000])  # too little for the log; too little for a checkpoint
def test_a_full_disk_is_said_and_the_run_goes_on_later(
    small: dict[str, str], model: Path, tmp_path: Path, size: int
) -> None:
    recipe = forgetful(small)
    carry_out(recipe, model, tmp_path / "unbroken")
    out = tmp_path / "full"
    with quota(size), pytest.raises(MopdError, match=r"cannot be written.*free space") as caught:
        carry_out(recipe, model, out, store=tmp_path / "store")
    assert caught.value.exit_code == 1
    assert (out / "STATUS").read_text() == "failed\n"
    carry_out(recipe, model, out, store=tmp_path / "store")
    assert left_by(out) == left_by(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_shortened_log_is_refused_rather_than_padded(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_of(forgetful(small), model, tmp_path, "student")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            run_job(node.job, node.made_from, tmp_path, lambda done: None)
    (tmp_path / node.key / "metrics.jsonl").write_text("")
    with pytest.raises(MopdError, match=r"holds 0 bytes where the checkpoint left \d+"):
        run_job(node.job, node.made_from, tmp_path, lambda done: None)


# What stops a run on purpose.


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_resumes(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = forgetful(small)
    carry_out(recipe, model, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", _terminate_after(3))
        with pytest.raises(Interrupted, match="mopd train resume") as caught:
            carry_out(recipe, model, tmp_path / "run")
    assert caught.value.exit_code == 75
    assert (tmp_path / "run" / "STATUS").read_text() == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    runs.resume(tmp_path / "run", progress=Progress(quiet=True))
    assert left_by(tmp_path / "run") == left_by(tmp_path / "unbroken")


def _terminate_after(calls: int) -> Callable[..., Any]:
    """`trainer.batch.evaluate.evaluate` during whose `calls`-th call this process is sent SIGTERM."""
    own, seen = loop.evaluate, 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*arguments, **named)

    return counted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["student", "rl"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from safetensors.torch import load_file

    label, make = STAGES[kind]
    node = node_of(make(small), model, tmp_path, label)
    own = loop.Trainee.apply

    def broken(trainee: loop.Trainee, loss: float, batch: Any) -> Any:
        return own(trainee, float("nan") if trainee.step >= 2 else loss, batch)

    monkeypatch.setattr(loop.Trainee, "apply", broken)
    with pytest.raises(DivergenceError, match=r"step \d: loss nan.*lower learning_rate") as caught:
        run_job(node.job, node.made_from, tmp_path, lambda done: None)
    assert caught.value.exit_code == 4
    place = tmp_path / node.key
    assert (place / "STATUS").read_text() == "diverged\n"
    kept = sorted(path.name for path in (place / "checkpoints").iterdir())
    assert len(kept) == 2 and kept[1] >= "step_00000002"
    dump = load_file(place / "diverged.safetensors")
    assert dump["response_BT"].shape == dump["trained_BT"].shape and len(dump["reward_B"]) == len(
        dump["prompt_BP"]
    )


def test_weights_that_blow_up_are_a_divergence(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    """For real, and not only through a patched loss: a huge learning rate."""
    recipe = shrunk(catalogue.recipe("mixed_rl", [small["low"]]), steps=6, learning_rate=1e30)
    with pytest.raises(DivergenceError):
        carry_out(recipe, model, tmp_path / "run")
    assert (tmp_path / "run" / "STATUS").read_text() == "failed\n"


def test_a_metric_that_is_not_finite_is_a_divergence(tmp_path: Path) -> None:
    from trainer.files.checkpoint import Log

    with Log(tmp_path / "metrics.jsonl") as log, pytest.raises(DivergenceError, match=r"step 3.*not finite"):
        log.write({"kind": "step", "step": 3, "entropy": float("inf")})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_endless_answers_stop_the_run(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    """The small model never ends its answers: lengths explode, as with another's end-of-sequence id."""
    settings = SETTINGS.model_copy(update={"max_truncation": 0.5})
    recipe = shrunk(catalogue.recipe("mixed_rl", [small["low"]]), steps=12)
    with pytest.raises(MopdError, match=r"were cut off over 10 steps \(limit 50%\).*end-of-sequence"):
        carry_out(recipe, model, tmp_path / "run", settings=settings)


def test_a_run_directory_belongs_to_one_run(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    recipe = shrunk(catalogue.recipe("single_domain", [small["low"]]))
    carry_out(recipe, model, tmp_path / "run", store=tmp_path / "store")
    with pytest.raises(MopdError, match="holds a run of another recipe"):
        carry_out(recipe.scaled(3), model, tmp_path / "run", store=tmp_path / "store")
    with pytest.raises(MopdError, match="holds a run of another recipe, model or settings"):
        other = SETTINGS.model_copy(update={"seed": 2})
        carry_out(recipe, model, tmp_path / "run", store=tmp_path / "store", settings=other)


def test_a_run_whose_files_were_changed_is_not_gone_on_with(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe, out = shrunk(catalogue.recipe("single_domain", [small["low"]])), tmp_path / "run"
    carry_out(recipe, model, out, store=tmp_path / "store")
    (out / "STATUS").write_text("interrupted\n")
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(recipe_file.dump(recipe.scaled(3)))
    with pytest.raises(UsageError, match=r"config.toml: was changed since the run began: bring it back"):
        runs.resume(out, progress=Progress(quiet=True))
    (out / "config.toml").unlink()
    with pytest.raises(NotFoundError, match=r"config.toml: no such file; put the file back"):
        runs.resume(out, progress=Progress(quiet=True))
    (out / "config.toml").write_text(text)
    resolved = json.loads((out / "resolved.json").read_text())
    changes = {"settings": {**resolved["settings"], "seed": 5}, "scale": 2.0, "model": "tiny"}
    for name, value in changes.items():
        (out / "resolved.json").write_text(json.dumps(resolved | {name: value}))
        with pytest.raises(
            UsageError, match=r"resolved.json: was changed since the run began: bring it back"
        ):
            runs.resume(out, progress=Progress(quiet=True))
    (out / "resolved.json").write_text(json.dumps(resolved | {"settings": 3}))
    with pytest.raises(UsageError, match=r"resolved.json: .*: (put the file|bring it) back"):
        carry_out(recipe, model, out, store=tmp_path / "store")
    shutil.move(tmp_path / "store", tmp_path / "moved")
    (out / "resolved.json").write_text(
        json.dumps(resolved | {"workers": 2, "store": str(tmp_path / "moved")})
    )
    runs.resume(out, progress=Progress(quiet=True))  # what changes no number may be edited
    assert not (tmp_path / "store").exists()


def test_a_run_begun_before_a_setting_existed_goes_on(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = shrunk(catalogue.recipe("single_domain", [small["low"]]))
    first = carry_out(recipe, model, tmp_path / "run")
    resolved = json.loads((tmp_path / "run" / "resolved.json").read_text())
    del resolved["settings"]["template_arguments"], resolved["settings"]["processes"]
    (tmp_path / "run" / "resolved.json").write_text(json.dumps(resolved))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["resolved_sha256"]  # which came later too
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))

    again = carry_out(recipe, model, tmp_path / "run")

    assert again["scores"] == first["scores"]
