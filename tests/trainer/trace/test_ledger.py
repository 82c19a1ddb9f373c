"""Level 2 of a trace: the moves in the ledger add up to the student's, and a stop changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_world import SETTINGS, Made, carry_out, distance, logprobs_of, plain_model, shrunk
from stopping import Stop, stop_after
from typer.testing import CliRunner

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Distill
from trainer.model.loading import load_policy, tensors_sha256
from trainer.runs.progress import Progress
from trainer.runs.run import resume
from trainer.trace.cli import app
from trainer.trace.ledger import moves
from trainer.trace.subject import open_run

pytestmark = pytest.mark.usefixtures("one_thread")
CASES: dict[str, dict[str, Any]] = {
    "mopd": {"misrouting": 0.4, "reward_mix": 0.5},
    "off_policy": {"correct_only": False},
    "warmed": {"warmup": True},
}


def kept(name: str, small: dict[str, str], *, ledger: bool = True) -> Recipe:
    """A recipe whose distillations keep a ledger."""
    own = catalogue.recipe({"warmed": "mopd"}.get(name, name), [small["low"], small["high"]], **CASES[name])
    own = shrunk(own, learning_rate=1e-2, steps=3)
    chosen = {
        stage.name: own.amounts[stage.name].model_copy(update={"ledger": ledger})
        for stage in own.stages
        if isinstance(stage, Distill)
    }
    return own.with_amounts(chosen)


@pytest.fixture(scope="module")
def finished(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Finished runs by name; they share a store."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        carry_out(kept(name, small), model, folder / name, store=folder / "store")
        return folder / name

    return Made(make)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_the_moves_add_up_to_the_students(finished: Made, name: str) -> None:
    subject = open_run(finished[name])
    found = moves(subject)
    assert set(found) == {*subject.teachers, *(["reward"] if name == "mopd" else [])}
    start, student = (
        load_file(subject.places[one] / "model.safetensors") for one in (subject.start, subject.student)
    )
    for parameter, before in start.items():
        moved = student[parameter] - before
        added = sum(own[parameter] for own in found.values())
        assert moved.abs().max() > 1e-3
        assert float((moved - added).abs().max()) < 1e-4, parameter  # rounding, of moves of 1e-2 a step
        assert all(own[parameter].abs().max() > 1e-5 for own in found.values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "mopd" else pytest.mark.slow) for name in CASES]
)
def test_a_ledger_changes_the_student_by_rounding_alone(
    finished: Made, small: dict[str, str], model: Path, tmp_path: Path, name: str
) -> None:
    carry_out(kept(name, small, ledger=False), model, tmp_path / name, store=finished[name].parent / "store")
    subject, plain = open_run(finished[name]), open_run(tmp_path / name)
    start, one, other = (
        load_file(place / "model.safetensors")
        for place in (subject.places[subject.start], subject.places["student"], plain.places["student"])
    )
    # As a whole, not weight by weight: AdamW moves even a weight of almost no gradient by almost a full step, so that
    # rounding alone can send a single one elsewhere, and on another processor farther.
    assert distance(one, other) < 1e-3 * distance(start, other)


def test_an_effect_is_the_gradient_of_the_odds_times_the_move(finished: Made) -> None:
    run = finished["mopd"]
    done = CliRunner().invoke(
        app, [str(run), "--prompt", "l01", "--answer", "AZ", "--instead", "ZA", "--by", "ledger", "--json"]
    )
    (answer,) = json.loads(done.stdout)["answers"]
    subject = open_run(run)
    policy = load_policy(subject.places["student"])
    prompt = policy.chat.prompts(["l01"])[0]
    student = plain_model(subject.places["student"])
    said, instead = (
        sum(x_V[token] for x_V, token in zip(logprobs_of(student, prompt, response), response, strict=True))
        for response in policy.chat.turns(["AZ", "ZA"])
    )
    torch.as_tensor(said - instead).backward()
    for name, move in moves(subject).items():
        expected = sum(
            float((parameter.grad * move[key]).sum())
            for key, parameter in student.named_parameters()
            if parameter.grad is not None
        )
        assert abs(expected) > 1e-3
        assert answer["effects"][name] == pytest.approx(expected, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_a_stop_in_between_changes_nothing(
    finished: Made,
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stops = 0
    for attempt in range(12):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            try:
                if attempt:
                    resume(tmp_path / "run", progress=Progress(quiet=True))
                else:
                    carry_out(kept("mopd", small), model, tmp_path / "run")
                break
            except Stop:
                stops += 1
    assert stops >= 3  # each teacher and the student at least once
    one, other = (open_run(run) for run in (finished["mopd"], tmp_path / "run"))
    assert tensors_sha256(one.places["student"]) == tensors_sha256(other.places["student"])
    found, again = moves(one), moves(other)
    assert all(torch.equal(found[name][key], again[name][key]) for name in found for key in found[name])


def test_a_run_without_a_ledger_says_how_to_get_one(
    finished: Made, small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    store = finished["mopd"].parent / "store"
    carry_out(kept("mopd", small, ledger=False), model, tmp_path / "run", store=store)
    done = CliRunner().invoke(app, [str(tmp_path / "run"), "--prompt", "l01", "--by", "ledger"])
    assert isinstance(done.exception, NotFoundError)
    assert "--set amounts_of.student.ledger=true" in str(done.exception)


def test_a_student_that_is_an_adapter_is_told_what_else_to_use(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    own = kept("off_policy", small, ledger=False)
    output = own.stage[own.output]
    adapter = output.model_copy(update={"adapter_rank": 2})
    stages = tuple(adapter if stage == output else stage for stage in own.stages)
    carry_out(own.model_copy(update={"stages": stages}), model, tmp_path / "run")
    with pytest.raises(NotFoundError, match=r"trained an adapter, .*: use --confirm$"):
        moves(open_run(tmp_path / "run"))


def test_a_ledger_in_several_processes_is_refused_before_any_stage(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"'student': ledger = true: .*processes = 3: set processes = 1"):
        carry_out(
            kept("mopd", small),
            model,
            tmp_path / "run",
            settings=SETTINGS.model_copy(update={"processes": 3}),
        )
    assert not (tmp_path / "run").exists()


def test_a_ledger_belongs_to_a_distillation(small: dict[str, str]) -> None:
    own = shrunk(catalogue.recipe("mopd", [small["low"], small["high"]]))
    with pytest.raises(UsageError, match="a distillation alone keeps one"):
        own.with_amounts({"teacher_1": own.amounts["teacher_1"].model_copy(update={"ledger": True})})
