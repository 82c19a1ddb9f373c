"""Merging stages: weights combined, then scored like any other stage's."""

from __future__ import annotations

from mopdsim.recipe import BASE, Merge
from trainer import merging
from trainer.atomic import atomic_directory
from trainer.evaluate import evaluate
from trainer.loop import Job, Metrics, Report, spent_summary
from trainer.meter import Meter
from trainer.models import load_policy

ALGORITHM_VERSION = 1


def run(job: Job, stage: Merge, report: Report) -> Metrics:
    """Write the merged weights and score them on the test prompts."""
    weights = stage.weights or (1.0,) * len(stage.inputs)
    match stage.method:
        case "average":
            combine = merging.average(weights)
        case "task_arithmetic":
            combine = merging.task_arithmetic(stage.scale, weights)
        case "ties":
            combine = merging.ties(stage.scale, stage.density, weights)
    with atomic_directory(job.directory / "weights") as partial:
        merging.merge_directories(
            combine, job.weights[stage.init], [job.weights[name] for name in stage.inputs], partial
        )
    report(0.5)
    settings = job.settings
    meter = Meter()
    scores = evaluate(
        load_policy(job.directory / "weights", device=settings.device, dtype=settings.dtype),
        job.tasks(),
        split="test",
        items=settings.test_items,
        temperature=settings.temperature,
        references={"start": job.load(BASE)},
        meter=meter,
    )
    return {"steps": 0, "domains": scores, **spent_summary(meter, job)}
