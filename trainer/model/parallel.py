"""Split a batch over Python threads that share the processor's.

At the sizes that fit a CPU, PyTorch's own threading gains little (each operation is short), while two independent
halves of a batch run side by side: operations and the backward pass release the interpreter lock. The
number of parts is `torch.get_num_threads()`, so a run is deterministic for (seed, thread count).
Leaves out: accelerators (one part) and several processes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import psutil
import torch

R = TypeVar("R")
SWITCH_SECONDS = 2e-5  # that a thread may wait for Python's lock: at the usual 5 ms the threads take turns
GRADIENT_BYTES = 256 << 20  # of all parts together
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def row_spans(
    rows: int, *, first: int = 0, group: int = 1, parts: int | None = None, at_most: int | None = None
) -> list[slice]:
    """Consecutive slices of so many rows from `first` on, whole groups, as even as possible: `parts` of them, or of
    `at_most` rows each."""
    units = -(-rows // group)
    count = parts if at_most is None else -(-units // max(1, at_most // group))
    count = max(1, min(count or 1, units))
    edges = [first + units * i // count * group for i in range(count)] + [first + rows]
    return [slice(a, b) for a, b in pairwise(edges)]


def parts_for(device: torch.device, weight_bytes: int) -> int:
    """How many pieces of a batch are worked on side by side: on a CPU a thread each, while weights are small.

    Each piece has its own gradients and reads all weights, so large models leave the threads to PyTorch.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), GRADIENT_BYTES // max(weight_bytes, 1)))


def side_by_side(work: Callable[[slice], R], spans: list[slice]) -> list[R]:
    """Results of `work` on every span, in order; grad mode is the caller's; the first exception is raised."""
    if len(spans) == 1:
        return [work(spans[0])]
    grad = torch.is_grad_enabled()

    def guarded(span: slice) -> R:
        with torch.set_grad_enabled(grad):
            return work(span)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        return list(_pool(len(spans), torch.get_num_threads()).map(guarded, spans))
    finally:
        sys.setswitchinterval(interval)


@lru_cache
def logits_at_once(device: torch.device) -> int:
    """How many logits a loss may hold (times a few for its intermediates): a 128th of the memory, and a power of two.

    At least 2^21, which is 42 positions of a vocabulary of 49,152; a machine of 16 GB holds eight times as many. It
    depends on the machine's whole memory, not on what is free, so that a machine repeats its numbers.
    """
    return max(1 << 21, 1 << (memory_bytes(device) // 128 // 4).bit_length() - 1)


def memory_bytes(device: torch.device, *, free: bool = False) -> int:
    """The device's memory, or what is free of it now, once what this process keeps without need is given back."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0 if free else 1])
    if free and (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)
    memory = psutil.virtual_memory()
    return int(memory.available if free else memory.total)


@lru_cache
def keep_freed_memory() -> None:
    """Tell glibc to keep all memory that is freed for the next step instead of returning it page by page.

    Worth about 15% of a step of a million parameters, and of one of SmolLM2's. Elsewhere than on Linux nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # large blocks too come from the heap
        mallopt(_TRIM_THRESHOLD, -1)  # which never shrinks by itself


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@lru_cache
def _pool(size: int, threads: int) -> ThreadPoolExecutor:
    """Workers that share the threads evenly."""
    ready = Barrier(size + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread's first look takes the process's number: have it now, not later
        torch.set_num_threads(max(1, threads // size))
        ready.wait()

    pool = ThreadPoolExecutor(size, "mopd", initializer=start)
    for _ in range(size):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(threads)  # the workers' setting also became the default of threads yet to start
    return pool
