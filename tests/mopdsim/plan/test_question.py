"""The planner's question: every shipped one reads, and every bad one is one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from mopdsim.plan.question import FAMILIES, Question, from_document, load, loads

QUESTIONS = sorted((Path(__file__).parents[3] / "studies" / "questions").glob("*.toml"))
PLAIN: dict[str, Any] = {"domains": ["sort", "reverse"], "deadline_days": 0.1}


def test_questions_ship() -> None:
    assert len(QUESTIONS) >= 4


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_a_shipped_question_reads(path: Path) -> None:
    question = load(path)
    assert question.limits and question.most_gpu_hours > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": 5}, "unknown key 'budget' (did you mean 'budget_usd'?)"),
        ({"weeks": 12}, "unknown key 'weeks' (use deadline_days: a week is 7)"),
        ({"pools": {"a": 8}}, "unknown key 'pools' (use gpus"),
        ({"minimum": 0.5}, "minimum = 0.5: must be a table by domain: [minimum], then sort = 0.5"),
        ({"domains": ["sort", "law"], "domain": {"law": {"start": 0.3}}}, 'for a new one add like = "NAME"'),
        ({"domain": 3}, "domain = 3: must be a table"),
        ({"deadline_days": None}, "no limit: give budget_usd"),
        ({"deadline_days": -1}, "deadline_days = -1: must be a finite number above 0"),
        ({"budget_gpu_hours": 0}, "budget_gpu_hours = 0: must be a finite number above 0"),
        ({"domains": []}, "must be a list of names"),
        ({"domains": ["sort", "sort"]}, "'sort' is listed twice"),
        ({"domains": ["sort"] * 25}, "25 domains: at most 24"),
        ({"domains": ["sorting_hat"]}, "domain 'sorting_hat' is not in the table"),
        ({"objective": "median"}, "objective = 'median': no such objective (did you mean 'mean'?)"),
        ({"objective": "weighted"}, "weights.sort is missing"),
        ({"weights": {"sort": 1.0}}, "weights are read by objective 'weighted' alone"),
        (
            {"objective": "weighted", "weights": {"sort": 0}},
            "weights.sort = 0: must be a finite number above 0",
        ),
        ({"minimum": {"sort": 1.5}}, "minimum.sort = 1.5: must be a finite number from 0 to 1"),
        ({"minimum": {"shift": 0.5}}, "minimum.shift: no such domain"),
        ({"families": []}, "families = []: must be a list"),
        (
            {"families": ["cascade_rl"], "domains": ["sort"]},
            "families = ['cascade_rl']: with 1 domain(s)",
        ),
        ({"families": ["merge"], "max_teachers": 1}, "at most 1 teacher(s) there is nothing to merge"),
        ({"families": ["merge"], "max_teachers": "x"}, "max_teachers = 'x'"),
        ({"families": ["moped"]}, "no family 'moped' (did you mean 'mopd'?)"),
        ({"confidence": 0.2}, "confidence = 0.2: must be a finite number from 0.5 to 0.99"),
        ({"max_teachers": 0}, "max_teachers = 0: must be a whole number"),
        ({"max_rounds": 9}, "max_rounds = 9: must be a whole number from 1 to 3"),
        ({"draws": 0}, "draws = 0: must be a whole number"),
        ({"batch": {"prompts": 3}}, "batch: unknown key 'prompts'"),
        ({"batch": {"rollouts": 10_000}}, "batch.rollouts = 10000"),
        ({"portfolio": [[]]}, "portfolio = [[]]: must be a list of releases"),
        ({"portfolio": [["math"]]}, "portfolio: no domain 'math'"),
        ({"conflict": {"sort>math": [0, 1]}}, "two domains of the recipe"),
        ({"gpu": "H1000"}, "GPU 'H1000' is not in the table"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    document = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    with pytest.raises(MopdError) as caught:
        from_document(document, source="q.toml")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_text_and_files() -> None:
    assert loads('domains = ["sort"]\ndeadline_days = 1').domains == ("sort",)
    with pytest.raises(UsageError, match="not valid TOML"):
        loads("domains = [")
    with pytest.raises(NotFoundError, match="no such file"):
        load(Path("nowhere.toml"))


def test_domains_may_be_named_by_their_tables() -> None:
    question = from_document(
        {"deadline_days": 1, "domain": {"sort": {"start": 0.5}, "mine": {"like": "shift"}}}
    )
    assert question.domains == ("sort", "mine")
    assert question.families == FAMILIES


def test_limits_in_gpu_hours() -> None:
    question = from_document(
        {**PLAIN, "gpus": 4, "budget_gpu_hours": 100, "budget_usd": 30, "usd_per_gpu_hour": 1.0}
    )
    assert question.most_gpu_hours == pytest.approx(0.1 * 24 * 4)
    assert from_document({**PLAIN, "budget_usd": 2, "usd_per_gpu_hour": 4.0}).most_gpu_hours == pytest.approx(
        0.5
    )


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"objective": "mean"}, 0.5),
        ({"objective": "worst"}, 0.15),
        ({"objective": "weighted", "weights": {"sort": 3.0, "reverse": 1.0}}, 0.35),
        ({"objective": "p10"}, 0.46),
    ],
)
def test_objectives_by_hand(settings: dict[str, Any], wanted: float) -> None:
    question: Question = from_document({**PLAIN, **settings})
    scores_DN = np.array([[0.1, 0.3], [0.8, 0.8]])  # means .45 and .55; worst .1 and .3 -> .2
    if settings["objective"] == "worst":
        scores_DN = np.array([[0.1, 0.3], [0.8, 0.2]])
    assert question.value(question.utility(scores_DN)) == pytest.approx(wanted)


def test_a_frontier_question_has_a_frontier_batch() -> None:
    frontier = from_document({"domains": ["math"], "budget_usd": 1e6, "batch": {"rollouts": 4}})
    assert frontier.amounts("rl", 7).prompts_per_step == 512
    assert frontier.amounts("rl", 7).rollouts_per_prompt == 4
    student = frontier.amounts("distill", 7, group=4)
    assert student.prompts_per_step * student.rollouts_per_prompt == 1024
