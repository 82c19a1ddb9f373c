"""Run by tests in several processes: one stage, carried out together. RANK and WORLD_SIZE are those of a launcher.

torchrun ranks.py JOB.pickle OUT.pt     writes the last update's gradient, the batches and the weights (process 0)
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from trainer.model import processes
from trainer.runs.worker import run_job
from trainer.stages.job import Job
from trainer.stages.loop import Trainee


def watched(job: Job, store: Path) -> dict[str, Any]:
    """What a stage did: by step its gradient and its batch's tokens; and its final weights."""
    from safetensors.torch import load_file

    seen: list[dict[str, Any]] = []
    own = Trainee.apply

    def apply(trainee: Trainee, loss: float, batch: Any) -> Any:
        named = trainee.policy.model.named_parameters()
        gradient = {name: p.grad.clone() for name, p in named if p.grad is not None}
        seen.append({"loss": loss, "gradient": gradient, "response": batch.rollouts.response_BT.clone()})
        return own(trainee, loss, batch)

    Trainee.apply = apply  # type: ignore[method-assign]
    try:
        summary = run_job(job, {"stage": None}, store, lambda note: None)
    finally:
        Trainee.apply = own  # type: ignore[method-assign]
    weights = load_file(job.directory / "weights" / "model.safetensors")
    return {"steps": seen, "weights": weights, "summary": summary}


def main(given: str, out: str) -> None:
    job: Job = pickle.loads(Path(given).read_bytes())
    with processes.joined(job.settings.processes, job.settings.device):
        found = watched(job, job.directory.parent)
        if processes.leads():
            torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
