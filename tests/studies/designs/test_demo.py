"""The demonstration, on tiny and on a real model: equal budgets, the document's figures, what people are shown."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mopdsim.recipes.catalogue import REAL_MODEL
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Merge
from studies.cli import demo as command
from studies.designs.systems.demo import DOMAINS as TINY
from studies.designs.systems.demo import FIGURES, demo_recipes, row_of
from studies.designs.systems.demo import REAL_DOMAINS as DOMAINS
from studies.designs.systems.real_recipes import real_recipes
from studies.designs.systems.side_by_side import Finished
from studies.framework.run import Run
from trainer.files.settings import FOR_REAL, Settings

SETTINGS = Settings.model_validate(FOR_REAL)


def ceilings(recipe: Recipe) -> list[float]:
    return [amounts.max_flops or 0 for amounts in recipe.amounts.values()]


@pytest.mark.parametrize("made", [demo_recipes(TINY), real_recipes(DOMAINS)], ids=["tiny", "real"])
def test_every_recipe_may_spend_the_same(made: dict[str, Recipe]) -> None:
    budgets = {name: sum(ceilings(recipe)) for name, recipe in made.items()}
    assert len(budgets) == 4 and max(budgets.values()) == pytest.approx(min(budgets.values()))


def test_specialists_are_shared() -> None:
    made = real_recipes(DOMAINS)
    for name in ("mopd", "off_policy", "merge"):
        for number in range(1, 5):
            stage = f"teacher_{number}"
            assert made[name].stage[stage] == made["mopd"].stage[stage]
            assert made[name].amounts[stage] == made["mopd"].amounts[stage]
    merge = made["merge"].stage["merged"]
    assert isinstance(merge, Merge) and [made["merge"].stage[name].init for name in merge.inputs] == [
        f"teacher_{number}" for number in range(1, 5)
    ]


def scored(pass_rate: float, greedy: float) -> dict[str, float]:
    return {"pass_rate": pass_rate, "se": 0.02, "greedy": greedy, "greedy_se": 0.04, "pass_8": 0.9}


def finished(student: dict[str, dict[str, float]]) -> Finished:
    recipe = real_recipes(DOMAINS)["mixed_rl"]
    flops = {"training": 6e12, "generation": 2e12, "evaluation": 5e12}
    summary = {"domains": student, "flops": flops, "wall_seconds": 30.0, "steps": 7}
    run = Run(name="mixed", recipe=recipe, settings=SETTINGS, model="m")
    return Finished(run=run, nodes={}, summaries={"mixed": summary})


def test_recovery_is_the_ratio_of_sums_of_greedy_gains() -> None:
    start = {domain: scored(0.1, 0.3) for domain in DOMAINS}
    teacher = {
        domain: scored(0.8, greedy) for domain, greedy in zip(DOMAINS, (0.9, 0.7, 0.5, 1.0), strict=True)
    }
    student = {
        domain: scored(0.9, greedy) for domain, greedy in zip(DOMAINS, (0.9, 0.3, 0.5, 0.9), strict=True)
    }
    row = row_of(finished(student), start, teacher, REAL_MODEL)
    assert row["recovery"] == pytest.approx((0.6 + 0.0 + 0.2 + 0.6) / (0.6 + 0.4 + 0.2 + 0.7))
    assert row["flops"] == 8e12 and row["steps"] == {"mixed": 7}
    assert row["scores"]["ask:gcd"]["student"] == {"t1": 0.9, "greedy": 0.5, "pass8": 0.9}
    assert set(row["scores"]["ask:gcd"]) == {"start", "teacher", "student"}
    assert set(FIGURES) == {"t1", "greedy", "pass8"}
    told = row["forecast"]["scores"]
    assert set(told) == set(DOMAINS) and all(0 < q["p10"] < q["p50"] < q["p90"] < 1 for q in told.values())


def document() -> dict[str, Any]:
    start = {domain: scored(0.1, 0.3) for domain in DOMAINS}
    teacher = {domain: scored(0.8, 0.9) for domain in DOMAINS}
    row = row_of(finished({domain: scored(0.7, 0.85) for domain in DOMAINS}), start, teacher, REAL_MODEL)
    return {
        "model": "smollm2-135m",
        "domains": list(DOMAINS),
        "recipes": {"mopd": row, "mixed_rl": row},
        "finding": "a tie",
        "seed": 3,
        "prompts": {"t1": 40, "greedy": 100},
        "samples_per_prompt": 8,
        "temperature": 1.0,
        "start_seconds": 20.0,
        "seconds": 400.0,
        "workers": 2,
        "threads": 1,
    }


def drawn(width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(command.measured(document()))
    return console.export_text()


def test_the_table_names_model_seed_temperature_and_prompts() -> None:
    text = drawn(140)
    for words in (
        "smollm2-135m, seed 3",
        "temperature 1 / greedy (40 x 8, 100 answers",
        "0.70 / 0.85",
        "92%",
        "8.0",
    ):
        assert words in text, text


def test_a_narrow_window_cuts_no_name_and_no_number() -> None:
    """Two domains cut after five letters are one."""
    text = drawn(80)
    assert "…" not in text and text.count("0.70 /") == 2 * len(DOMAINS) and "seconds" in text


def test_people_see_the_forecast_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.designs.systems.demo.run_demo", lambda **given: document())
    done = CliRunner().invoke(command.app, ["--model", "smollm2-135m"])
    assert done.exit_code == 0, done.output
    assert "forecast P10 to P90 (measured)" in done.stdout and done.stdout.count("(0.70)") == 2 * len(DOMAINS)


@pytest.mark.parametrize("model", ["tiny", "smollm2-135m"])
def test_the_command_runs_the_demo_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "studies.designs.systems.demo.run_demo", lambda **given: asked.update(given) or document()
    )
    arguments = ["--seed", "3", "--json"] + ([] if model == "tiny" else ["--model", model])
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 0, done.output
    assert asked["model"] == model and asked["seed"] == 3
    assert asked["engine"].store.root.parent.name == ("demo-3" if model == "tiny" else "demo-smollm2-135m-3")
    assert json.loads(done.stdout) == document()


def test_tiny_shows_what_it_measures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores at temperature 1, recovery of their gains, and a forecast of the seconds too."""

    def all_at(score: float) -> dict[str, dict[str, float]]:
        return {domain: {"pass_rate": score, "se": 0.02} for domain in TINY}

    settings = Settings(test_items=500)
    summary = {"domains": all_at(0.7), "flops": {"training": 2e11}, "wall_seconds": 30.0, "steps": 7}
    run = Run(name="mixed", recipe=demo_recipes(TINY)["mixed_rl"], settings=settings)
    found = Finished(run=run, nodes={}, summaries={"mixed": summary})
    row = row_of(found, all_at(0.4), all_at(0.8), "tiny")
    assert row["recovery"] == pytest.approx(0.75) and row["scores"]["sort"]["student"] == 0.7
    told = {**document(), "model": "tiny", "domains": list(TINY), "recipes": {"mopd": row}}
    told |= {"prompts": {"t1": 500, "greedy": 0}, "samples_per_prompt": 1}
    monkeypatch.setattr("studies.designs.systems.demo.run_demo", lambda **given: told)
    done = CliRunner().invoke(command.app, [])
    assert done.exit_code == 0, done.output
    for words in (
        "tiny, seed 3: temperature 1 (500 x 1 answers",
        "gains recovered",
        "75%",
        "0.200",
        "(30)",
    ):
        assert words in done.stdout
    assert "greedy" not in done.stdout
