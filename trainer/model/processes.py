"""Several processes that hold replicas of one model and share its work: who takes which prompts, what they add up.

Every process knows the whole batch; it samples, scores and takes gradients of its own prompts, and what it finds is
gathered or summed, so that all hold the same numbers and take the same step. Process 0 writes. `torchrun` starts them;
they meet over gloo on CPUs and NCCL on GPUs. With one process everything here is the identity. Leaves out: threads
(`trainer.model.parallel`), models that are cut over processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from mopdsim.base.errors import Interrupted, UsageError

T = TypeVar("T")


def count() -> int:
    """Of the processes at work."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def launched() -> tuple[int, int]:
    """This process's place among those that a launcher started, and their number; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def share_of(rows: int, group: int = 1) -> slice:
    """This process's consecutive rows, whole groups of them; none where there are more processes than groups."""
    if count() == 1:
        return slice(0, rows)
    groups, rank = rows // group, distributed.get_rank()
    return slice(*(groups * edge // count() * group for edge in (rank, rank + 1)))


@contextmanager
def _meeting() -> Iterator[None]:
    """A call in which all processes take part. Interrupted where one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        raise Interrupted("another process of this run has ended, and this one cannot go on alone") from error


def gathered(value: T) -> list[T]:
    """Every process's value, in their order."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _meeting():
        distributed.all_gather_object(found, value)
    return found


def agreed(value: T) -> T:
    """The value of process 0."""
    return gathered(value)[0]


@contextmanager
def leader_first() -> Iterator[None]:
    """Process 0 goes through the block, then the others."""
    if not leads():
        gathered(None)
    yield
    if leads():
        gathered(None)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by the sum over all processes."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _meeting():
        distributed.all_reduce(flat)
    for tensor, whole in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(whole.view_as(tensor))


@torch.no_grad()
def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The same for gradients; a parameter that no process has a gradient of keeps none."""
    if count() == 1:
        return
    given = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
    given = given.to(parameters[0].device)
    add_up([given])
    used = [parameter for parameter, times in zip(parameters, given.tolist(), strict=True) if times]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    add_up([parameter.grad for parameter in used if parameter.grad is not None])


def check_whole(model: nn.Module) -> None:
    """UsageError where the model's weights are cut over processes: their gradients would be lost silently."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements") or hasattr(parameter, "_local_shards"):
            raise UsageError(
                f"parameter {name!r} is sharded over processes, but this trainer works with replicas of whole models: "
                "load the model without FSDP or tensor parallelism"
            )


@contextmanager
def joined(processes: int, device: str) -> Iterator[None]:
    """Meet the other processes for the block, and part together. UsageError where the launcher started another number
    of them."""
    if processes != launched()[1]:
        raise UsageError(
            f"processes = {processes}, but {launched()[1]} were started: use `mopd train run --processes {processes}`, "
            "or torchrun with as many"
        )
    if processes == 1:
        yield
        return
    cuda = device.partition(":")[0] == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
        gathered(None)  # nobody leaves while another may still hear from it
    finally:
        distributed.destroy_process_group()
