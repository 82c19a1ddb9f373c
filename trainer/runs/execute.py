"""Run planned stages: those that are not in the store yet, as early as their parents allow, on a few workers.

Workers are processes of `settings.threads` threads each; one worker means this process. A killed run loses at most the
steps since the last checkpoint. Leaves out: what a stage does (`trainer.runs.worker`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mopdsim.base.errors import Interrupted
from trainer.runs.plan import Node, Plan
from trainer.runs.show import mean_figure
from trainer.runs.store import Store
from trainer.runs.worker import run_job

PRELOAD = [  # by the process that workers are forked from: it takes three seconds, as long as a short stage
    "trainer.runs.worker",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
]


@dataclass(kw_only=True)
class Progress:
    """What is shown while stages run: bars on a terminal, a line for each finished stage otherwise."""

    quiet: bool = False
    bars: dict[str, Any] = field(default_factory=dict)

    def start(self, node: Node) -> None:
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bars[node.key] = tqdm(
                total=100,
                desc=node.label,
                unit="%",
                leave=False,
                bar_format="{desc:<28} {bar} {percentage:3.0f}% {elapsed}",
            )

    def advance(self, key: str, done: float) -> None:
        if key in self.bars:
            bar = self.bars[key]
            bar.n = min(100, round(100 * done))
            bar.refresh()

    def finish(self, node: Node, summary: Mapping[str, Any], *, cached: bool) -> None:
        if node.key in self.bars:
            self.bars.pop(node.key).close()
        if self.quiet:
            return
        how = "from the store" if cached else f"{summary['wall_seconds']:.1f} s"
        print(
            f"  {node.label:<28} {mean_figure(summary['domains'])}   {how}",
            file=sys.stderr,
            flush=True,
        )


def execute(plan: Plan, store: Store, *, workers: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Summaries by key. Raises the first failure; what runs beside it stops and goes on from its checkpoints."""
    summaries: dict[str, dict[str, Any]] = {}
    waiting: list[Node] = []
    for node in plan.nodes:
        if store.finished(node.key):
            summaries[node.key] = store.summary(node.key)
            progress.finish(node, summaries[node.key], cached=True)
        else:
            waiting.append(node)
    rank = _rank(plan)
    waiting.sort(key=lambda node: -rank[node.key])
    with _interruptible():
        if workers == 1 or len(waiting) == 1:
            _alone(plan, store, summaries, progress)
        else:
            _side_by_side(waiting, store, summaries, workers, progress)
    return summaries


def _alone(plan: Plan, store: Store, summaries: dict[str, dict[str, Any]], progress: Progress) -> None:
    for node in plan.nodes:
        if node.key not in summaries:
            progress.start(node)
            report = partial(progress.advance, node.key)
            summaries[node.key] = run_job(node.job, node.made_from, store.root, report)
            progress.finish(node, summaries[node.key], cached=False)


def _side_by_side(
    waiting: list[Node], store: Store, summaries: dict[str, dict[str, Any]], workers: int, progress: Progress
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    channel = context.Queue()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_enter_worker, initargs=(channel,))
    listener = threading.Thread(target=_listen, args=(channel, progress), daemon=True)
    listener.start()
    running: dict[Future[dict[str, Any]], Node] = {}
    try:
        while waiting or running:
            for node in [n for n in waiting if all(key in summaries for key in n.needs)][
                : workers - len(running)
            ]:
                waiting.remove(node)
                progress.start(node)
                running[pool.submit(_work, node, store)] = node
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                node = running.pop(future)
                summaries[node.key] = future.result()
                progress.finish(node, summaries[node.key], cached=False)
    except BrokenProcessPool:
        raise Interrupted(
            "a worker process was killed; run `mopd train resume` with the run's directory to go on"
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        channel.put(None)
        channel.cancel_join_thread()  # a worker killed while it wrote may hold the channel's lock for ever
        listener.join(timeout=1)


_channel: Any = None


def _enter_worker(channel: Any) -> None:
    global _channel
    _channel = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed takes its workers with it: they would go on in a store that a resumed run wants."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(node: Node, store: Store) -> dict[str, Any]:
    return run_job(node.job, node.made_from, store.root, lambda done: _channel.put((node.key, done)))


def _listen(channel: Any, progress: Progress) -> None:
    while (message := channel.get()) is not None:
        progress.advance(*message)


def _rank(plan: Plan) -> dict[str, float]:
    """Effort of the longest chain that starts at each stage."""
    rank: dict[str, float] = {}
    for node in reversed(plan.nodes):
        after = [rank[other.key] for other in plan.nodes if node.key in other.needs and other.key in rank]
        rank[node.key] = node.effort + max(after, default=0.0)
    return rank


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the run as resumable."""

    def stop(signum: int, frame: object) -> None:
        raise Interrupted("stopped by SIGTERM; run `mopd train resume` with the run's directory to go on")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_workers(device: str) -> int:
    """One single-threaded worker a core on a CPU (1.7 times a two-thread process on two cores), one on a GPU."""
    return 1 if device != "cpu" else max(1, min(8, len(os.sched_getaffinity(0))))
