"""One stage from job to summary, whatever its kind: the function that a worker process runs."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import torch

from mopdsim.errors import DivergenceError, MopdError
from mopdsim.recipe import BASE, Distill, Merge, Rl, Sft
from trainer import distill, merge, rl, sft
from trainer.atomic import sweep
from trainer.evaluate import evaluate
from trainer.loop import Job, Metrics, Report, spent_summary
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
    place = store.open(job.key, made_from)
    sweep(place)
    with (place / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MopdError(
                f"{place}: another process is working on this stage; wait for it or choose another --out"
            ) from None
        start = time.perf_counter()
        try:
            summary = _run(job, report)
        except DivergenceError:
            store.mark(job.key, "diverged")
            raise
        except MopdError:
            store.mark(job.key, "failed")
            raise
        summary["wall_seconds"] = time.perf_counter() - start
        store.close(job.key, summary)
    return summary


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
    scores = evaluate(
        job.load(BASE),
        job.tasks(),
        split="test",
        items=job.settings.test_items,
        temperature=job.settings.temperature,
        references={},
        meter=meter,
    )
    return {"steps": 0, "domains": scores, **spent_summary(meter, job)}
