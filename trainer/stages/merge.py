"""Merging stages: weights combined, then scored like any other stage's."""

from __future__ import annotations

from mopdsim.base.run_directory import WEIGHTS
from mopdsim.recipes.stage import Merge
from trainer.batch.meter import Meter
from trainer.files.atomic import atomic_directory
from trainer.model import merging, processes
from trainer.model.loading import load_policy
from trainer.stages.loop import Job, Metrics, Report, scored_alone

ALGORITHM_VERSION = 2  # 2: TIES rounds the number of kept changes down


def run(job: Job, stage: Merge, report: Report) -> Metrics:
    """Write the merged weights and score them on the test prompts."""
    meter = Meter()
    weights = stage.weights or (1.0,) * len(stage.inputs)
    match stage.method:
        case "average":
            combine = merging.average(weights)
        case "task_arithmetic":
            combine = merging.task_arithmetic(stage.scale, weights)
        case "ties":
            combine = merging.ties(stage.scale, stage.density, weights)
    if processes.leads():
        sources = [job.weights[name] for name in stage.inputs]
        with atomic_directory(job.directory / WEIGHTS) as partial:
            merging.merge_directories(combine, job.weights[stage.init], sources, partial)
    processes.agreed(None)  # the others wait for the files
    policy = load_policy(job.directory / WEIGHTS, **job.loading())
    return scored_alone(job, policy, meter, report)
