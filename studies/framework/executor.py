"""Run a study's stages on a pool of workers: what fails is reported, what was killed is taken up again, the rest ends.

A stage that raises fails, and with it every stage and run that waits for it; a stage whose worker was killed is started
again from its last checkpoint, `ATTEMPTS` times in all. Leaves out: workers themselves (`studies.framework.local_pool`,
`studies.framework.ray_pool`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from studies.framework.planned import Planned
from trainer.runs.plan import Node
from trainer.runs.store import Store

ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Event:
    """What became of a stage. payload: its summary, or why it failed, or None where its worker was killed."""

    key: str
    kind: Literal["finished", "failed", "killed"]
    payload: Any = None


class Pool(Protocol):
    """Workers that run stages into the store."""

    workers: int

    def submit(self, node: Node) -> None:
        """Start a stage."""

    def next(self) -> Event:
        """Wait until a started stage finishes, fails or is killed."""

    def close(self) -> None:
        """End all workers, whatever they do."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """summaries and failures (one sentence or a traceback) by key."""

    summaries: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]

    def failure_of(self, keys: Iterable[str]) -> str | None:
        """Why a run that needs these stages has no result; None where it has."""
        return next((self.failures[key] for key in keys if key in self.failures), None)


@dataclass(kw_only=True)
class Watch:
    """A line on stderr for every stage that ends, with what is left to wait."""

    seconds_of: Mapping[str, float]
    quiet: bool = False
    total: int = 0
    ended: int = 0
    left: float = 0.0
    expected: float = 0.0
    begun: float = field(default_factory=time.perf_counter)

    def start(self, waiting: Iterable[Node]) -> None:
        """What is about to run."""
        nodes = list(waiting)
        self.total, self.left = len(nodes), sum(self.seconds_of[node.key] for node in nodes)

    def end(self, node: Node, how: str) -> None:
        """A stage finished, failed or was skipped."""
        self.ended += 1
        self.left -= self.seconds_of[node.key]
        self.expected += self.seconds_of[node.key]
        if not self.quiet:
            place = f"[{self.ended:>{len(str(self.total))}}/{self.total}]"
            print(f"  {place} {node.label:<44} {how}   {self.remaining()}", file=sys.stderr, flush=True)

    def again(self, node: Node, attempt: int) -> None:
        """A stage's worker was killed."""
        if not self.quiet:
            print(
                f"  {node.label}: its worker was killed; attempt {attempt} goes on",
                file=sys.stderr,
                flush=True,
            )

    def remaining(self) -> str:
        """ "about 3 min left": the estimates of what is left, at the pace of what has ended."""
        pace = (time.perf_counter() - self.begun) / max(self.expected, 1e-9)
        seconds = max(self.left, 0.0) * pace
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def carry_out(found: Planned, store: Store, pool: Pool, watch: Watch) -> Outcome:
    """Run what the store does not hold. A user's interrupt passes through; the store then holds what was finished."""
    summaries = {key: store.summary(key) for key in found.nodes if store.finished(key)}
    failures: dict[str, str] = {}
    ranks = _ranks(found, watch.seconds_of)
    waiting = sorted((n for n in found.nodes.values() if n.key not in summaries), key=lambda n: -ranks[n.key])
    watch.start(waiting)
    running: dict[str, int] = {}
    attempts: dict[str, int] = {}
    while True:
        _drop_lost(waiting, failures, watch)
        for node in [n for n in waiting if all(key in summaries for key in n.needs)]:
            if len(running) < pool.workers:
                waiting.remove(node)
                attempts[node.key] = running[node.key] = attempts.get(node.key, 0) + 1
                pool.submit(node)
        if not running:
            return Outcome(summaries=summaries, failures=failures)
        event = pool.next()
        node, attempt = found.nodes[event.key], running.pop(event.key)
        if event.kind == "finished":
            summaries[node.key] = event.payload
            watch.end(node, _in_words(event.payload))
        elif event.kind == "killed" and attempt < ATTEMPTS:
            watch.again(node, attempt + 1)
            waiting.insert(0, node)
        else:
            failures[node.key] = event.payload or f"{node.label}: its worker was killed {attempt} times"
            watch.end(node, f"FAILED: {failures[node.key].strip().splitlines()[-1]}")


def _drop_lost(waiting: list[Node], failures: dict[str, str], watch: Watch) -> None:
    """Take out what waits for a stage that failed: it fails for the same reason."""
    while lost := next((node for node in waiting if any(key in failures for key in node.needs)), None):
        waiting.remove(lost)
        failures[lost.key] = next(failures[key] for key in lost.needs if key in failures)
        watch.end(lost, "skipped: a stage that it needs failed")


def _ranks(found: Planned, seconds_of: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the longest chain that starts at each stage."""
    after: dict[str, float] = dict.fromkeys(found.nodes, 0.0)
    for node in reversed(list(found.nodes.values())):
        whole = after[node.key] + seconds_of[node.key]
        for key in node.needs:
            after[key] = max(after[key], whole)
    return {key: value + seconds_of[key] for key, value in after.items()}


def _in_words(summary: Mapping[str, Any]) -> str:
    rates = [row["pass_rate"] for row in summary.get("domains", {}).values() if "pass_rate" in row]
    mean = f"mean score {sum(rates) / len(rates):.3f}   " if rates else ""
    return f"{mean}{summary['wall_seconds']:5.1f} s"
