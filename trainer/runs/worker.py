"""One stage from job to summary, whatever its kind: the function that a worker process runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, assert_never

import torch

from mopdsim.base.errors import DivergenceError, Interrupted
from mopdsim.base.run_directory import FAILED, INTERRUPTED
from mopdsim.recipes.recipe import BASE, Distill, Merge, Preference, RejectionSampling, RewardModel, Rl, Sft
from trainer.batch.meter import Meter
from trainer.model import processes
from trainer.runs.store import Store
from trainer.stages import distill, merge, preference, preflight, rejection, reward_model, rl, sft
from trainer.stages.job import Job, Report
from trainer.stages.loop import Metrics, scored_alone

ALGORITHM_VERSIONS: Mapping[str, int] = {
    "sft": sft.ALGORITHM_VERSION,
    "rl": rl.ALGORITHM_VERSION,
    "distill": distill.ALGORITHM_VERSION,
    "merge": merge.ALGORITHM_VERSION,
    "reward_model": reward_model.ALGORITHM_VERSION,
    "rejection_sampling": rejection.ALGORITHM_VERSION,
    "preference": preference.ALGORITHM_VERSION,
}


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
    match job.stage:
        case None:
            return _given(job, report)
        case Sft():
            return sft.run(job, job.stage, report)
        case Rl():
            return rl.run(job, job.stage, report)
        case Distill():
            return distill.run(job, job.stage, report)
        case Merge():
            return merge.run(job, job.stage, report)
        case RewardModel():
            return reward_model.run(job, job.stage, report)
        case RejectionSampling():
            return rejection.run(job, job.stage, report)
        case Preference():
            return preference.run(job, job.stage, report)
        case _:
            assert_never(job.stage)


def _given(job: Job, report: Report) -> Metrics:
    """The scores of a model that was given, once it is clear that it can be trained at all."""
    policy = job.load(BASE)
    finding = preflight.alone(policy, preflight.prompts_of(job))
    return scored_alone(job, policy, {}, Meter(), report) | {"preflight": [asdict(finding)]}
