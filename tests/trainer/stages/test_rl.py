"""Reinforcement learning through the real loop, against REINFORCE worked out row by row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import GROUP, by_group, centred, reinforce
from small_world import (
    UNSCORED,
    Step,
    distance,
    gradient_of,
    job_of,
    logprobs_of,
    plain_model,
    run_watched,
    steps_in,
    write_domains,
    written_rows,
)
from torch import Tensor

from mopdsim.base.errors import DivergenceError, Interrupted, MopdError
from mopdsim.recipes.stage import BASE, Amounts, Rl
from trainer.batch import update
from trainer.files.settings import Settings
from trainer.stages import rl
from trainer.stages.loop import Job, Trainee
from trainer.tasks.jsonl import JsonlTask

pytestmark = pytest.mark.usefixtures("one_thread")


def rl_job(specs: dict[str, str], model: Path, directory: Path, **changes: Any) -> Job:
    """An RL stage over the small world's domains; `changes` of the stage, the amounts or the settings."""
    settings, amounts = (
        {key: changes.pop(key) for key in list(changes) if key in kind.model_fields}
        for kind in (Settings, Amounts)
    )
    return job_of(
        Rl(name="trained", domains=dict.fromkeys(specs.values(), 1.0), **changes),
        {BASE: model},
        directory,
        domains=list(specs.values()),
        settings=UNSCORED.model_copy(update=settings),
        **{"rollouts_per_prompt": GROUP, "prompts_per_step": 9, **amounts},
    )


def by_domain(step: Step) -> list[float]:
    rows = centred(step)
    found: list[float] = []
    for span in step.batch.spans.values():
        own = [x for row in rows[span.start // GROUP : span.stop // GROUP] for x in row]
        spread = math.sqrt(sum(x * x for x in own) / len(own))
        found += [x / spread if spread else 0.0 for x in own]
    return found


def unscaled(step: Step) -> list[float]:
    return [x for row in centred(step) for x in row]


@pytest.mark.parametrize("normalizer", ["token", "sequence"])
@pytest.mark.parametrize(
    ("scale", "advantages_of"), [("group", by_group), ("domain", by_domain), ("none", unscaled)]
)
def test_at_ratio_one_the_step_is_reinforce_with_a_group_baseline(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    normalizer: str,
    scale: str,
    advantages_of: Callable[[Step], list[float]],
) -> None:
    job = rl_job(small, model, tmp_path, advantage_scale=scale, normalizer=normalizer, zero_signal="keep")
    (step,), rows = run_watched(job)
    truth = plain_model(model)
    expected = gradient_of(reinforce(truth, step, advantages_of(step), normalizer=normalizer), truth)
    assert distance(step.gradient, expected) < 1e-4
    (row,) = steps_in(rows)
    assert row["ratio"] == pytest.approx(1, abs=1e-5) and row["clip"] == 0


@pytest.mark.parametrize("adapter_rank", [None, 2])
def test_in_bfloat16_the_ratio_stays_one_within_its_rounding(
    small: dict[str, str], model: Path, tmp_path: Path, adapter_rank: int | None
) -> None:
    """Samples and their scores come from the same numerics: 8 bits of mantissa are .4% a product."""
    options = {"zero_signal": "keep", "adapter_rank": adapter_rank, "dtype": "bfloat16"}
    (step,), rows = run_watched(rl_job(small, model, tmp_path, **options))
    (row,) = steps_in(rows)
    assert row["ratio"] == pytest.approx(1, abs=0.01) and row["clip"] < 0.01
    assert step.gradient and all(value.dtype == torch.float32 for value in step.gradient.values())
    if adapter_rank is None:
        truth = plain_model(model)
        expected = gradient_of(reinforce(truth, step, by_group(step)), truth)
        assert distance(step.gradient, expected) < 0.05


def test_samples_are_scored_at_the_temperature_they_were_drawn_at(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    (step,), rows = run_watched(rl_job(small, model, tmp_path, temperature=0.6, zero_signal="keep"))
    truth = plain_model(model)
    expected = gradient_of(reinforce(truth, step, by_group(step), temperature=0.6), truth)
    assert distance(step.gradient, expected) < 1e-4
    assert steps_in(rows)[0]["ratio"] == pytest.approx(1, abs=1e-5)


def test_reward_weights_multiply_a_domains_advantages(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    weights = {small["high"]: 3.0}
    job = rl_job(small, model, tmp_path, reward_weights=weights, zero_signal="keep", prompts_per_step=18)
    (step,), _ = run_watched(job)
    span, plain = step.batch.spans[small["high"]], by_group(step)
    weighted = [x * (3.0 if span.start <= b < span.stop else 1.0) for b, x in enumerate(plain)]
    assert weighted != plain
    truth = plain_model(model)
    assert distance(step.gradient, gradient_of(reinforce(truth, step, weighted), truth)) < 1e-4


def test_groups_without_signal_are_counted_and_dropped_or_kept(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    """Kept, they dilute the mean; dropped, only groups with both verdicts are in the batch."""
    steps = {}
    for choice in ("keep", "drop"):
        job = rl_job(small, model, tmp_path / choice, zero_signal=choice, prompts_per_step=20)
        (steps[choice],), rows = run_watched(job)
        (row,) = steps_in(rows)
        kept = steps["keep"].batch.reward_B.view(-1, GROUP)
        silent = int((kept.amax(1) == kept.amin(1)).sum())
        assert 0 < silent < 20 and row["zero_signal"] == pytest.approx(silent / 20)
        counted = sum(row["domains"][name]["zero_signal"] * row["prompts"][name] for name in row["domains"])
        assert counted == pytest.approx(silent)
    left = steps["drop"].batch.reward_B.view(-1, GROUP)
    assert len(left) == 20 - silent and bool((left.amax(1) > left.amin(1)).all())
    tokens = {choice: int(step.batch.rollouts.trained_BT.sum()) for choice, step in steps.items()}
    diluted = {
        name: value * tokens["drop"] / tokens["keep"] for name, value in steps["drop"].gradient.items()
    }
    assert distance(steps["keep"].gradient, diluted) < 1e-4


def test_a_batch_without_any_signal_changes_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All answers wrong: no step, no update, and the run goes on; at the end one sentence says so."""
    specs = write_domains(tmp_path)
    path = tmp_path / "low.jsonl"
    path.write_text(path.read_text().replace(r"(?s)[ -N].*|", "never said"))
    job = rl_job({"low": specs["low"]}, model, tmp_path / "job", steps=2)
    seen, rows = run_watched(job)
    assert seen == [] and [row["updates"] for row in steps_in(rows)] == [0, 0]
    assert "stage 'trained' learnt nothing: in none of its 2 steps" in capsys.readouterr().err
    assert all(row["zero_signal"] == 1 for row in steps_in(rows))
    trained, before = (plain_model(path).state_dict() for path in (tmp_path / "job" / "weights", model))
    assert all(torch.equal(trained[name], before[name]) for name in before)


def test_a_domain_that_has_lost_its_signal_is_said_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl, "SILENT_STEPS", 2)
    specs = write_domains(tmp_path)
    path = tmp_path / "low.jsonl"
    path.write_text(path.read_text().replace(r"(?s)[ -N].*|", "never said"))
    path = tmp_path / "even.jsonl"
    path.write_text(re.sub(r'"answer": "[^"]*"', '"answer": "(?s).*"', path.read_text()))
    run_watched(rl_job(specs, model, tmp_path / "job", steps=5, prompts_per_step=12))
    said = capsys.readouterr().err
    assert (
        said.count("for 2 steps all answers") == 1
        and f"of {specs['low']!r} had one reward (mean 0.00)" in said
    )


def test_several_updates_share_a_batch(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    whole, _ = run_watched(rl_job(small, model, tmp_path / "one", prompts_per_step=20, learning_rate=1e-2))
    job = rl_job(
        small, model, tmp_path / "three", prompts_per_step=20, updates_per_batch=3, learning_rate=1e-2
    )
    parts, rows = run_watched(job)
    (row,) = steps_in(rows)
    assert len(parts) == row["updates"] == 3
    answered = [
        sorted(item.prompt for step in steps for item in step.batch.items) for steps in (whole, parts)
    ]
    assert answered[0] == answered[1]  # every kept prompt once
    assert row["behaviour_kl"] > 1e-6  # the last update is off the policy that sampled
    for step in parts:
        assert [item.domain for item in step.batch.items] == [
            name for name, span in step.batch.spans.items() for _ in range((span.stop - span.start) // GROUP)
        ]


def test_the_kl_coefficient_pulls_towards_the_start(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    """At the second step: REINFORCE plus the gradient of the k3 estimate against the model it started from."""
    coefficient = 0.7
    job = rl_job(
        small, model, tmp_path, kl_coefficient=coefficient, steps=2, learning_rate=2e-2, zero_signal="keep"
    )
    caught: dict[str, Tensor] = {}
    own = Trainee.update

    def before_second(trainee: Trainee, *arguments: Any, **named: Any) -> Any:
        caught.update({name: value.clone() for name, value in trainee.policy.model.state_dict().items()})
        return own(trainee, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainee, "update", before_second)
        (_, step), rows = run_watched(job)
    now, start = plain_model(model), plain_model(model)
    now.load_state_dict(caught)
    loss = reinforce(now, step, by_group(step))
    tokens = int(step.batch.rollouts.trained_BT.sum())
    penalty = torch.zeros((), dtype=torch.float64)
    for _, prompt, response, trained in written_rows(step.batch):
        chosen = torch.tensor(response)[:, None]
        own_T, start_T = (logprobs_of(m, prompt, response).gather(1, chosen)[:, 0] for m in (now, start))
        towards_T = start_T.detach() - own_T
        penalty = penalty + (towards_T.exp() - 1 - towards_T)[torch.tensor(trained)].sum() / tokens
    assert distance(step.gradient, gradient_of(loss + coefficient * penalty, now)) < 1e-4
    first, second = steps_in(rows)
    assert first["reference_kl"] == pytest.approx(0, abs=1e-7)
    assert second["reference_kl"] == pytest.approx(float(penalty.detach()), rel=1e-4)


def test_the_staged_curriculum_lets_domains_in_over_the_first_half(
    small: dict[str, str], model: Path, tmp_path: Path
) -> None:
    job = rl_job(small, model, tmp_path, curriculum="staged", steps=12, prompts_per_step=6)
    _, rows = run_watched(job)
    entered = [len(row["prompts"]) for row in steps_in(rows)]
    assert entered == [1, 1, 2, 2] + [3] * 8
    assert list(steps_in(rows)[2]["prompts"]) == list(small.values())[:2]


def test_the_signal_curriculum_prefers_domains_that_are_half_solved(model: Path, tmp_path: Path) -> None:
    """A domain that is always solved keeps the least share, whatever the scale of its rewards."""
    specs = write_domains(tmp_path)
    path = tmp_path / "even.jsonl"
    path.write_text(path.read_text().replace("(?s)(..)*", "(?s).*"))
    scaled = {**specs, "even": specs["even"] + "&reward_scale=0.5"}
    job = rl_job(scaled, model, tmp_path / "job", curriculum="signal", steps=8, prompts_per_step=30)
    _, rows = run_watched(job)
    first, *_, last = steps_in(rows)
    assert first["prompts"] == dict.fromkeys(scaled.values(), 10)
    assert last["prompts"][scaled["even"]] < 6
    assert last["domains"][scaled["even"]]["reward"] == pytest.approx(0.5)


def test_scores_are_never_scaled(small: dict[str, str], model: Path, tmp_path: Path) -> None:
    spec = small["low"] + "&reward_scale=0.1"
    job = rl_job({"low": spec}, model, tmp_path)
    _, rows = run_watched(job)
    plain = rl_job({"low": small["low"]}, model, tmp_path / "plain")
    _, its_rows = run_watched(plain)
    assert steps_in(rows)[0]["reward"] == pytest.approx(0.1 * steps_in(its_rows)[0]["reward"])
    assert rows[0]["domains"][spec]["pass_rate"] == its_rows[0]["domains"][small["low"]]["pass_rate"]


def test_a_graders_exception_shows_the_prompt_and_the_completion(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: JsonlTask, item: Any, said: Sequence[str]) -> float:
        raise KeyError("points")

    monkeypatch.setattr(JsonlTask, "reward", broken)
    with pytest.raises(MopdError, match=r"KeyError: 'points'; prompt 'l\d\d', completion \[") as caught:
        run_watched(rl_job({"low": small["low"]}, model, tmp_path))
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_interrupt_during_grading_is_no_fault_of_the_grader(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(task: JsonlTask, item: Any, said: Sequence[str]) -> float:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(JsonlTask, "reward", stopped)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run_watched(rl_job({"low": small["low"]}, model, tmp_path))


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_a_divergence(
    small: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: float
) -> None:
    monkeypatch.setattr(JsonlTask, "reward", lambda task, item, said: reward)
    with pytest.raises(DivergenceError, match=rf"gave reward {reward} for 'l\d\d'") as caught:
        run_watched(rl_job({"low": small["low"]}, model, tmp_path))
    assert caught.value.exit_code == 4


def test_gradients_that_would_fill_the_memory_are_not_compared(
    small: dict[str, str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stepped(name: str) -> tuple[list[Step], bool, int]:
        steps, rows = run_watched(rl_job(small, model, tmp_path / name, steps=2, diagnose_every=1))
        compared = ["gradient_cosine" in row for row in steps_in(rows)]
        return steps, all(compared), capsys.readouterr().err.count("are not compared")

    apart, compared, said = stepped("apart")
    assert compared and not said
    weights = sum(p.numel() * p.element_size() for p in plain_model(model).parameters())
    monkeypatch.setattr(update, "memory_bytes", lambda device: 4 * len(small) * weights - 1)
    at_once, compared, said = stepped("at_once")
    assert not compared and said == 1
    for one, other in zip(apart, at_once, strict=True):
        assert distance(one.gradient, other.gradient) < 1e-5
