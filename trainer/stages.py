"""One stage from job to summary, whatever its kind: the function that a worker process runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import torch

from mopdsim.errors import DivergenceError, Interrupted
from mopdsim.recipe import BASE, Distill, Merge, Rl, Sft
from trainer import distill, merge, rl, sft
from trainer.log import Log
from trainer.loop import Job, Metrics, Report, score, spent_summary
from trainer.meter import Meter
from trainer.store import Store

ALGORITHM_VERSIONS: Mapping[str, int] = {
    "sft": sft.ALGORITHM_VERSION,
    "rl": rl.ALGORITHM_VERSION,
    "distill": distill.ALGORITHM_VERSION,
    "merge": merge.ALGORITHM_VERSION,
}


def run_job(job: Job, made_from: Mapping[str, Any], store_root: Path, report: Report) -> Metrics:
    """Run a stage into the store and return its summary. What it did before a kill is taken up again."""
    store = Store(root=store_root)
    torch.set_num_threads(job.settings.threads)
    with store.held(job.key):
        if store.finished(job.key):  # by another run, since this one was planned
            return store.summary(job.key)
        store.open(job.key, made_from)
        start = time.perf_counter()
        try:
            summary = _run(job, report)
        except Exception as error:
            store.mark(job.key, _status_of(error))
            raise
        summary["wall_seconds"] = time.perf_counter() - start
        store.close(job.key, summary)
    return summary


def _status_of(error: Exception) -> str:
    match error:
        case Interrupted():
            return "interrupted"
        case DivergenceError():
            return "diverged"
        case _:
            return "failed"


def _run(job: Job, report: Report) -> Metrics:
    match job.stage:
        case None:
            return _score_base(job)
        case Sft():
            return sft.run(job, job.stage, report)
        case Rl():
            return rl.run(job, job.stage, report)
        case Distill():
            return distill.run(job, job.stage, report)
        case Merge():
            return merge.run(job, job.stage, report)
        case _:
            assert_never(job.stage)


def _score_base(job: Job) -> Metrics:
    """The scores of the model that a recipe starts from."""
    meter = Meter()
    with Log(job.directory / "metrics.jsonl") as log:
        scores = score(job, job.load(BASE), job.tasks(), "test", step=0, against={}, meter=meter, log=log)
    return {"steps": 0, "domains": scores, **spent_summary(meter, job)}
