"""The one executor and what it shows: a worker that is killed, one that fails, and no silence."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from small_world import SETTINGS, Recorder, job_of, shrunk, timeless

from mopdsim.base.errors import MopdError
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE, Distill, Rl, Teacher
from trainer.runs.execute import carry_out, execute
from trainer.runs.plan import Node, Plan, plan
from trainer.runs.pools import Event, Here, LocalPool
from trainer.runs.progress import Progress
from trainer.runs.store import Store
from trainer.runs.worker import run_job, run_stage
from trainer.stages.job import Note

pytestmark = pytest.mark.usefixtures("one_thread")


def planned(specs: dict[str, str], model: Path, root: Path, **changes: Any) -> Plan:
    recipe = shrunk(catalogue.recipe("mixed_rl", [specs["low"]]), steps=6, **changes)
    return plan({"run": recipe}, model=str(model), settings=SETTINGS, store=Store(root=root))


class Lagging(Here):
    """This process, which says that stages are finished when it has nothing else to do."""

    workers = 9

    def __init__(self, root: Path) -> None:
        super().__init__(root, lambda key, note: None)
        self.begun, self.said = list[str](), list[Event]()
        self.nodes, self.finished = list[Node](), list[Event]()

    def submit(self, node: Node) -> None:
        self.nodes.append(node)
        self.begun.append(node.label.rpartition("/")[2])

    def next(self) -> Event:
        if not self.said and self.nodes:
            node = self.nodes.pop(0)
            notes: list[Note] = []
            summary = run_job(node.job, node.made_from, self.root, notes.append)
            self.said = [Event(key=node.key, kind="note", payload=note) for note in notes]
            self.finished.append(Event(key=node.key, kind="finished", payload=summary))
        if self.said:
            return self.said.pop(0)
        self.begun.append("")
        return self.finished.pop(0)


def test_a_stage_begins_when_the_weights_it_needs_are_there_scored_or_not(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    recipe = shrunk(catalogue.recipe("mopd", list(small.values())), steps=1)
    store = Store(root=tmp_path)
    whole = plan({"run": recipe}, model=str(model), settings=SETTINGS, store=store)
    pool = Lagging(store.root)
    outcome = carry_out(whole, store, pool, Progress(quiet=True), raising=True)
    stages = [stage.name for stage in recipe.stages]
    assert pool.begun == [BASE, *stages, *[""] * (1 + len(stages))]
    assert outcome.summaries.keys() == set(whole.node) and all(map(store.finished, whole.node))


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint_and_ends_as_an_unbroken_one(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    whole = planned(small, model, tmp_path / "killed")
    store, key = Store(root=tmp_path / "killed"), whole.keys["run"]["mixed"]
    pool, recorder, killed = LocalPool(2, store.root), Recorder(), []
    following = recorder.advance

    def advance(which: str, note: Note, **named: Any) -> None:
        following(which, note, **named)
        if which == key and not killed and list((store.directory(key) / "checkpoints").glob("step_*")):
            killed.append(note.text)
            os.kill(dict(pool.running.values())[key].pid, signal.SIGKILL)

    recorder.advance = advance  # type: ignore[method-assign]
    try:
        outcome = carry_out(whole, store, pool, recorder, raising=True)
    finally:
        pool.close()
    straight = Store(root=tmp_path / "straight")
    found = execute(planned(small, model, straight.root), straight, workers=1, progress=Progress(quiet=True))
    assert len(killed) == 1
    assert timeless(outcome.summaries[key]) == timeless(found[key])
    one, other = (place.weights(key) / "model.safetensors" for place in (store, straight))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_what_a_stage_raises_in_a_worker_is_raised_here(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    store = Store(root=tmp_path)
    with pytest.raises(MopdError, match=r"loss|gradient|finite"):
        execute(
            planned(small, model, tmp_path, learning_rate=1e30),
            store,
            workers=2,
            progress=Progress(quiet=True),
        )


def test_every_step_and_every_evaluation_says_where_it_stands(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    weights = {BASE: model, "a": model}
    low = small["low"]
    teachers = (Teacher(stage="a", domains=(low,)),)
    stages = {
        "reward": Rl(name="rl", domains={low: 1.0}),
        "KL": Distill(name="student", domains={low: 1.0}, teachers=teachers),
    }
    for figure, stage in stages.items():
        notes: list[Note] = []
        job = job_of(stage, weights, tmp_path / figure, domains=[low], steps=3, rollouts_per_prompt=4)
        run_stage(job, notes.append)
        done = [note.done for note in notes]
        assert done == sorted(done) and done[-1] == 1
        steps = [note.text for note in notes if "tokens/s" in note.text]
        assert len(steps) == 3 and all(figure in text for text in steps)
        assert any("scores validation" in note.text for note in notes)
        assert any("scores test" in note.text for note in notes)
        assert all("of 3, " in text for text in steps)

    notes = []
    capped = {"steps": 10_000, "max_flops": 1.0, "rollouts_per_prompt": 4}  # the first step reaches it
    run_stage(job_of(stages["reward"], weights, tmp_path / "capped", domains=[low], **capped), notes.append)
    assert any(note.text.startswith("step 1, 100% done, reward") for note in notes)


def test_work_that_says_nothing_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    progress, shown = Progress(every=0.05), ""
    with progress.watching():
        progress.doing("reads a model", "of 7 GB")
        deadline = time.monotonic() + 30
        while shown.count("reads a model") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            shown += capsys.readouterr().err
    assert shown.count("reads a model                of 7 GB") >= 2 and "s so far" in shown
    assert Progress().every <= 20


def test_remaining_time_follows_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(quiet=True)
    progress.start({"a": 3.0, "b": 1.0})
    assert progress.remaining() == ""
    progress.advance("a", Note(done=0.5, text=""), label="a")
    now = 60.0
    assert progress.share == pytest.approx(0.375) and progress.remaining() == "about 2 min left"
