"""Every recipe of the catalogue for two steps a stage on SmolLM2-135M, where its file is at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_world import shrunk

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE
from trainer.files.settings import FOR_REAL, Settings
from trainer.model.sources import cached_model
from trainer.runs.compute import resolve_dtype
from trainer.runs.progress import Progress
from trainer.runs.run import run_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NAME = "smollm2-135m"
DOMAINS = ("ask:first_letter", "ask:nth", "ask:larger", "ask:longer", "ask:swap", "ask:after")
FEW = {
    "test_items": 4,
    "samples_per_prompt": 2,
    "greedy_items": 4,
    "validation_items": 2,
    "evaluate_every": 100,
    "max_truncation": 1.0,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the start that all recipes share; other stages are half a gigabyte each and go after their test."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(catalogue.CATALOGUE))
def test_two_steps_of_every_stage_on_a_real_model(name: str, store: Path, tmp_path: Path) -> None:
    if cached_model(NAME) is None:
        pytest.skip(f"{NAME} is not at hand: mopd train get-model {NAME}")
    recipe = shrunk(
        catalogue.recipe(name, DOMAINS, amounts="real"),
        prompts_per_step=12,
        learning_rate=3e-5,
    )
    summary = run_recipe(
        recipe,
        model=NAME,
        smaller=NAME if "smaller" in recipe.roots else None,
        settings=Settings.model_validate(
            {**FOR_REAL, **FEW, "dtype": resolve_dtype("auto", model=NAME, device="cpu")}
        ),
        out=tmp_path / "run",
        store_root=store,
        workers=1,
        progress=Progress(quiet=True),
    )
    assert {stage.name for stage in recipe.stages} < set(summary["stages"])
    for row in summary["scores"].values():
        assert 0 <= row["final"] <= 1
    assert summary["stages"][BASE]["steps"] == 10, "the start on the form of answers"
    for place in store.iterdir():
        if place.name != summary["stages"][BASE]["key"]:
            shutil.rmtree(place)
    shutil.rmtree(tmp_path / "run")
