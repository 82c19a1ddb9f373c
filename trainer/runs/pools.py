"""Workers that run stages into a store: this process, processes of this machine, or a Ray cluster.

A pool starts a stage when it is submitted; its `next` waits until a started one says something, finishes, fails or is
killed; `close` ends all workers, whatever they do.

A process for each stage: one that is killed harms no other, and is told from one that failed. All machines of a
cluster see the store under the same path (a shared file system). Ray is an extra (`mopd[ray]`) and is imported here
only. Leaves out: what runs when (`trainer.runs.execute`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from mopdsim.base.errors import MopdError, UsageError
from trainer.runs.plan import Node
from trainer.runs.worker import run_job
from trainer.stages.job import Note, Report

PRELOAD = [  # by the process that workers are forked from: it takes three seconds, as long as a short stage
    "trainer.runs.worker",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
]
Kind = Literal["here", "local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What became of a stage. payload: its summary; the exception that it raised; None; a `Note`."""

    key: str
    kind: Literal["finished", "failed", "killed", "note"]
    payload: Any = None


class StageError(MopdError):
    """What a stage raised that was no error of the user: its traceback."""


def attempt(node: Node, root: Path, report: Report = lambda note: None) -> tuple[str, Any]:
    """("finished", summary) or ("failed", exception): a stage that raises does not end its worker."""
    try:
        return "finished", run_job(node.job, node.made_from, root, report)
    except MopdError as error:
        return "failed", error
    except Exception:
        return "failed", StageError(traceback.format_exc())


class Here:
    """This process, one stage after the other; what a stage raises is raised here."""

    workers = 1

    def __init__(self, root: Path, report: Callable[[str, Note], None]) -> None:
        self.root, self.report = root, report

    def submit(self, node: Node) -> None:
        self.node = node

    def next(self) -> Event:
        key = self.node.key
        job, made_from = self.node.job, self.node.made_from
        summary = run_job(job, made_from, self.root, lambda note: self.report(key, note))
        return Event(key=key, kind="finished", payload=summary)

    def close(self) -> None:
        pass


class LocalPool:
    """At most `workers` processes on this machine."""

    def __init__(self, workers: int, root: Path) -> None:
        self.workers, self.root = workers, root
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.running: dict[Connection, tuple[str, Any]] = {}

    def submit(self, node: Node) -> None:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(node, self.root, there), daemon=True)
        process.start()
        there.close()
        self.running[here] = (node.key, process)

    def next(self) -> Event:
        channel = wait(list(self.running))[0]
        assert isinstance(channel, Connection)
        key, process = self.running[channel]
        try:
            kind, payload = channel.recv()
        except (EOFError, ConnectionResetError):
            kind, payload = "killed", None
        if kind != "note":
            del self.running[channel]
            process.join()
            channel.close()
        return Event(key=key, kind=kind, payload=payload)

    def close(self) -> None:
        for _, process in self.running.values():
            process.kill()
        for channel, (_, process) in self.running.items():
            process.join()
            channel.close()
        self.running.clear()


def _work(node: Node, root: Path, channel: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(channel,), daemon=True).start()
    channel.send(attempt(node, root, lambda note: channel.send(("note", note))))


def _end_with_parent(channel: Connection) -> None:
    """What is killed takes its workers with it: they would go on in a store that the next run wants."""
    channel.poll(None)  # nothing is ever sent this way: it returns when the other end is closed
    os._exit(1)


class RayPool:
    """At most `workers` Ray tasks, each on one core, and on one GPU where the stage computes on one.

    The cluster is the one that RAY_ADDRESS names, or a local one made for the work.
    """

    def __init__(self, workers: int, root: Path) -> None:
        try:
            import ray  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise UsageError(
                "executor = 'ray': Ray is not installed: install the extra with `pip install 'mopd[ray]'`, or use "
                "--executor local"
            ) from None
        self.ray, self.workers, self.root = ray, workers, root.resolve()
        self.mine = not ray.is_initialized()
        if self.mine:
            joined = "RAY_ADDRESS" in os.environ
            ray.init(num_cpus=None if joined else workers, include_dashboard=False, log_to_driver=False)
        self.running: dict[Any, str] = {}

    def submit(self, node: Node) -> None:
        gpus = 1 if node.job.settings.device.startswith("cuda") else 0
        task = self.ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(attempt)
        self.running[task.remote(node, self.root)] = node.key

    def next(self) -> Event:
        (reference,), _ = self.ray.wait(list(self.running), num_returns=1)
        key, errors = self.running.pop(reference), self.ray.exceptions
        try:
            kind, payload = self.ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            kind, payload = "killed", None
        except errors.RayError as error:  # what no stage raised: it could not be sent, or not be started
            kind, payload = "failed", StageError(str(error))
        return Event(key=key, kind=kind, payload=payload)

    def close(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        if self.mine:
            self.ray.shutdown()


Pool = Here | LocalPool | RayPool


def pool_of(kind: Kind, workers: int, root: Path, report: Callable[[str, Note], None]) -> Pool:
    """UsageError where Ray is wanted and not installed."""
    if kind == "here":
        return Here(root, report)
    return (LocalPool if kind == "local" else RayPool)(workers, root)
