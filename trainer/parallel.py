"""Split a batch over Python threads of one intra-op thread each.

At the sizes that fit a CPU, PyTorch's own threading gains little (each operation is short), while two independent
halves of a batch run side by side: operations and the backward pass release the interpreter lock. The
number of parts is `torch.get_num_threads()`, so a run is deterministic for (seed, thread count).
Leaves out: accelerators (one part) and several processes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

R = TypeVar("R")


def row_spans(rows: int, *, group: int = 1, parts: int | None = None, at_most: int | None = None) -> list[slice]:
    """Consecutive row slices of whole groups: as even as possible, `parts` of them or of `at_most` rows each."""
    units = -(-rows // group)
    count = parts if at_most is None else -(-units // max(1, at_most // group))
    count = max(1, min(count or 1, units))
    edges = [units * i // count * group for i in range(count)] + [rows]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def parts_for(device: torch.device) -> int:
    """How many pieces of a batch are worked on side by side."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(work: Callable[[slice], R], spans: list[slice]) -> list[R]:
    """Results of `work` on every span, in order; grad mode is the caller's; the first exception is raised."""
    if len(spans) == 1:
        return [work(spans[0])]
    grad = torch.is_grad_enabled()

    def guarded(span: slice) -> R:
        with torch.set_grad_enabled(grad):
            return work(span)

    return list(_pool(len(spans)).map(guarded, spans))


@lru_cache
def _pool(size: int) -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(size, "mopd", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: torch.get_num_threads(), range(4 * size)))
    torch.set_num_threads(threads)  # the workers' setting also became the default of threads yet to start
    return pool
