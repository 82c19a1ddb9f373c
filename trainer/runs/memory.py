"""How much memory a stage takes on a CPU, so that no more run side by side than the machine holds.

    bytes = parameters (35 + 8 teachers)

Measured on SmolLM2-135M in bfloat16 with the amounts `real`, peaks of processes in GB beside the law: RL and SFT 3.9 to
5.2 (4.7), a distillation from three teachers 6.8 to 8.2 (7.9), from four 8.0 to 9.1 (9.0). The weights, their gradient
and two moments are 16 of the 35 bytes. Leaves out: longer answers and larger batches, which take more; merging and
adapters, which take less; GPUs, where one stage runs at a time.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mopdsim.base.errors import MopdError
from mopdsim.facts.model import model
from mopdsim.recipes.stage import Distill
from trainer.stages.job import Job

PARAMETER_BYTES, TEACHER_BYTES = 35.0, 8.0


def memory_bytes(job: Job) -> float:
    """Of a stage whose root is there; 0 on a GPU, and where nothing says how large the model is."""
    if job.settings.device != "cpu":
        return 0.0
    teachers = len(job.stage.teacher_names) if isinstance(job.stage, Distill) else 0
    return _parameters(job.weights[job.root] / "config.json") * (PARAMETER_BYTES + TEACHER_BYTES * teachers)


@cache
def _parameters(config: Path) -> int:
    try:
        return model(str(config)).total_parameters
    except MopdError:
        return 0
