"""samples.jsonl: its scores are those of each model's own forward, it is bounded, and no result depends on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from other_models import renderer, retold, widened
from small_world import (
    UNSCORED,
    carry_out,
    job_of,
    logprobs_of,
    plain_model,
    rows_of,
    run_watched,
    shrunk,
    timeless,
    write_model,
    written_rows,
)

from mopdsim.base.run_directory import SAMPLES
from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE, Distill, Rl, Teacher
from trainer.batch.batch import Batch
from trainer.batch.score import Bank
from trainer.batch.written import demonstrated
from trainer.model.loading import load_policy
from trainer.runs.worker import run_stage
from trainer.stages import loop, samples
from trainer.stages.job import Job
from trainer.tasks import task

pytestmark = pytest.mark.usefixtures("one_thread")
Rendered = Callable[[str], Sequence[int]]


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The student's start, and three teachers that differ: in weights, in the width of the head, in the template."""
    folder = tmp_path_factory.mktemp("teachers")
    plain = {name: write_model(folder / name, seed=seed) for name, seed in (("a", 2), ("b", 3), ("c", 4))}
    return {
        BASE: model,
        "a": plain["a"],
        "wide": widened(plain["b"], folder / "wide", 6),
        "retold": retold(plain["c"], folder / "retold"),
    }


def taught(small: Mapping[str, str], **options: Any) -> Distill:
    """The first domain learns from one teacher, the second from two."""
    low, high = small["low"], small["high"]
    teachers = (
        Teacher(stage="a", domains=(low,)),
        Teacher(stage="wide", domains=(high,)),
        Teacher(stage="retold", domains=(high,), weight=2.0),
    )
    return Distill(name="student", domains={low: 1.0, high: 1.0}, teachers=teachers, **options)


def job(
    stage: Distill | Rl,
    weights: Mapping[str, Path],
    directory: Path,
    *,
    temperature: float = 1.0,
    **amounts: Any,
) -> Job:
    settings = UNSCORED.model_copy(update={"temperature": temperature, "evaluate_every": 100})
    return job_of(stage, weights, directory, domains=list(stage.domains), settings=settings, **amounts)


def direct(directory: Path, render: Rendered, batch: Batch, place: int, temperature: float) -> list[float]:
    """Log-prob of each token of a row by the module's own forward, over the ids that the tokenizer has."""
    item, _, response, _ = written_rows(batch)[place]
    ids = len(load_policy(directory).tokenizer.get_vocab())
    logprob_TV = logprobs_of(plain_model(directory), render(item.prompt), response, temperature)
    shared_TV = torch.log_softmax(logprob_TV[:, :ids], -1)
    return [float(x_V[token]) for x_V, token in zip(shared_TV.detach(), response, strict=True)]


@pytest.mark.parametrize(
    ("options", "temperature"),
    [
        pytest.param({}, 0.7, id="on-policy"),
        pytest.param(
            {"on_policy": False, "loss": "sample_nll", "correct_only": False},
            1.0,
            id="off-policy",
        ),
    ],
)
@pytest.mark.slow
def test_every_score_is_that_of_a_direct_forward_pass(
    small: dict[str, str],
    weights: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    temperature: float,
) -> None:
    stage = taught(small, **options)
    if options:  # a random head would answer with ids that only it has
        weights = {**weights, "wide": weights["a"]}
    ((step, *_), _) = run_watched(job(stage, weights, tmp_path, temperature=temperature, prompts_per_step=10))
    rows = rows_of(tmp_path / SAMPLES)
    assert [row["domain"] for row in rows] == [small["low"]] * 4 + [small["high"]] * 4
    for number, row in enumerate(rows):
        place = step.batch.spans[row["domain"]].start + number % 4
        assert row["prompt"] == step.batch.items[place].prompt
        assert row["reward"] == float(step.batch.reward_B[place])
        for name, found in zip(
            (BASE, "a", "wide", "retold"), (row["student"], *row["teachers"]), strict=True
        ):
            expected = direct(weights[name], renderer(weights[name]), step.batch, place, temperature)
            assert found == pytest.approx(expected, abs=2e-4)
        if options:  # whoever sampled the row is the one it learns from
            assert row["own"] in ([[0]] if row["domain"] == small["low"] else [[1], [2]])
        else:
            assert row["own"] == ([0] if row["domain"] == small["low"] else [1, 2])
        assert row["answer"] == "".join(row["tokens"]) and row["length"] == len(row["tokens"])


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_reinforcement_step_keeps_what_the_optimiser_was_given(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Literal["grpo", "ppo"],
) -> None:
    stage = Rl(name="rl", domains={small["low"]: 1.0, small["high"]: 1.0}, algorithm=algorithm)
    given: list[Any] = []
    own = samples.keep_rewarded

    def watched(*arguments: Any) -> None:
        given.append(arguments)
        own(*arguments)

    monkeypatch.setattr(samples, "keep_rewarded", watched)
    run_stage(job(stage, {BASE: model}, tmp_path, rollouts_per_prompt=3), lambda done: None)
    (((_, _, batch, _, advantage_BT),), rows) = given, rows_of(tmp_path / SAMPLES)
    assert len(rows) == 8
    for number, row in enumerate(rows):
        place = batch.spans[row["domain"]].start + number % 4
        length = int(batch.rollouts.present_BT[place].sum())
        for key, value_BT in (("student", batch.rollouts.logprob_BT), ("advantage", advantage_BT)):
            assert row[key] == pytest.approx(value_BT[place, :length].tolist(), abs=6e-5)
        assert row["reward"] == float(batch.reward_B[place]) and "judged_reward" not in row
        assert "teachers" not in row
    assert any(value for row in rows for value in row["advantage"])


def test_the_environments_words_have_no_numbers_and_long_answers_are_cut(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Rl(name="rl", domains={"guess": 1.0})
    trainee = loop._start(job(stage, {BASE: model}, tmp_path), lambda policy: None)
    game = task("guess")
    items = game.fixed("test", samples.ROWS + 1)
    batch = demonstrated(trainee.policy, {"guess": game}, items, domains=["guess"] * len(items), seed=0)
    monkeypatch.setattr(samples, "TOKENS", 9)
    samples.keep_rewarded(trainee, stage, batch, batch, torch.ones_like(batch.rollouts.logprob_BT))
    rows = rows_of(tmp_path / SAMPLES)
    assert len(rows) == samples.ROWS
    for place, row in enumerate(rows):
        _, _, response, trained = written_rows(batch)[place]
        assert [value is not None for value in row["student"]] == trained[:9]
        assert [value is not None for value in row["advantage"]] == trained[:9]
        assert row["length"] == len(response) and len(row["tokens"]) == min(9, len(response))
    assert not all(value is not None for row in rows for value in row["student"])


@pytest.mark.parametrize("steps", [3, pytest.param(23, marks=pytest.mark.slow)])
def test_samples_are_kept_ten_times_a_stage_at_most(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, steps: int
) -> None:
    stage = taught(small)
    run_stage(job(stage, weights, tmp_path, steps=steps, prompts_per_step=2), lambda done: None)
    found = list(dict.fromkeys(row["step"] for row in rows_of(tmp_path / SAMPLES)))
    assert found == (list(range(3)) if steps == 3 else [0, 3, 5, 7, 10, 12, 14, 17, 19, 21])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mopd", "mixed_rl"])
def test_a_run_is_the_same_bit_for_bit_without_samples(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Weights, metrics, costs and the stages' keys."""
    plan = shrunk(catalogue.recipe(recipe, [small["low"], small["high"]]), steps=3)
    with_samples = carry_out(plan, model, tmp_path / "with")
    with monkeypatch.context() as patch:
        patch.setattr(samples, "due", lambda trainee: False)
        without = carry_out(plan, model, tmp_path / "without")
    assert timeless(with_samples) == timeless(without)
    assert timeless(rows_of(tmp_path / "with")) == timeless(rows_of(tmp_path / "without"))
    assert rows_of(tmp_path / "with" / SAMPLES) and not rows_of(tmp_path / "without" / SAMPLES)


@pytest.mark.slow
def test_a_run_names_the_teachers_of_its_samples(
    small: dict[str, str], model: Path, shared_store: Path, tmp_path: Path
) -> None:
    plan = shrunk(catalogue.recipe("mopd", [small["low"], small["high"]]))
    carry_out(plan, model, tmp_path / "run", store=shared_store)
    rows = rows_of(tmp_path / "run" / SAMPLES)
    (student,) = (stage for stage in plan.stages if isinstance(stage, Distill))
    serves = {domain: teacher.stage for teacher in student.teachers for domain in teacher.domains}
    seen = [row for row in rows if row["stage"] == student.name]
    assert {row["domain"] for row in seen} == set(serves)
    for row in seen:
        assert set(row["teachers"]) == set(serves.values()) and row["own"] == [serves[row["domain"]]]
    assert {row["stage"] for row in rows} == {stage.name for stage in plan.stages}


@pytest.mark.slow
def test_a_killed_stage_leaves_the_samples_of_an_unbroken_one(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = taught(small, balance="remaining_gap")
    for place in ("straight", "killed"):
        (tmp_path / place).mkdir()
    run_stage(job(stage, weights, tmp_path / "straight", steps=5), lambda done: None)
    own, seen = loop.Trainee.apply, 0

    def broken(trainee: Any, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 4:  # the samples of this step are written, its checkpoint is not
            raise KeyboardInterrupt
        return own(trainee, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainee, "apply", broken)
        run_stage(job(stage, weights, tmp_path / "killed", steps=5), lambda done: None)
    assert max(row["step"] for row in rows_of(tmp_path / "killed" / SAMPLES)) == 3
    run_stage(job(stage, weights, tmp_path / "killed", steps=5), lambda done: None)
    texts = [(tmp_path / place / SAMPLES).read_text() for place in ("straight", "killed")]
    assert texts[0] == texts[1] and json.loads(texts[0].splitlines()[-1])["step"] == 4


def test_a_large_teacher_is_loaded_once_for_blocks_inside_one_another(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.batch import score as module

    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(module, "RESIDENT_SHARE", 0.0)
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return load_policy(model)

    bank = Bank({"a": model}, load)
    for count in (1, 2):  # and let go of after the outer one
        with bank.open("a") as outer, bank.open("a") as inner:
            assert inner is outer
        assert len(loaded) == count
