"""Every recipe of the catalogue for two steps a stage on SmolLM2-135M, where its file is at hand: it ends with scores.

The start is the amounts' own, ten steps on the form of short answers: without it the model is right too seldom for
reward models and rejection sampling. Rates are a fifth of the amounts': two steps at the whole one, without a warm-up,
can leave a model that is right nowhere. The recipes share one store; what no other one needs is removed, for a stage
keeps half a gigabyte. All fourteen take some twelve CPU-minutes: two run always, the rest where the environment sets
MOPD_EVERY_RECIPE.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from small_world import check_stages

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE
from trainer.files.settings import FOR_REAL, Settings
from trainer.model.sources import cached_model
from trainer.runs.compute import resolve_dtype
from trainer.runs.execute import execute
from trainer.runs.plan import plan
from trainer.runs.progress import Progress
from trainer.runs.store import Store
from trainer.stages import reward_model

NAME = "smollm2-135m"
DOMAINS = ("ask:larger", "ask:after")  # the start is right in .40 and .46 of its answers
OPTIONS: dict[str, dict[str, Any]] = {
    "llama3": {"rounds": 1},
    "deepseek_r1": {"general": DOMAINS[1:]},  # or two domains leave its reward model out
}
PROMPTS, GROUP, SLOWER = 8, 4, 0.2


def two_steps(name: str) -> Recipe:
    """The recipe at amounts `real`, two steps a stage; where a prompt is answered once, more prompts."""
    made = catalogue.recipe(name, DOMAINS, amounts="real", **OPTIONS.get(name, {}))
    amounts = {}
    for stage, own in made.amounts.items():
        group = min(GROUP, own.rollouts_per_prompt)
        prompts = PROMPTS if group > 1 else 2 * PROMPTS
        few = {"steps": 2, "prompts_per_step": prompts, "rollouts_per_prompt": group}
        amounts[stage] = own.model_copy(update={**few, "learning_rate": SLOWER * own.learning_rate})
    return made.with_amounts(amounts)


RECIPES = {name: two_steps(name) for name in catalogue.CATALOGUE}
ALWAYS = ("mopd", "deepseek_r1")
EVERY = pytest.mark.skipif("MOPD_EVERY_RECIPE" not in os.environ, reason="MOPD_EVERY_RECIPE is not set")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if cached_model(NAME) is None:
        pytest.skip(f"{NAME} is not at hand: mopd train get-model {NAME}")
    root = tmp_path_factory.mktemp("store")
    yield Store(root=root)
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=EVERY) for name in RECIPES]
)
def test_a_recipe_ends_with_scores(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model, "NORMALISING_ANSWERS", 64)
    few = {
        "test_items": 8, "greedy_items": 8, "samples_per_prompt": 1, "validation_items": 1, "evaluate_every": 100,
        "score_others": "never", "dtype": resolve_dtype("auto", model=NAME, device="cpu"),
    }  # fmt: skip
    settings = Settings.model_validate({**FOR_REAL, **few})
    found = plan(RECIPES, model=NAME, settings=settings, store=store)
    recipe, keys = RECIPES[name], found.keys[name]
    summaries = execute(found.only(keys.values()), store, workers=1, progress=Progress(quiet=True))
    check_stages(recipe, keys, store, {BASE: store.weights(keys[BASE])})
    scores = summaries[keys[recipe.output]]["domains"]
    assert list(scores) == list(getattr(recipe.stage[recipe.output], "domains", DOMAINS))
    assert all(row["n"] == 8 and 0 <= row["greedy"] <= 1 for row in scores.values())
    others = {key for other, own in found.keys.items() if other != name for key in own.values()}
    for key in set(keys.values()) - others:
        shutil.rmtree(store.directory(key))
