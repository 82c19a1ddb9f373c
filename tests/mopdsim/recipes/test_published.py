"""Published systems: every figure sourced, documents that forecast, reports' totals, pages that match."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.recipes import published
from mopdsim.recipes.catalogue import SYSTEMS
from mopdsim.recipes.stage import Amounts, Merge
from mopdsim.validate.totals import ppo_flops, validate
from tools.docs import recipe_of, stage_table, static_parts

DOCS = Path(__file__).parents[3] / "docs"


def test_every_system_has_its_figures() -> None:
    assert set(published.NAMES) == set(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_figure_has_grade_and_source_and_every_assumption_a_range(name: str) -> None:
    for row in published.system(name).figures.values():
        assert row.grade in ("published", "assumed") and len(row.source) > 5, row.path
        if row.grade == "assumed" and row.path.startswith("stages."):
            assert row.ends is not None and row.ends[0] < row.ends[1], row.path


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_table_of_a_stage_is_read(name: str) -> None:
    stages = [stage.name for stage in recipe_of(name).stages]
    read = {
        next(iter(found.values())).path
        for stage in stages
        if (found := published.system(name).of_stage("stages", stage))
    }
    paths = [path for path in published.system(name).figures if path.startswith("stages.")]
    given = {path.rpartition(".")[0] for path in paths}
    assert {path.rpartition(".")[0] for path in read} == given


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_forecasts_at_its_published_scale(name: str) -> None:
    found = forecast(scenario.from_document({**scenario.published_document(name), "draws": 100}))
    document = found.to_document()
    assert document["amounts"] == "published"
    for total in ("gpu_hours", "usd", "days"):
        assert 0 < document[total]["p10"] <= document[total]["p90"] < math.inf
    assert found.scores_DN.min() >= 0 and found.scores_DN.max() <= 1


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stage_has_amounts(name: str) -> None:
    for stage in recipe_of(name).stages:
        if not isinstance(stage, Merge):
            assert isinstance(published.amounts(name, stage.name), Amounts)


def test_counts_are_the_reports() -> None:
    ppo = published.amounts("instructgpt", "ppo")
    assert ppo.steps * ppo.prompts_per_step == 256_000
    zero = recipe_of("deepseek_r1_zero")
    assert zero.amounts["rl"].steps * zero.stages[0].updates_per_batch == 10_400  # type: ignore[union-attr]
    assert zero.amounts["rl"].prompts_per_step * zero.amounts["rl"].rollouts_per_prompt == 8_192
    own = published.amounts("deepseek_r1", "rl")
    assert own.steps == round(1_700 / 16)
    rlvr = published.amounts("nemotron3_ultra", "rlvr")
    assert (rlvr.steps, rlvr.prompts_per_step, rlvr.rollouts_per_prompt) == (178, 512, 16)


def test_numbers_of_teachers_are_the_reports() -> None:
    counted = {name: len(recipe_of(name).taught_from) for name in SYSTEMS}
    base = {"sft"}  # the student itself, of the general domains
    assert len(recipe_of("mimo_v2_flash").taught_from - base) == 6
    assert counted["deepseek_v4"] > 10 and counted["nemotron3_ultra"] > 2 * 10
    assert counted["mai_thinking_1"] == 3 and counted["instructgpt"] == counted["llama3"] == 0


def test_a_range_s_central_value_is_its_geometric_middle() -> None:
    assert published.amounts("deepseek_r1", "sft").steps == round(math.sqrt(12_574 * 18_861))
    assert scenario.published_document("deepseek_r1")["ranges"]["sft.steps"] == [12_574, 18_861]


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("r2_teacher_7", ("r2_teacher_7", "teacher_7", "teacher_*", "teacher")),
        ("sft_3", ("sft_3", "sft_*", "sft")),
        ("student", ("student",)),
    ],
)
def test_a_stage_s_table_is_found_by_role(stage: str, names: tuple[str, ...]) -> None:
    assert published.roles(stage) == names


def test_what_is_missing_is_loud() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'instructgpt'"):
        published.system("instrctgpt")
    with pytest.raises(UsageError, match=r"'juggling'.*add \[stages.juggling\]"):
        published.amounts("llama3", "juggling")


@pytest.mark.parametrize(
    "row", [[3, "published"], [3, "guessed", "x"], [3, "published", ""], [[5, 2], "assumed", "why"], 3]
)
def test_a_figure_without_grade_source_or_order_is_refused(row: object) -> None:
    with pytest.raises(UsageError, match=r"stages\.rl\.steps"):
        published.figure_of(row, "stages.rl.steps")


def test_published_totals_within_a_factor_two_and_the_r1_ones_inside() -> None:
    """InstructGPT's PPO lies above P90 (3.5e21 FLOPs against 5.2e21): its median alone is asserted."""
    rows = {row["system"]: row for row in validate()["predictions"]}
    assert set(rows) == {"deepseek_r1", "deepseek_r1_zero", "instructgpt"}
    assert all(row["within_factor_2"] for row in rows.values())
    assert rows["deepseek_r1"]["inside_80"] and rows["deepseek_r1_zero"]["inside_80"]
    assert rows["instructgpt"]["measured"] == pytest.approx(60 * 1e15 * 86_400)


def test_ppo_flops_are_the_passes_by_hand() -> None:
    """Six policy passes (sampling, old, reference, three of training), five of a 6B model, three on eight mixed
    examples, each 2 FLOPs a parameter and token; attention adds some per cent."""
    found = forecast(scenario.from_document(scenario.published_document("instructgpt")))
    episodes, policy, side = 256_000, 175e9, 6e9
    tokens = 166 + math.sqrt(234 * 1034)
    mixed = math.sqrt(1000 * 2048)
    by_hand = 2 * episodes * (tokens * (6 * policy + 5 * side) + 8 * mixed * 3 * policy)
    told = float(np.median(ppo_flops("instructgpt", "ppo", found)))
    assert told == pytest.approx(by_hand, rel=0.06)
    own = found.bills["ppo"].flops
    assert own["generation"] == pytest.approx(2 * episodes * tokens * policy, rel=0.06)


@pytest.mark.parametrize("name", SYSTEMS)
def test_committed_pages_match_the_code(name: str) -> None:
    page = (DOCS / "recipes" / f"{name}.md").read_text(encoding="utf-8")
    assert stage_table(name) in page, "stale: run python -m tools.docs"
    for part in static_parts(name):
        assert part in page, "stale: run python -m tools.docs"
    assert f"recipes/{name}.md" in (DOCS / "recipes.md").read_text(encoding="utf-8")
