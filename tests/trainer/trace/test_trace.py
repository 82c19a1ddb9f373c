"""Level 1 of a trace: log-probs are each model's own, shares are those of known cases, bad input is one sentence."""

from __future__ import annotations

import io
import json
import shutil
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_world import carry_out, logprobs_of, plain_model, shrunk, write_model
from typer.testing import CliRunner

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.cli.main import SUMMARIES
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Merge
from trainer.model.loading import load_policy, tensors_sha256
from trainer.trace.cli import app
from trainer.trace.subject import open_run, taught
from trainer.trace.text import RARE, print_verdict
from trainer.trace.verdict import ACCUSED, UNDECIDED, judge, split

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "l01"


@pytest.fixture(scope="module")
def finished(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two teachers and a student."""
    out = tmp_path_factory.mktemp("runs") / "mopd"
    recipe = shrunk(catalogue.recipe("mopd", [small["low"], small["high"]]), learning_rate=1e-2)
    carry_out(recipe, model, out)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def trace(*arguments: object) -> str:
    """The command's output; its errors are raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception:
        raise done.exception
    return done.stdout


def document(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(trace(*arguments, "--json"))
    return found


def test_the_log_probs_are_those_of_each_model_alone(finished: Path) -> None:
    found = document(finished, "--prompt", PROMPT, "--answer", "AZ")
    assert set(found) == {"student", "answers", "seconds"}
    assert found["student"] == "student"
    (answer,) = found["answers"]
    assert set(answer) == {"prompt", "answer", "verdict", "shares", "tokens"}
    assert (answer["prompt"], answer["answer"]) == (PROMPT, "AZ")
    assert set(answer["shares"]) == {"start", "teacher_1", "teacher_2", "nobody"}
    subject = open_run(finished)
    for name, place in subject.places.items():
        policy = load_policy(place)
        prompt, response = policy.chat.prompts([PROMPT])[0], policy.chat.turns(["AZ"])[0]
        logprob_TV = logprobs_of(plain_model(place), prompt, response, subject.settings.temperature)
        truth = [float(x_V[token]) for x_V, token in zip(logprob_TV.detach(), response, strict=True)]
        rows = answer["tokens"]
        own = {"student": "student", subject.start: "start"}.get(name)
        shown = [row[own] if own else row["teachers"][name] for row in rows]
        assert shown == pytest.approx(truth, abs=1e-4), name
    assert "".join(row["text"] for row in answer["tokens"]).startswith("AZ")


def test_the_students_own_answer_is_its_likeliest(finished: Path) -> None:
    (answer,) = document(finished, "--prompt", PROMPT)["answers"]
    policy = load_policy(open_run(finished).places["student"])
    ids = policy.chat.prompts([PROMPT])[0]
    with torch.no_grad():
        first = int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    assert answer["tokens"][0]["text"] == policy.tokenizer.decode([first])


def test_failures_are_answers_that_the_verifier_fails(finished: Path, small: dict[str, str]) -> None:
    from trainer.tasks import task

    own = task(small["high"])
    items = {item.prompt: item for item in own.fixed("test", 8)}
    found = document(finished, "--domain", small["high"], "--failures", 3)["answers"]
    assert 1 <= len(found) <= 3
    assert len({answer["prompt"] for answer in found}) == len(found)
    assert all(own.grade(items[answer["prompt"]], [answer["answer"]]) < 1 for answer in found)


# probabilities of an answer under the student, the start and teachers a and b; shares of start, a, b and nobody
KNOWN = [
    ([0.2, 0.2, 0.2, 0.2], [1, 0, 0, 0], "start"),
    ([0.5, 0.4, 0.2, 0.1], [4 / 5, 0, 0, 1 / 5], "start"),
    ([0.5, 0.2, 0.9, 0.2], [2 / 9, 7 / 9, 0, 0], "a"),
    ([0.3, 0.2, 0.1, 0.8], [1 / 4, 0, 3 / 4, 0], "b"),
    ([0.2, 0.2, 0.1, 0.8], [1, 0, 0, 0], "start"),  # the student did not move, whoever would have it move
    ([0.8, 0.1, 0.2, 0.1], [1 / 8, 1 / 8, 0, 6 / 8], "nobody"),
    ([0.8, 0.1, 0.7, 0.7], [1 / 14, 6 / 14, 6 / 14, 1 / 14], UNDECIDED),  # two teachers, not one alone
    ([0.5, 0.1, 0.6, 0.1], [1 / 6, 5 / 6, 0, 0], UNDECIDED),  # a gains less than it takes to name it
]


@pytest.mark.parametrize(("probability_X", "share_C", "verdict"), KNOWN)
@pytest.mark.parametrize("answers", [1, 6])
def test_shares_and_verdict_of_known_cases(
    probability_X: list[float], share_C: list[float], verdict: str, answers: int
) -> None:
    logprob_UX = np.log([probability_X] * answers)
    assert split(logprob_UX)[-1] == pytest.approx(share_C)
    found = judge(["a", "b"], logprob_UX)
    assert found.verdict == verdict
    assert [row.share for row in found.shares.values()] == pytest.approx(share_C)
    assert all(row.low <= row.share <= row.high for row in found.shares.values())


def test_a_reward_is_a_teacher_that_always_gives_what_it_pays_for() -> None:
    logprob_UX = np.log([[0.8, 0.2, 0.2]])
    paid, unpaid = (judge(["a"], logprob_UX, paid_U=[flag]) for flag in (True, False))
    assert (paid.verdict, unpaid.verdict) == ("reward", "nobody")
    assert [row.share for row in paid.shares.values()] == pytest.approx([0.2, 0, 0.8, 0])
    assert unpaid.shares["reward"].share == 0
    assert list(judge(["a"], logprob_UX).shares) == ["start", "a", "nobody"]
    assert judge(["a"], np.log([[0.8, 0.2, 0.2 + ACCUSED]]), paid_U=[True]).verdict == UNDECIDED  # both


def test_over_answers_shares_are_means_and_more_than_half_decide() -> None:
    one, other = [0.5, 0.1, 0.9], [0.2, 0.1, 0.3]
    found = judge(["a"], np.log([one, other]))
    assert found.verdict == UNDECIDED and judge(["a"], np.log([one, one, other])).verdict == "a"
    shares = [judge(["a"], np.log([own])).shares["a"].share for own in (one, other)]
    assert found.shares["a"].share == pytest.approx(np.mean(shares))


def test_shares_of_a_long_answer_are_those_of_the_ratios() -> None:
    found = judge(["a"], np.log([[0.5, 0.2, 0.9]]) - 2000.0)
    assert found.shares["a"].share == pytest.approx(7 / 9) and found.verdict == UNDECIDED


def test_a_student_that_is_its_teacher_moved_as_far_as_the_teacher_pulls(
    small: dict[str, str], model: Path, finished: Path, tmp_path: Path
) -> None:
    stages = open_run(finished).recipe.stage
    recipe = Recipe(
        name="copy",
        domains=tuple(open_run(finished).recipe.domains),
        amounts_name="tiny",
        stages=(stages["teacher_1"], Merge(name="student", inputs=("teacher_1",))),
        amounts={"teacher_1": open_run(finished).recipe.amounts["teacher_1"]},
        output="student",
    )
    carry_out(recipe, model, tmp_path / "copy", store=finished / "store")
    (answer,) = document(tmp_path / "copy", "--prompt", PROMPT, "--answer", "AZ")["answers"]
    assert all(
        row["student"] == pytest.approx(row["teachers"]["teacher_1"], abs=1e-5) for row in answer["tokens"]
    )
    assert answer["shares"]["nobody"]["share"] == pytest.approx(0, abs=1e-5)


def test_a_better_answer_leaves_the_verdict_and_shows_the_odds(finished: Path) -> None:
    alone, beside = (
        document(finished, "--prompt", PROMPT, "--answer", "AZ", *more)["answers"][0]
        for more in ((), ("--instead", "ZA"))
    )
    assert alone == beside
    assert "of the odds" in trace(finished, "--prompt", PROMPT, "--answer", "AZ", "--instead", "ZA")


def test_the_command_is_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    registered = project["project"]["entry-points"]["mopd.commands"]
    assert set(registered) == set(SUMMARIES)
    assert EntryPoint(name="trace", value=registered["trace"], group="mopd.commands").load() is app


def test_the_text_says_where_the_prompt_went(finished: Path, small: dict[str, str]) -> None:
    shown = trace(finished, "--prompt", PROMPT)
    steps = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    asked = sum(
        row["prompts"].get(small["low"], 0)
        for row in steps
        if row["kind"] == "step" and row["stage"] == "student"
    )
    assert asked and f"{asked} prompts of {small['low']} in training, to teacher_1 (100%)" in shown
    assert "verdict" in shown and "\x1b" not in shown


def test_a_warmup_belongs_to_its_student_and_an_earlier_round_does_not(small: dict[str, str]) -> None:
    names = [small["low"], small["high"]]
    warmed, rounds, cascade = (
        catalogue.recipe(name, names, **options)
        for name, options in (("mopd", {"warmup": True}), ("mopd", {"rounds": 2}), ("cascade_rl", {}))
    )
    assert [stage.name for stage in taught(warmed)] == ["warmup", "student"]
    assert [stage.name for stage in taught(rounds)] == ["r2_student"]
    assert not taught(cascade)


def refused(kind: type[MopdError], *arguments: object) -> str:
    with pytest.raises(kind) as caught:
        trace(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


def test_removed_teachers_are_named_and_made_again_bit_for_bit(run: Path) -> None:
    subject = open_run(run)
    places = subject.places
    before = {name: tensors_sha256(places[name]) for name in subject.teachers}
    for name in subject.teachers:
        shutil.rmtree(places[name])
    message = refused(NotFoundError, run, "--prompt", PROMPT)
    assert "teacher_1, teacher_2" in message and f"mopd trace {run} --rebuild" in message
    trace(run, "--rebuild")
    assert {name: tensors_sha256(subject.places[name]) for name in subject.teachers} == before


def test_damaged_weights_are_named_with_the_command_that_makes_them_again(run: Path) -> None:
    place = open_run(run).places["teacher_2"]
    (place / "model.safetensors").write_bytes(b"short")
    message = refused(NotFoundError, run, "--prompt", PROMPT)
    assert "weights of teacher_2 are damaged" in message and f"mopd trace {run} --rebuild" in message


def test_another_tokenizer(run: Path, tmp_path: Path) -> None:
    place = open_run(run).places["teacher_2"]
    shutil.rmtree(place)
    shutil.copytree(write_model(tmp_path / "bytes", seed=3, kind="bytes"), place)
    assert "teacher 'teacher_2'" in refused(UsageError, run, "--prompt", PROMPT)


def test_a_run_without_a_student(
    small: dict[str, str], model: Path, shared_store: Path, tmp_path: Path
) -> None:
    recipe = shrunk(catalogue.recipe("single_domain", [small["low"]]))
    carry_out(recipe, model, tmp_path / "run", store=shared_store)
    assert "no student" in refused(UsageError, tmp_path / "run", "--prompt", PROMPT)


def test_bad_input(run: Path, small: dict[str, str]) -> None:
    assert "positions" in refused(UsageError, run, "--prompt", "a" * 100_000, "--domain", small["low"])
    assert "positions" in refused(
        UsageError, run, "--prompt", "a", "--answer", "a" * 100_000, "--domain", small["low"]
    )
    assert "--prompt" in refused(UsageError, run)
    assert "--prompt" in refused(UsageError, run, "--failures", 1, "--domain", small["low"], "--answer", "x")
    assert "--domain" in refused(UsageError, run, "--failures", 1)
    assert "nowhere" in refused(UsageError, run, "--failures", 1, "--domain", "nowhere")
    (run / "STATUS").write_text("interrupted\n")
    assert f"mopd train resume {run}" in refused(UsageError, run, "--prompt", PROMPT)
    refused(NotFoundError, run / "none", "--prompt", PROMPT)


@pytest.mark.parametrize(
    ("over", "why"), [("", f"gains {ACCUSED:g}"), ("over 2 answers: ", "more than half")]
)
def test_an_undecided_verdict_says_why(over: str, why: str) -> None:
    told = Console(file=io.StringIO())
    print_verdict(told, judge(["a"], np.log([[0.5, 0.1, 0.6]])), over=over)
    assert isinstance(told.file, io.StringIO)
    assert f"{over}{UNDECIDED} (no" in told.file.getvalue() and why in told.file.getvalue()


def test_a_narrow_terminal_shows_every_number_whole(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = trace(finished, "--prompt", PROMPT)
    (answer,) = document(finished, "--prompt", PROMPT)["answers"]
    assert "…" not in said and said.count("chance") > 1
    for token in answer["tokens"]:
        for score in (token["student"], token["start"], *token["teachers"].values()):
            assert f"{score:.2f}" in said


@pytest.mark.parametrize("said", [[], ["--answer", "l01l01l01"]])
def test_an_answer_that_the_student_hardly_gives_is_noted(finished: Path, said: list[str]) -> None:
    asked = [finished, "--prompt", PROMPT, *said]
    (answer,) = document(*asked)["answers"]
    chance = np.exp(sum(token["student"] for token in answer["tokens"]))
    assert ("note     the student gives this answer in less than 1%" in trace(*asked)) == (chance < RARE)
    assert (chance < RARE) == bool(said)
