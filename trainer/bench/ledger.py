"""What a ledger (`trainer.stages.ledger`) adds to a distillation's step.

A student of random weights is distilled from random teachers with a ledger and without, in turn; both draw the same
prompts and samples. Leaves out: what a ledger costs in memory; open models, for it outgrew 9.5 GB on
SmolLM2-135M with two teachers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from mopdsim.recipes import catalogue
from mopdsim.recipes.stage import BASE, Amounts, Distill
from trainer.bench.step import LEARNING_RATE, REPEATS, size_of
from trainer.files.settings import HARDLY_SCORED, Settings
from trainer.model.loading import save_policy
from trainer.stages import distill
from trainer.stages.job import Job, Note

DOMAINS = ("sort", "reverse", "shift")  # a teacher each
STEPS = 12
PROMPTS = (32, 128)  # of a step: as in the tiny amounts, and a larger one
WARM_UP = 2  # steps of each distillation that do not count
SETTINGS = Settings.model_validate(
    {**HARDLY_SCORED, "max_truncation": 1.0}
)  # random weights seldom end an answer


def bench_ledger(
    name: str = "0.36M", *, prompts: int, repeats: int = REPEATS, steps: int = STEPS
) -> dict[str, Any]:
    """Median CPU-seconds of a step with a ledger and without, over the steps of `repeats` distillations each, and their
    ratio. The stage is that of the recipe mopd with three teachers; prompts: of a step."""
    recipe, size = catalogue.recipe("mopd", DOMAINS), size_of(name)
    stage = recipe.stage[recipe.output]
    assert isinstance(stage, Distill)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        weights = {own: Path(folder) / own for own in (BASE, *stage.teacher_names)}
        for seed, place in enumerate(weights.values()):
            save_policy(size.policy(seed), place)
        for turn in range(repeats):
            for kept in seconds:
                job = Job(
                    key="ledger",
                    stage=stage,
                    amounts=Amounts(
                        steps=steps, prompts_per_step=prompts, learning_rate=LEARNING_RATE, ledger=kept
                    ),
                    settings=SETTINGS,
                    domains=DOMAINS,
                    weights=weights,
                    directory=Path(folder) / f"{turn}_{kept}",
                )
                job.directory.mkdir()
                seconds[kept] += _steps(job, stage)[WARM_UP:]
    without, with_it = (statistics.median(own) for own in seconds.values())
    return {
        "without_cpu_s": without,
        "with_cpu_s": with_it,
        "steps": len(seconds[True]),
        "ratio": with_it / without,
    }


def _steps(job: Job, stage: Distill) -> list[float]:
    """CPU-seconds of each step."""
    at: dict[float, float] = {}  # when the loop first said that so much was done

    def noted(note: Note) -> None:
        at.setdefault(note.done, time.process_time())

    distill.run(job, stage, noted)
    return [after - before for before, after in pairwise(at.values())]
