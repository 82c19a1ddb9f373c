"""The ledger of a distillation: what each teacher did to the weights.

AdamW moves a weight by -r m' / (sqrt(v') + e), with rate r, the corrected running means m' of gradients and v' of their
squares. m' is linear in the gradients, and a step's gradient is the sum of what each teacher's rows add to it (and of
what the reward adds). So every summand has a running mean of its own, all share v', and their moves add up to the
student's whole move: exactly, but for rounding and weight decay. The moves are kept beside the optimiser's own state,
whence they are part of every checkpoint.

    STAGE/ledger.safetensors    "PLACE/parameter": the move of the stage's teacher at that place, or of the reward
A stage that several recipes share does not know its teachers' names, so they are told apart by their place. Leaves out:
what the moves say of an answer (`trainer.trace.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from safetensors.torch import save_file
from torch import Tensor

from mopdsim.base.run_directory import LEDGER
from mopdsim.recipes.stage import Distill
from trainer.batch.batch import Batch
from trainer.batch.update import Part
from trainer.files.atomic import explained
from trainer.stages.loop import BETAS, Metrics, Trainee
from trainer.stages.targets import Target, loss_function, reward_function, rows_by_teacher

REWARD = "reward"
EPSILON = 1e-8  # of AdamW as `trainer.stages.loop` makes it


def parts_of(target: Target, batch: Batch) -> dict[str, Part]:
    """The step's loss as a sum: of each teacher that has rows, by its place, and of the reward."""
    places = {name: str(place) for place, name in enumerate(target.stage.teacher_names)}
    found: dict[str, Part] = {}
    for name, row_M in rows_by_teacher(target.routes, batch.group).items():
        scores = {name: target.scores[name]} if target.scores else {}
        alone = replace(target, scores=scores, advantage_B=None)
        found[places[name]] = Part(row_M=row_M, loss_of=loss_function(alone))
    if target.advantage_B is not None:
        every = torch.arange(len(batch.reward_B))
        found[REWARD] = Part(row_M=every, loss_of=reward_function(target))
    device = target.rollouts.response_BT.device
    return {name: replace(part, row_M=part.row_M.to(device)) for name, part in found.items()}


@torch.no_grad()
def enter(trainee: Trainee, gradient: Mapping[str, list[Tensor]], applied: Metrics) -> None:
    """After a step: each part's share of the move. applied: what the step reported of itself."""
    assert trainee.optimizer is not None
    clipped = min(1.0, trainee.amounts.max_grad_norm / (applied["grad_norm"] + 1e-6))
    stage = trainee.job.stage
    assert isinstance(stage, Distill)
    names = [*map(str, range(len(stage.teacher_names))), *([REWARD] if stage.reward_mix else [])]
    for place, parameter in enumerate(trainee.policy.parameters()):
        state = trainee.optimizer.state[parameter]
        count = float(state["step"])
        size = state["exp_avg_sq"].div(1 - BETAS[1] ** count).sqrt_().add_(EPSILON)
        rate = applied["learning_rate"] / (1 - BETAS[0] ** count)
        for name in names:
            if f"mean/{name}" not in state:
                state[f"mean/{name}"] = torch.zeros_like(parameter)
                state[f"move/{name}"] = torch.zeros_like(parameter)
            mean = state[f"mean/{name}"].mul_(BETAS[0])
            if name in gradient:
                mean.add_(gradient[name][place], alpha=(1 - BETAS[0]) * clipped)
            state[f"move/{name}"].addcdiv_(mean, size, value=-rate)


def write(trainee: Trainee) -> None:
    """The stage's ledger on disk."""
    assert trainee.optimizer is not None
    named = {
        id(parameter): name
        for name, parameter in trainee.policy.model.named_parameters()
        if parameter.requires_grad
    }
    tensors = {
        f"{key.removeprefix('move/')}/{named[id(parameter)]}": tensor.contiguous().cpu()
        for parameter, state in trainee.optimizer.state.items()
        for key, tensor in state.items()
        if key.startswith("move/")
    }
    path = trainee.job.directory / LEDGER
    with explained(path):
        save_file(tensors, path)
