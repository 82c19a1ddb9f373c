"""One stage from job to summary, whatever its kind: the function that a worker process runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from mopdsim.base.errors import DivergenceError, Interrupted
from mopdsim.base.run_directory import FAILED, INTERRUPTED
from mopdsim.recipes.stage import BASE
from trainer.batch.meter import Meter
from trainer.model import processes
from trainer.runs.store import Store
from trainer.stages import distill, merge, preference, preflight, rejection, reward_model, rl, sft
from trainer.stages.job import Job, Report
from trainer.stages.loop import Metrics, scored_alone

KINDS: Mapping[str, ModuleType] = {
    "sft": sft,
    "rl": rl,
    "distill": distill,
    "merge": merge,
    "reward_model": reward_model,
    "rejection_sampling": rejection,
    "preference": preference,
}
ALGORITHM_VERSIONS: Mapping[str, int] = {kind: loop.ALGORITHM_VERSION for kind, loop in KINDS.items()}


def run_job(job: Job, made_from: Mapping[str, Any], store_root: Path, report: Report) -> Metrics:
    """Run a stage into the store and return its summary. What it did before a kill is taken up again."""
    store, leads = Store(root=store_root), processes.leads()
    torch.set_num_threads(job.settings.threads)
    with store.held(job.key) if leads else nullcontext():
        # it may be finished by another run, since this one was planned
        if processes.agreed(store.finished(job.key) if leads else False):
            return store.summary(job.key)
        if not leads:
            found = run_stage(job, report)
            return processes.agreed(found)
        store.open(job.key, made_from)
        try:
            summary = run_stage(job, report)
        except Exception as error:
            store.mark(job.key, _status_of(error))
            raise
        store.close(job.key, summary)
    return processes.agreed(summary)


def _status_of(error: Exception) -> str:
    match error:
        case Interrupted():
            return INTERRUPTED
        case DivergenceError():
            return "diverged"
        case _:
            return FAILED


def run_stage(job: Job, report: Report) -> Metrics:
    """The loop of the stage's kind, in the job's directory; its summary."""
    if job.stage is None:
        return _given(job, report)
    found: Metrics = KINDS[job.stage.kind].run(job, job.stage, report)
    return found


def _given(job: Job, report: Report) -> Metrics:
    """The scores of a model that was given, once it is clear that it can be trained at all."""
    policy = job.load(BASE)
    found = preflight.alone(policy, preflight.prompts_of(job))
    return scored_alone(job, policy, Meter(), report) | {"preflight": found}
