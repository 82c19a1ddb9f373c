"""Rejection sampling against the samples drawn once more, its survival of kills, and fine-tuning on what it kept."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import hurt
from small_world import (
    SETTINGS,
    UNSCORED,
    carry_out,
    job_of,
    rows_of,
    run_watched,
    shrunk,
    steps_in,
    timeless,
    written_rows,
)

from mopdsim.base.errors import MopdError
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, RejectionSampling, Sft
from trainer.batch import heads, written
from trainer.batch.batch import Batch, draw, minibatches, sample
from trainer.batch.rollout import turns
from trainer.files import atomic
from trainer.model.loading import load_policy, save_policy
from trainer.runs.plan import plan
from trainer.runs.store import Store
from trainer.runs.worker import run_job, run_stage
from trainer.stages import rejection
from trainer.stages.job import Job
from trainer.tasks import task

pytestmark = pytest.mark.usefixtures("one_thread")
GROUP = 4


def rejection_job(
    specs: dict[str, str], model: Path, directory: Path, *, settings: Any = UNSCORED, **changes: Any
) -> Job:
    weights = {BASE: model, **changes.pop("weights", {})}
    stage = RejectionSampling(name="kept", domains=dict.fromkeys(specs.values(), 1.0), **changes)
    amounts = {"steps": 5, "prompts_per_step": 7, "rollouts_per_prompt": GROUP, "learning_rate": 0}
    return job_of(stage, weights, directory, domains=list(specs.values()), settings=settings, **amounts)


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "data" / "samples.jsonl").read_text().splitlines()]


def drawn_again(job: Job) -> list[tuple[str, int, Batch, list[list[str]]]]:
    """(domain, its first prompt's place, its samples, their turns), batch by batch, as they must have been drawn."""
    policy, found = job.load(BASE), []
    cursors: Counter[str] = Counter()
    for step, row in enumerate(rows_of(job.directory)):
        items = draw(job.tasks(), row["prompts"], cursors, split="train", seed=job.settings.seed)
        batch = sample(
            policy,
            job.tasks(),
            items,
            domains=[item.domain for item in items],
            rollouts_per_prompt=GROUP,
            temperature=1.0,
            seed=job.seed(step),
        )
        for name in batch.spans:
            ((own, _),) = minibatches(batch, torch.tensor([item.domain == name for item in items]), 1)
            found.append((name, cursors[name], own, turns(policy, own.rollouts)))
        cursors.update(row["prompts"])
    return found


def test_the_best_is_the_first_of_equals_and_what_passed_is_kept_once() -> None:
    assert rejection.best_of([0.1, 0.7, 0.7, 0.2, 0.0, 0.0], 3) == [1, 3]
    said = [["a"], ["a"], ["b"], ["a"], ["c"], ["c", "d"]]
    assert rejection.passed([1.0, 1.0, 1.0, 1.0, 0.5, 1.0], said, 3) == [0, 2, 3, 5]


def test_the_best_answer_of_every_prompt_is_kept(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    job = rejection_job(small, model, tmp_path)
    summary = run_stage(job, lambda done: None)
    lines, sums = lines_of(tmp_path), Counter[str]()
    assert len(lines) == 35
    for name, first, batch, said in drawn_again(job):
        for place, item in enumerate(batch.items):
            line = lines.pop(0)
            score_R = batch.reward_B[place * GROUP : (place + 1) * GROUP].tolist()
            best = place * GROUP + score_R.index(max(score_R))
            assert line["score"] == max(score_R) == task(name).reward(item, line["turns"])
            assert (line["domain"], line["prompt"], line["turns"]) == (name, item.prompt, said[best])
            assert line["truncated"] == bool(batch.rollouts.truncated_B[best])
            assert (
                task(name).stream("train", line["index"], 1, seed=job.settings.seed)[0].prompt == item.prompt
            )
            assert line["index"] == first + place
            sums[f"best {name}"] += max(score_R)
            sums[f"mean {name}"] += sum(score_R) / GROUP
            sums[f"n {name}"] += 1
    for name, row in summary["domains"].items():
        n = sums[f"n {name}"]
        assert row["n"] == row["kept"] == n and row["kept_share"] == pytest.approx(1 / GROUP)
        assert row["best_score"] == pytest.approx(sums[f"best {name}"] / n)
        assert row["score"] == pytest.approx(sums[f"mean {name}"] / n)
        assert row["se"] == pytest.approx((row["best_score"] * (1 - row["best_score"]) / n) ** 0.5)
        assert 0.2 < row["score"] < row["best_score"]
    assert summary["flops"]["generation"] > 0 and set(summary["tokens"]["generated"]) == set(small.values())
    for row in rows_of(tmp_path):
        assert all(own["best_score"] >= own["score"] for own in row["domains"].values())


@pytest.mark.parametrize("dial", ["", "&reward_scale=0.7", "&reward_noise=0.3"])
def test_everything_that_passed_is_kept_once(
    small: dict[str, str], model: Path, tmp_path: Path, dial: str
) -> None:
    """By the verdict that reinforcement learning sees: scaled and noisy."""
    specs = {name: spec + dial for name, spec in small.items()}
    job = rejection_job(specs, model, tmp_path, keep="passed")
    summary = run_stage(job, lambda done: None)
    expected = []
    for name, first, batch, said in drawn_again(job):
        scale = task(name).reward_scale
        for place, item in enumerate(batch.items):
            own = [tuple(turns) for turns in said[place * GROUP : (place + 1) * GROUP]]
            passing = [turns for turns in own if task(name).reward(item, turns) >= scale * 0.999]
            expected += [(name, first + place, turns) for turns in dict.fromkeys(passing)]
    lines = lines_of(tmp_path)
    assert [(line["domain"], line["index"], tuple(line["turns"])) for line in lines] == expected
    assert sum(row["kept"] for row in summary["domains"].values()) == len(expected) > 20


def test_a_reward_model_chooses_in_its_domains(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    """Its choice is its own highest score, and the verifier's opinion of it is reported beside."""
    policy = load_policy(model)
    heads.add_head(policy)
    with torch.no_grad():
        heads.head_of(policy).weight.normal_(generator=torch.Generator().manual_seed(0))
    save_policy(policy, tmp_path / "judge")
    low = small["low"]
    job = rejection_job(
        small, model, tmp_path / "run", reward_models={low: "judge"}, weights={"judge": tmp_path / "judge"}
    )
    summary = run_stage(job, lambda done: None)
    chosen = [line for line in lines_of(job.directory) if line["domain"] == low]
    judge, verdicts = heads.load_reward_model(tmp_path / "judge"), []
    for name, _, batch, said in drawn_again(job):
        if name == low:
            score_UR = heads.scores(judge, batch.rollouts).view(-1, GROUP)
            for place, best in enumerate(score_UR.argmax(1).tolist()):
                line = chosen.pop(0)
                assert line["turns"] == said[place * GROUP + best]
                assert line["score"] == pytest.approx(float(score_UR[place, best]), abs=1e-4)
                verdicts.append(float(batch.reward_B[place * GROUP + best]))
    row = summary["domains"][low]
    assert row["best_judged"] > row["judged"] and row["best_score"] == pytest.approx(
        sum(verdicts) / len(verdicts)
    )
    assert "judged" not in summary["domains"][small["high"]] and summary["tokens"]["scored"].keys() == {low}


# Kills and damage.


class Stop(BaseException):
    """Ends a stage as a kill would, without its leave."""


EVERY_SECOND = UNSCORED.model_copy(update={"checkpoint_every": 2})


def left_by(job: Job) -> tuple[Any, bytes]:
    return timeless(rows_of(job.directory)), (job.directory / "data" / "samples.jsonl").read_bytes()


@pytest.fixture(scope="module")
def straight(small: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    job = rejection_job(small, model, tmp_path_factory.mktemp("straight"), settings=EVERY_SECOND)
    return timeless(run_stage(job, lambda done: None)), left_by(job)


def stopped_job(
    small: dict[str, str], model: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> Job:
    """A stage stopped in its `batches`-th batch."""
    job = rejection_job(small, model, directory, settings=EVERY_SECOND)
    own, calls = rejection.turns, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == batches:
            raise Stop
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rejection, "turns", counted)
        with pytest.raises(Stop):
            run_stage(job, lambda done: None)
    return job


@pytest.mark.parametrize("batches", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 5))])
def test_a_stage_that_is_stopped_ends_as_an_unbroken_one(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: tuple[Any, Any],
    batches: int,
) -> None:
    job = stopped_job(small, model, tmp_path / "stopped", monkeypatch, batches)
    calls: list[int] = []
    own = rejection._step
    monkeypatch.setattr(
        rejection, "_step", lambda trainee, *rest: calls.append(trainee.step) or own(trainee, *rest)
    )
    assert (timeless(run_stage(job, lambda done: None)), left_by(job)) == straight
    assert calls == list(range((batches - 1) // 2 * 2, 5))  # from the checkpoint on


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(how, marks=pytest.mark.slow) for how in ("truncated", "gone"))]
)
@pytest.mark.parametrize("part", ["step_00000002", "step_00000004"])
def test_a_damaged_part_is_sampled_again(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: tuple[Any, Any],
    damage: str,
    part: str,
) -> None:
    job = stopped_job(small, model, tmp_path / "hurt", monkeypatch, 5)
    hurt(job.directory / "checkpoints" / part / "samples.jsonl", damage)
    assert (timeless(run_stage(job, lambda done: None)), left_by(job)) == straight


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 3, 4])  # the first part, the last one, the dataset
def test_killed_in_the_middle_of_a_save_it_ends_as_an_unbroken_one(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: tuple[Any, Any],
    call: int,
) -> None:
    job, own, calls = (
        rejection_job(small, model, tmp_path / "killed", settings=EVERY_SECOND),
        atomic._replace,
        0,
    )

    def deadly(partial: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        own(partial, target)

    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(atomic, "_replace", deadly)
            run_stage(job, lambda done: None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (job.directory / "data").exists()
    assert (timeless(run_stage(job, lambda done: None)), left_by(job)) == straight


# In the store.


def tuned(specs: dict[str, str], *, data: str = "kept", **changes: Any) -> Recipe:
    shares = dict.fromkeys(specs.values(), 1.0)
    made = Recipe(
        name="tuned",
        domains=tuple(specs.values()),
        amounts_name="tiny",
        stages=(
            RejectionSampling(name=data, domains=shares),
            Sft(name="student", domains=shares, data=(data,), **changes),
        ),
        amounts={
            data: {"steps": 2, "prompts_per_step": 7, "rollouts_per_prompt": 2, "learning_rate": 0},  # type: ignore[dict-item]
            "student": {"steps": 2, "prompts_per_step": 7, "learning_rate": 1e-3},  # type: ignore[dict-item]
        },
        output="student",
    )
    return shrunk(made)


def test_data_is_verified_like_weights_and_named_by_its_key(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    summary = carry_out(tuned(small), model, tmp_path / "run")
    store = Store(root=tmp_path / "run" / "store")
    planned, renamed = (
        plan({"tuned": tuned(small, data=name)}, model=str(model), settings=SETTINGS, store=store)
        for name in ("kept", "other_name")
    )
    assert planned.keys["tuned"]["student"] == renamed.keys["tuned"]["student"]
    key = planned.keys["tuned"]["kept"]
    assert store.finished(key) and not store.weights(key).exists()
    assert summary["stages"]["kept"]["domains"].keys() == set(small.values())
    hurt(store.data(key) / "samples.jsonl", "flipped")
    assert not store.finished(key)
    node = next(node for node in planned.nodes if node.key == key)
    run_job(node.job, node.made_from, store.root, lambda done: None)
    assert store.finished(key)


# Fine-tuning on what was kept.


def write_data(
    directory: Path, rows: list[tuple[str, tuple[str, ...], int, bool]], domains: list[str]
) -> Path:
    """A dataset of (domain, turns, index, truncated)."""
    samples = [
        written.Sample(
            domain=domain,
            prompt=task(domain).stream("train", index, 1, seed=0)[0].prompt,
            turns=turns,
            score=1.0,
            index=index,
            truncated=truncated,
        )
        for domain, turns, index, truncated in rows
    ]
    part = directory.with_suffix(".jsonl")
    part.write_text("".join(each.line() for each in samples))
    written.write(directory, [part], domains)
    return directory


def sft_job(data: Path, model: Path, directory: Path, domains: dict[str, float], **changes: Any) -> Job:
    amounts = {key: changes.pop(key) for key in ("steps", "prompts_per_step") if key in changes}
    stage = Sft(name="student", domains=domains, data=("kept",), **changes)
    return job_of(stage, {BASE: model}, directory, domains=list(domains), data={"kept": data}, **amounts)


def test_kept_answers_are_read_once_an_epoch_beside_demonstrations(model: Path, tmp_path: Path) -> None:
    """Half of sort's examples are the five kept answers; reverse, which was not sampled, has demonstrations alone."""
    data = write_data(tmp_path / "data", [("sort", (f"kept{n}",), n, False) for n in range(5)], ["sort"])
    job = sft_job(
        data,
        model,
        tmp_path / "run",
        {"sort": 2.0, "reverse": 1.0},
        data_share=0.5,
        steps=5,
        prompts_per_step=6,
    )
    steps, rows = run_watched(job)
    tokenizer, read = load_policy(model).tokenizer, []
    for step, row in zip(steps, steps_in(rows), strict=True):
        assert row["prompts"] == {"sort": 4, "reverse": 2} and row["from_data"] == {"sort": 2}
        texts = [
            tokenizer.decode(response, skip_special_tokens=True)
            for _, _, response, _ in written_rows(step.batch)
        ]
        assert [text.startswith("kept") for text in texts] == [False, False, True, True, False, False]
        for (item, *_), text in zip(written_rows(step.batch), texts, strict=True):
            if text.startswith("kept"):
                (asked,) = task("sort").stream("train", int(text[4:]), 1, seed=0)
                assert item == asked
                read.append(text)
    first, second = read[:5], read[5:]
    assert sorted(first) == sorted(second) == [f"kept{n}" for n in range(5)] and first != second


def test_answers_of_several_turns_are_replayed_with_their_observations(model: Path, tmp_path: Path) -> None:
    """What the environment answered is read again, and not trained; a cut answer has no end of its own."""
    item = task("guess").stream("train", 3, 1, seed=0)[0]
    wrong = [letter for letter in item.data["letters"] if letter != item.answer][:2]
    rows = [("guess", (wrong[0], wrong[1], item.answer), 3, False), ("guess", (wrong[0], "xy"), 3, True)]
    data = write_data(tmp_path / "data", rows, ["guess"])
    (step,), _ = run_watched(sft_job(data, model, tmp_path / "run", {"guess": 1.0}, prompts_per_step=2))
    tokenizer = load_policy(model).tokenizer
    found = {}
    for _, _, response, trained in written_rows(step.batch):
        own = [token for token, own in zip(response, trained, strict=True) if own]
        seen = [token for token, own in zip(response, trained, strict=True) if not own]
        found[tokenizer.decode(own)] = tokenizer.decode(seen)
    end, user, opened = tokenizer.eos_token, "<|user|>", "<|assistant|>"
    replies = [f"{user}{'+' if letter < item.answer else '-'}{opened}" for letter in wrong]
    assert found == {
        f"{wrong[0]}{end}{wrong[1]}{end}{item.answer}{end}": "".join(replies),
        f"{wrong[0]}{end}xy": replies[0],
    }


def test_several_datasets_of_a_domain_are_read_together(tmp_path: Path) -> None:
    folders = [
        write_data(tmp_path / name, [("sort", (name,), n, False) for n in range(3)], ["sort", "reverse"])
        for name in ("a", "b")
    ]
    kept = written.Kept(folders, seed=lambda *parts: 0)
    assert Counter(found.turns[0] for found in kept.take("sort", 6, 6)) == {"a": 3, "b": 3}
    assert kept.samples["reverse"] == []


def test_nothing_kept_of_a_domain_is_said_with_a_remedy(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [("sort", ("x",), 0, False)], ["sort", "reverse"])
    job = sft_job(data, model, tmp_path / "run", {"sort": 1.0, "reverse": 1.0})
    with pytest.raises(MopdError, match="kept no answer of 'reverse': sample more of it"):
        run_stage(job, lambda done: None)


def test_data_of_other_prompts_is_refused(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [("sort", ("x",), 0, False)], ["sort"])
    job = sft_job(data, model, tmp_path / "run", {"sort": 1.0})
    other = replace(job, settings=job.settings.model_copy(update={"seed": 1}))
    with pytest.raises(MopdError, match="the domain has changed since"):
        run_stage(other, lambda done: None)
