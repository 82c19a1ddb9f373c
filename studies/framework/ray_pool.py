"""The same stages on a Ray cluster. All its machines see the store under the same path (a shared file system).

The cluster is the one that RAY_ADDRESS names, or a local one made for the study. Ray is an extra (`mopd[ray]`) and is
imported here only. Leaves out: what runs when (`studies.framework.executor`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mopdsim.base.errors import UsageError
from studies.framework.executor import Event
from studies.framework.local_pool import attempt
from trainer.runs.plan import Node


class RayPool:
    """At most `workers` Ray tasks, each on one core, and on one GPU where the stage computes on one."""

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
            kind, payload = "failed", str(error)
        return Event(key=key, kind=kind, payload=payload)

    def close(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        if self.mine:
            self.ray.shutdown()
