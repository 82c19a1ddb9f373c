"""Errors that peers make without a word, and the tests that keep them out of here: one row each.

A row's tests must exist; those that are nowhere else are below.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_world import SETTINGS, carry_out, job_of, run_watched, shrunk, steps_in

from mopdsim import recipes
from mopdsim.errors import MopdError, UsageError
from mopdsim.recipe import BASE, Distill, Recipe, Sft, Teacher
from trainer.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS: dict[str, tuple[str, ...]] = {  # what goes wrong elsewhere, in short, and the tests of it here
    "loss divided by the dataset's label count": (
        "test_losses.test_the_same_batch_split_differently_gives_the_same_gradient",
        "test_update.test_any_cut_gives_the_gradient_of_the_whole",
        "test_distill.test_small_batches_make_the_same_gradient",
        "test_silent_errors.test_a_loss_is_a_mean_whatever_the_size_of_the_batch",
    ),
    "two different teachers give bit-identical gradients": (
        "test_distill.test_a_different_teacher_gives_a_different_gradient",
        "test_losses.test_a_different_teacher_gives_a_different_gradient_beside_a_reward",
        "test_preflight.test_equal_teachers_and_a_teacher_equal_to_the_student_are_refused",
    ),
    "a config key that no code reads": (
        "test_recipe.test_every_mistake_is_one_sentence_with_the_remedy",
        "test_silent_errors.test_every_setting_of_a_run_is_read",
        "test_silent_errors.test_every_setting_of_a_stage_changes_the_run",
    ),
    "unknown domain falls back to a default teacher": (
        "test_recipe.test_every_mistake_is_one_sentence_with_the_remedy",
        "test_cli.test_a_mistake_is_one_sentence_and_an_exit_code",
        "test_distill.test_every_prompt_has_one_route",
    ),
    "batches cut to the shortest domain's length": (
        "test_distill.test_no_domain_is_starved_and_no_prompt_lost",
        "test_distill.test_every_row_learns_from_its_own_teacher",
        "test_distill.test_several_teachers_divide_a_domains_samples_by_weight",
    ),
    "top-k reverse KL without a tail": (
        "test_losses.test_top_k_holds_a_student_that_leaves_the_support",
        "test_losses.test_top_k_falls_short_of_the_full_kl_by_what_happens_outside",
        "test_silent_errors.test_the_mass_inside_the_top_k_is_logged",
    ),
    "teacher and student tokenizers differ": (
        "test_preflight.test_another_tokenizer_is_refused_though_sizes_agree",
        "test_distill.test_another_tokenizer_is_refused_before_the_first_step",
        "test_distill.test_the_padded_tail_of_a_teachers_vocabulary_is_masked",
    ),
    "end-of-sequence ids differ": (
        "test_preflight.test_other_end_of_sequence_ids_are_refused",
        "test_resume.test_endless_answers_stop_the_run",
    ),
    "teacher sees another chat template": ("test_distill.test_each_model_reads_its_own_chat_template",),
    "missing log-prob counted as 0.0": ("test_losses.test_positions_without_a_log_prob_are_masked_not_zero",),
    "sampling distribution (top-k, top-p, temperature)": (
        "test_rollout.test_behaviour_logprob_is_the_training_forwards",
        "test_rl.test_samples_are_scored_at_the_temperature_they_were_drawn_at",
        "test_distill.test_samples_and_scores_have_one_temperature",
        "test_silent_errors.test_truncated_sampling_is_no_setting",
    ),
    "a grader's exception becomes reward 0": (
        "test_rl.test_a_graders_exception_shows_the_prompt_and_the_completion",
        "test_tasks_gym.test_other_exceptions_of_a_grader_propagate",
    ),
    "resume desynchronises routing or data": (
        "test_resume.test_a_split_stage_equals_a_straight_one",
        "test_resume.test_killed_at_random_and_in_the_middle_of_saves_it_ends_as_if_unbroken",
    ),
}


@pytest.mark.parametrize("error", ROWS)
def test_every_silent_error_has_its_tests(error: str) -> None:
    for name in ROWS[error]:
        module, _, function = name.partition(".")
        found = getattr(importlib.import_module(module), function)
        assert callable(found) and function.startswith("test_")


def test_the_table_of_peers_errors_is_covered() -> None:
    """Where the table itself is at hand: the same rows, in its order."""
    table = Path(__file__).parents[2] / "shared" / "trainers.md"
    if not table.is_file():
        pytest.skip("the table is not at hand")
    section = table.read_text().partition("## Silent errors")[2].partition("\n\n**")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(ROWS)
    for row, error in zip(rows, ROWS, strict=True):
        assert error in row


# What is tested nowhere else.


def teach(small: dict[str, str], **options: Any) -> Distill:
    low = small["low"]
    return Distill(
        name="student", domains={low: 1.0}, teachers=(Teacher(stage="a", domains=(low,)),), **options
    )


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from small_world import write_model

    return {BASE: model, "a": write_model(tmp_path_factory.mktemp("teacher"), seed=2)}


def test_a_loss_is_a_mean_whatever_the_size_of_the_batch(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    """The reported loss of 4 and of 64 prompts is of one size: that of the KL a token."""
    losses = {}
    for prompts in (4, 64):
        job = job_of(
            teach(small), weights, tmp_path / str(prompts), domains=[small["low"]], prompts_per_step=prompts
        )
        (step,), rows = run_watched(job)
        (row,) = steps_in(rows)
        losses[prompts] = step.loss
        assert step.loss == pytest.approx(row["domains"][small["low"]]["kl"], rel=1e-5)
    assert losses[4] == pytest.approx(losses[64], rel=0.5)


def test_the_mass_inside_the_top_k_is_logged(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path
) -> None:
    stage = teach(small, loss="top_k_reverse_kl", top_k=4)
    _, rows = run_watched(job_of(stage, weights, tmp_path, domains=[small["low"]]))
    row = steps_in(rows)[0]["domains"][small["low"]]
    assert 0 < row["teacher_mass"] < 1 and 4 / 102 < row["student_mass"] < 1


def test_truncated_sampling_is_no_setting() -> None:
    for key in ("top_k", "top_p"):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            Settings.model_validate({key: 1})
    with pytest.raises(ValidationError, match="greater than 0"):
        Settings(temperature=0.0)


def test_every_setting_of_a_run_is_read() -> None:
    """No setting is without a line of the trainer that reads it."""
    source = "".join(path.read_text() for path in (Path(__file__).parents[1] / "trainer").rglob("*.py"))
    for name in Settings.model_fields:
        assert re.search(rf"(settings|chosen)\.{name}\b", source), name


OPTIONS: dict[str, dict[str, Any]] = {  # a setting of a distillation stage, and what it needs to matter
    "loss": {"loss": "forward_kl"},
    "on_policy": {"on_policy": False},
    "correct_only": {"on_policy": False, "correct_only": True},
    "jensen_shannon_beta": {"loss": "jensen_shannon", "jensen_shannon_beta": 0.2},
    "top_k": {"loss": "top_k_reverse_kl", "top_k": 3},
    "reward_mix": {"reward_mix": 0.5},
    "extrapolation": {"extrapolation": 1.5},
    "normalizer": {"normalizer": "sequence"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_setting_of_a_stage_changes_the_run(
    small: dict[str, str], weights: dict[str, Path], tmp_path: Path, option: str
) -> None:
    """The same seed and batch without the setting give another gradient."""
    gradients = []
    for number, chosen in enumerate(
        (OPTIONS[option], {k: v for k, v in OPTIONS[option].items() if k != option})
    ):
        stage = teach({"low": small["even"].replace("tokens=6", "tokens=9")}, **chosen)
        domains = list(stage.domains)
        job = job_of(stage, weights, tmp_path / str(number), domains=domains, rollouts_per_prompt=4)
        (step,), _ = run_watched(job)
        gradients.append(torch.cat([value.flatten() for value in step.gradient.values()]))
    assert float((gradients[0] - gradients[1]).norm()) > 1e-3 * float(gradients[0].norm())


def test_too_few_prompts_to_score_are_found_before_anything_runs(
    model: Path, small: dict[str, str], tmp_path: Path
) -> None:
    """And not when hours of training end."""
    settings = SETTINGS.model_copy(update={"test_items": 21})
    recipe = shrunk(recipes.recipe("mopd", list(small.values())))
    with pytest.raises(UsageError, match="21 distinct test prompts asked for, 20 exist"):
        carry_out(recipe, model, tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_what_a_regex_domain_cannot_do_is_said(model: Path, small: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe(
        name="tuned",
        domains=(small["low"],),
        amounts_name="tiny",
        stages=(Sft(name="tuned", domains={small["low"]: 1.0}),),
        amounts={"tuned": {"steps": 2, "prompts_per_step": 2, "learning_rate": 1e-3}},  # type: ignore[dict-item]
        output="tuned",
    )
    with pytest.raises(MopdError, match="has no demonstrations"):
        carry_out(recipe, model, tmp_path / "run")
