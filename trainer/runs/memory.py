"""How much memory a stage takes on a CPU, so that no more run side by side than the machine holds.

    bytes = parameters (35 + 8 teachers)

Measured on SmolLM2-135M in bfloat16 with the amounts `real`, peaks of processes in GB beside the law: RL and SFT 3.9 to
5.7 (4.7), a distillation from three teachers 6.8 to 8.2 (7.9), from four 8.0 to 9.9 (9.0). The weights, their gradient
and two moments are 16 of the 35 bytes. Leaves out: longer answers and larger batches, which take more; merging and
adapters, which take less; GPUs, where one stage runs at a time.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mopdsim.base.errors import MopdError
from mopdsim.facts.model import model
from mopdsim.recipes.stage import Distill
from trainer.runs.plan import Node

PARAMETER_BYTES, TEACHER_BYTES = 35.0, 8.0


def memory_bytes(node: Node) -> float:
    """Of a stage; 0 on a GPU, and where nothing says how large the model is."""
    stage = node.job.stage
    if node.job.settings.device != "cpu":
        return 0.0
    teachers = len(stage.teacher_names) if isinstance(stage, Distill) else 0
    return _parameters(node.given / "config.json") * (PARAMETER_BYTES + TEACHER_BYTES * teachers)


@cache
def _parameters(config: Path) -> int:
    try:
        return model(str(config)).total_parameters
    except MopdError:
        return 0
