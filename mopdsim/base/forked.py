"""Do the two halves of a piece of work side by side in two processes, where forking is safe. The result is
the same.

The second process is a fork: it starts at once and knows all that this one knows, but must not be made beside running
threads, nor on systems whose libraries do not bear it. Only its result is carried over. Leaves out: more than two, and
work that a second process would not pay for.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from threadpoolctl import threadpool_limits

Half = TypeVar("Half")
Result = TypeVar("Result")


def both(work: Callable[[Half], Result], here: Half, aside: Half) -> tuple[Result, Result]:
    """The result of `work` for each half. The second half runs in its own process where that is safe; its
    errors are raised here."""
    if not _may_fork():
        return work(here), work(aside)
    context = get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sending, work, aside), daemon=True)
    process.start()
    sending.close()
    try:
        with threadpool_limits(1):  # two processes of as many threads as cores wait for one another
            found = work(here)
        try:
            other, error = receiving.recv()
        except EOFError:  # ended from outside, as for want of memory
            other, error = work(aside), None
    finally:
        process.terminate()
        process.join()
        receiving.close()
    if error is not None:
        raise error
    return found, other


def _send(sending: Connection, work: Callable[[Half], Result], half: Half) -> None:
    try:
        with threadpool_limits(1):
            sending.send((work(half), None))
    except Exception as error:
        sending.send((None, error))


def _may_fork() -> bool:
    alone = threading.active_count() == 1 and not current_process().daemon
    return sys.platform == "linux" and alone and len(os.sched_getaffinity(0)) > 1
