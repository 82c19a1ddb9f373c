"""The demonstration on a real open model: four kinds of short questions, their specialists, one student, the rivals.

As in `studies.designs.systems.demo` every recipe spends the same training FLOPs, teachers counted, the common start and
evaluation not (`studies.designs.systems.real_recipes`). Scores are of fixed test prompts: at temperature 1 and pass@8
from the same samples, and greedy; recovery is of greedy gains, which no sharpening of the distribution alone brings
about. Leaves out: which recipe is better in general.
"""

from __future__ import annotations

import time
from typing import Any

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE
from studies.designs.systems.demo import Scored, before_the_student, finding, gained
from studies.designs.systems.real_recipes import UNBOUNDED, real_recipes
from studies.designs.systems.side_by_side import Engine, Finished, about, scores_of_a_test
from studies.framework.run import Run
from trainer.files.settings import FOR_REAL, Settings
from trainer.runs.compute import resolve_dtype

DOMAINS = catalogue.REAL_DOMAINS
# In the document, and in a stage's scores.
FIGURES = {"t1": "pass_rate", "greedy": "greedy", "pass8": "pass_8"}


def settings_of(*, seed: int, threads: int) -> Settings:
    """Few prompts, and of a specialist its own domain alone: evaluation would else cost as much as training. A
    checkpoint is 1.6 GB: one a few minutes."""
    own = {
        "validation_items": 8,
        "evaluate_every": UNBOUNDED,
        "score_others": "never",
        "checkpoint_every": 50,
    }
    return Settings.model_validate({**FOR_REAL, **own, "seed": seed, "threads": threads})


def run_real_demo(*, model: str, seed: int, threads: int, engine: Engine) -> dict[str, Any]:
    """Run what the store does not hold yet; returns the document of `mopd demo --model MODEL --json`."""
    begun = time.perf_counter()
    dtype = resolve_dtype("auto", model=model, device="cpu")
    settings = settings_of(seed=seed, threads=threads).model_copy(update={"dtype": dtype})
    made = real_recipes(DOMAINS)
    found = engine.carry_out(
        Run(name=name, recipe=recipe, settings=settings, model=model) for name, recipe in made.items()
    )
    start, teacher = before_the_student(found["mopd"])
    shape = str(engine.store.weights(found["mopd"].nodes[BASE].key) / "config.json")
    table = {name: row_of(run, start, teacher, shape) for name, run in found.items()}
    return {
        "model": model,
        "domains": list(DOMAINS),
        "recipes": table,
        "finding": finding(table),
        "seed": seed,
        "prompts": {"t1": settings.test_items, "greedy": settings.greedy_items},
        "samples_per_prompt": settings.samples_per_prompt,
        "temperature": settings.temperature,
        "settings": settings.model_dump(mode="json"),
        "start_seconds": float(found["mopd"].summaries[BASE]["wall_seconds"]),
        "workers": engine.workers,
        "threads": threads,
        **about("cpu", begun),
    }


def row_of(found: Finished, start: Scored, teacher: Scored, shape: str) -> dict[str, Any]:
    """One recipe's row of the document. shape: the path of the model's config.json. The forecast is of scores at
    temperature 1, and takes the answers to one prompt for answers to as many prompts."""
    answers = found.run.settings.test_items * found.run.settings.samples_per_prompt
    sides = {"start": start, "teacher": teacher, "student": found.domains()}
    return {
        "scores": {
            domain: {
                name: {shown: side[domain][key] for shown, key in FIGURES.items()}
                for name, side in sides.items()
            }
            for domain in DOMAINS
        },
        **gained(found, start, teacher, figure="greedy"),
        "forecast": {"scores": scores_of_a_test(found.run.recipe, answers, shape)},
        "steps": {stage.name: found.summaries[stage.name]["steps"] for stage in found.run.recipe.stages},
    }
