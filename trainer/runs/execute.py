"""Run planned stages, of a run or of a study alike: those that the store does not hold, as early as parents allow,
whose weights are enough: their scores are worked out meanwhile.

What fails is reported or raised, what was killed is taken up again from its last checkpoint, `ATTEMPTS` times in all,
and a stop by Ctrl-C or SIGTERM is resumable. So it is where several processes share each stage: `launch` starts them
with torch's own launcher; across machines `torchrun -m trainer run ...` is started on each of them, all of which see
the run directory and the store. Leaves out: what a stage does (`trainer.runs.worker`), workers (`trainer.runs.pools`),
what processes share (`trainer.model.processes`), what is shown (`trainer.runs.progress`).
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from mopdsim.base.errors import Interrupted, MopdError
from trainer.model import processes
from trainer.runs.memory import memory_bytes
from trainer.runs.order import Workers, ordered
from trainer.runs.plan import Node, Plan
from trainer.runs.pools import Kind, Pool, pool_of
from trainer.runs.progress import Progress
from trainer.runs.store import Store

ATTEMPTS = 3
STOPPED = "it was stopped, and what is finished is kept: `{}` goes on"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """summaries and failures by key."""

    summaries: Mapping[str, dict[str, Any]]
    failures: Mapping[str, Exception]

    def failure_of(self, keys: Iterable[str]) -> str | None:
        """Why a run that needs these stages has no result (one sentence or a traceback); None where it has."""
        return next((str(self.failures[key]) for key in keys if key in self.failures), None)


def execute(
    plan: Plan,
    store: Store,
    *,
    workers: int,
    progress: Progress,
    resume: str = "mopd train resume",
    seconds_of: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Summaries by key, with `workers` processes of this machine. One worker is this process; so it is where several
    processes share each stage. seconds_of: each stage's, where known better than by its effort.

    Raises the first failure: what runs beside it stops and goes on from its checkpoints.
    """
    waiting = sum(not store.finished(node.key) for node in plan.nodes)
    kind: Kind = "here" if workers == 1 or waiting == 1 or processes.count() > 1 else "local"
    outcome = run_on(kind, workers, plan, store, progress, raising=True, resume=resume, seconds_of=seconds_of)
    return dict(outcome.summaries)


def run_on(
    kind: Kind,
    workers: int,
    plan: Plan,
    store: Store,
    progress: Progress,
    *,
    raising: bool,
    resume: str,
    seconds_of: Mapping[str, float] | None = None,
) -> Outcome:
    """`carry_out` on workers of a kind, which end with it. resume: the command that goes on after a stop."""
    with stoppable(resume), progress.watching():
        pool = pool_of(kind, workers, store.root, progress.advance)
        try:
            room = float(psutil.virtual_memory().available) if kind == "local" else math.inf
            return carry_out(plan, store, pool, progress, raising=raising, seconds_of=seconds_of, room=room)
        finally:
            pool.close()


def carry_out(
    plan: Plan,
    store: Store,
    pool: Pool,
    progress: Progress,
    *,
    raising: bool = False,
    seconds_of: Mapping[str, float] | None = None,
    room: float = math.inf,
) -> Outcome:
    """Run what the store does not hold. raising: the first failure ends it all; else a stage that fails takes only
    those with it that wait for it. seconds_of: each stage's, where known better than by its effort. room: bytes of
    memory; a stage that would want more, together with those that run, waits for these."""
    weights = seconds_of or {node.key: node.effort for node in plan.nodes}
    summaries: dict[str, dict[str, Any]] = {}
    failures: dict[str, Exception] = {}
    waiting: list[Node] = []
    for node in plan.nodes:
        if store.finished(node.key):
            summaries[node.key] = store.summary(node.key)
            if raising:
                progress.cached(node, summaries[node.key])
        else:
            waiting.append(node)
    progress.start({node.key: weights[node.key] for node in waiting})
    running: dict[str, int] = {}  # attempts by key
    ready: set[str] = set()  # keys of stages whose weights are there
    attempts: dict[str, int] = {}
    news = True  # whether a stage ended, or its weights came, since the order was looked for
    wants = {node.key: memory_bytes(node) for node in plan.nodes}

    def together(keys: Iterable[str]) -> float:
        return sum(wants[key] for key in keys)

    while True:
        _drop_lost(waiting, failures, progress)
        if news and len(running) < pool.workers:
            workers = Workers(
                count=pool.workers,
                left={key: progress.left(key) for key in running},
                ready=ready,
                fits=lambda keys: together(keys) <= room,
            )
            waiting, news = ordered(plan, waiting, weights, workers), False
        for node in [n for n in waiting if all(key in summaries or key in ready for key in n.needs)]:
            if len(running) == pool.workers:
                break
            if running and (both := together((*running, node.key))) > room:
                progress.held_back(node, both, room)
                continue
            waiting.remove(node)
            attempts[node.key] = running[node.key] = attempts.get(node.key, 0) + 1
            progress.begin(node)
            pool.submit(node)
        if not running:
            return Outcome(summaries=summaries, failures=failures)
        event = pool.next()
        node = plan.node[event.key]
        if event.kind == "note":
            progress.advance(node.key, event.payload)
            if event.payload.ready:
                ready.add(node.key)
                news = True
            continue
        attempt, news = running.pop(node.key), True
        if event.kind == "finished":
            summaries[node.key] = event.payload
            progress.finish(node, event.payload)
        elif event.kind == "killed" and attempt < ATTEMPTS:
            progress.again(node, attempt + 1)
            waiting.append(node)
        else:
            failures[node.key] = event.payload or MopdError(
                f"{node.label}: its worker was killed {attempt} times: give it more memory (fewer --workers, a smaller "
                "micro_batch_rows); it goes on from its last checkpoint"
            )
            if raising:
                raise failures[node.key]
            progress.end(node, f"FAILED: {str(failures[node.key]).strip().splitlines()[-1]}")


def _drop_lost(waiting: list[Node], failures: dict[str, Exception], progress: Progress) -> None:
    """Take out what waits for a stage that failed: it fails for the same reason."""
    while lost := next((node for node in waiting if any(key in failures for key in node.needs)), None):
        waiting.remove(lost)
        failures[lost.key] = next(failures[key] for key in lost.needs if key in failures)
        progress.end(lost, "skipped: a stage that it needs failed")


@contextmanager
def stoppable(resume: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work as resumable: Interrupted, with the command that goes on."""
    message = STOPPED.format(resume)

    def stop(signum: int, frame: object) -> None:
        raise Interrupted(message)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def launch(processes: int, arguments: Sequence[str], *, resume: str) -> int:
    """`mopd train ARGUMENTS` in as many processes; the exit code of the first that fails, 0 where none does.

    A process that a signal ends takes the others with it, and all go on from the last checkpoint, `ATTEMPTS` times in
    all. Raises Interrupted, with the command `resume` that goes on, where they were stopped or killed too often.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for attempt in range(1, ATTEMPTS + 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "trainer", *arguments)
            return 0
        except ChildFailedError as error:
            codes = [int(failure.exitcode) for failure in error.failures.values()]
            if not any(
                code < 0 and code != -signal.SIGTERM for code in codes
            ):  # the launcher ends the others so
                return next((code for code in codes if code > 0), 1)
        except (SignalException, KeyboardInterrupt):
            raise Interrupted(STOPPED.format(resume)) from None
        if attempt < ATTEMPTS:
            print(
                f"  a process was killed; attempt {attempt + 1} goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
    raise Interrupted(f"a process was killed {ATTEMPTS} times; `{resume}` goes on from the last checkpoint")


def default_workers(device: str) -> int:
    """One single-threaded worker a core on a CPU (1.7 times a two-thread process on two cores), one on a GPU."""
    return 1 if device != "cpu" else max(1, min(8, len(os.sched_getaffinity(0))))
