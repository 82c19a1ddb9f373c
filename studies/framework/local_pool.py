"""A process for each stage: one that is killed harms no other, and is told from one that failed.

Leaves out: what runs when (`studies.framework.executor`), several machines (`studies.framework.ray_pool`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mopdsim.base.errors import MopdError
from studies.framework.executor import Event
from trainer.runs.execute import PRELOAD
from trainer.runs.plan import Node
from trainer.runs.worker import run_job


def attempt(node: Node, root: Path) -> tuple[str, Any]:
    """("finished", summary) or ("failed", why): a stage that raises does not end the study."""
    try:
        return "finished", run_job(node.job, node.made_from, root, lambda done: None)
    except MopdError as error:
        return "failed", str(error)
    except Exception:
        return "failed", traceback.format_exc()


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
        key, process = self.running.pop(channel)
        try:
            kind, payload = channel.recv()
        except (EOFError, ConnectionResetError):
            kind, payload = "killed", None
        process.join()
        channel.close()
        return Event(key=key, kind=kind, payload=payload)

    def process_ids(self) -> dict[str, int]:
        """Of the running stages, by key."""
        return {key: process.pid for key, process in self.running.values()}

    def close(self) -> None:
        for _, process in self.running.values():
            process.kill()
        for channel, (_, process) in self.running.items():
            process.join()
            channel.close()
        self.running.clear()


def _work(node: Node, root: Path, channel: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_study, args=(channel,), daemon=True).start()
    channel.send(attempt(node, root))


def _end_with_study(channel: Connection) -> None:
    """A study that is killed takes its workers with it: they would go on in a store that its next run wants."""
    channel.poll(None)  # nothing is ever sent this way: it returns when the other end is closed
    os._exit(1)
