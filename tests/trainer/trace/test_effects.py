"""Level 3 of a trace: with nobody replaced it is the run again bit for bit; what is replaced is known by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_world import Made, carry_out, logprobs_of, plain_model, shrunk
from stopping import Stop, stop_after
from typer.testing import CliRunner

from mopdsim.base.errors import UsageError
from mopdsim.recipes import catalogue
from trainer.model.loading import load_policy, tensors_sha256
from trainer.runs.progress import Progress
from trainer.runs.store import Store
from trainer.trace.cli import app
from trainer.trace.effects import MOST, distil, estimate, every_subset, shapley, without
from trainer.trace.subject import Subject, open_run

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = {
    "mopd": {"misrouting": 0.4, "reward_mix": 0.5},
    "off_policy": {"correct_only": False},
    "warmed": {"warmup": True},
    "merge": {"method": "average"},
}


every_case = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("mopd", "merge") else [pytest.mark.slow]) for name in CASES],
)


@pytest.fixture(scope="module")
def finished(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Finished runs by name; they share a store."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        kind = {"warmed": "mopd"}.get(name, name)
        own = catalogue.recipe(kind, [small["low"], small["high"]], **CASES[name])
        carry_out(shrunk(own, learning_rate=1e-2), model, folder / name, store=folder / "store")
        return folder / name

    return Made(make)


def student_without(subject: Subject, *teachers: str, reward: bool = True) -> Path:
    nodes = without(subject, subject.plan(), teachers, reward=reward)
    return distil(subject, {"": nodes}, Progress(quiet=True), resume="again")[""]


@every_case
@pytest.mark.slow
def test_with_nobody_replaced_it_is_the_run_again(finished: Made, name: str) -> None:
    subject = open_run(finished[name])
    assert tensors_sha256(student_without(subject)) == tensors_sha256(subject.places[subject.student])


@pytest.mark.slow
@every_case
def test_each_teacher_that_is_left_out_changes_the_student(finished: Made, name: str) -> None:
    subject = open_run(finished[name])
    students = {tensors_sha256(student_without(subject, teacher)) for teacher in subject.teachers}
    assert len(students | {tensors_sha256(subject.places[subject.student])}) == 3


def test_a_merge_without_a_teacher_averages_the_start_in(finished: Made) -> None:
    subject = open_run(finished["merge"])
    start, kept = (
        load_file(subject.places[name] / "model.safetensors") for name in (subject.start, subject.teachers[1])
    )
    found = load_file(student_without(subject, subject.teachers[0]) / "model.safetensors")
    for name, tensor in found.items():
        assert (tensor - (start[name] + kept[name]) / 2).abs().max() < 1e-6, name


def test_the_teachers_place_in_the_routing_is_kept(finished: Made) -> None:
    subject = open_run(finished["mopd"])
    planned = subject.plan()
    own = planned.node[planned.keys["mopd"]["student"]].job
    (node,) = without(subject, planned, ["teacher_1"])
    assert node.job.stage == own.stage
    assert node.job.seed("route", 1) == own.seed("route", 1) and node.key != own.key
    assert node.job.weights["teacher_1"] == own.weights[subject.start]
    assert node.job.weights["teacher_2"] == own.weights["teacher_2"]


@pytest.mark.slow
def test_a_warmup_is_distilled_again_too(finished: Made) -> None:
    subject = open_run(finished["warmed"])
    warmup, student = without(subject, subject.plan(), ["teacher_1"])
    assert student.job.weights["warmup"] == subject.store.weights(warmup.key)
    assert student.needs == (warmup.key,)
    assert warmup.job.stage.teacher_names == student.job.stage.teacher_names


@pytest.mark.slow
def test_a_stop_in_between_changes_nothing(
    finished: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = open_run(finished["mopd"])
    unbroken = tensors_sha256(student_without(subject, "teacher_1"))
    planned = subject.plan()
    elsewhere = replace(subject, store=Store(root=tmp_path / "store"))
    nodes = {"teacher_1": without(elsewhere, planned, ["teacher_1"])}
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stop):
            distil(elsewhere, nodes, Progress(quiet=True), resume="again")
    assert estimate(elsewhere, nodes.values())[0] == 1
    found = distil(elsewhere, nodes, Progress(quiet=True), resume="again")["teacher_1"]
    assert found.is_relative_to(tmp_path) and tensors_sha256(found) == unbroken
    assert estimate(elsewhere, nodes.values()) == (0, 0.0)


@pytest.mark.slow
def test_effects_are_differences_of_log_probs(finished: Made) -> None:
    run = finished["mopd"]
    done = CliRunner().invoke(
        app, [str(run), "--prompt", "l01", "--answer", "AZ", "--instead", "ZA", "--confirm", "--json"]
    )
    (answer,) = json.loads(done.stdout)["answers"]
    subject = open_run(run)
    students = {name: student_without(subject, name) for name in subject.teachers}
    students["reward"] = student_without(subject, reward=False)

    def odds(place: Path) -> float:
        policy, found = load_policy(place), []
        for text in ("AZ", "ZA"):
            prompt, response = policy.chat.prompts(["l01"])[0], policy.chat.turns([text])[0]
            logprob_TV = logprobs_of(plain_model(place), prompt, response)
            found.append(
                sum(float(x_V[token]) for x_V, token in zip(logprob_TV.detach(), response, strict=True))
            )
        return found[0] - found[1]

    own = odds(subject.places[subject.student])
    assert set(answer["effects"]) == {"teacher_1", "teacher_2", "reward"}
    for name, place in students.items():
        assert answer["effects"][name] == pytest.approx(own - odds(place), abs=1e-4)
    assert max(map(abs, answer["effects"].values())) > 1e-3


def test_shapley_values_of_a_known_game() -> None:
    """A pair of gloves (Shapley 1953's own kind of game): a left one, and two right ones of which one is enough."""
    owners = ["left", "right", "other"]

    def worth(gone: frozenset[str]) -> float:
        kept = set(owners) - gone
        return float("left" in kept and bool(kept & {"right", "other"}))

    subsets = [frozenset(gone) for size in range(4) for gone in combinations(owners, size)]
    found = shapley(owners, {gone: worth(gone) for gone in subsets})
    assert found == pytest.approx({"left": 2 / 3, "right": 1 / 6, "other": 1 / 6})


def test_shapley_values_add_up_to_what_all_teachers_did(finished: Made) -> None:
    run = finished["merge"]
    arguments = [str(run), "--prompt", "l01", "--answer", "AZ", "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, [*arguments, "--shapley"]).stdout)["answers"]
    subject = open_run(run)
    (bare,) = json.loads(CliRunner().invoke(app, arguments).stdout)["answers"]
    start, own = (sum(token[model] for token in bare["tokens"]) for model in ("start", "student"))
    # without both teachers the average is the start itself
    assert sum(answer["effects"].values()) == pytest.approx(own - start, abs=1e-4)
    many = tuple(f"teacher_{number}" for number in range(MOST + 1))
    stage = subject.stages[-1].model_copy(update={"inputs": many})
    with pytest.raises(UsageError, match="31 distillations"):
        every_subset(replace(subject, stages=(stage,)))


def test_a_run_that_would_be_made_otherwise_now_is_refused(finished: Made, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished["mopd"], tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    subject = replace(
        open_run(run), summary=summary | {"stages": summary["stages"] | {"student": {"key": "other"}}}
    )
    with pytest.raises(UsageError, match="stage 'student' was made by another version"):
        subject.plan()
