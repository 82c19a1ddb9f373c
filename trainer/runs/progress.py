"""What is shown while stages run: a bar on a terminal, lines otherwise, and never a silent minute.

A stage reports a `Note` after every step and within an evaluation; a thread of this process shows the newest one of
each running stage: on a terminal it redraws one bar, elsewhere it writes a line every `EVERY` seconds, whatever the
work is doing. Remaining time is what has passed, by the share of the work that is done. Leaves out: what runs when
(`trainer.runs.execute`).
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trainer.runs.plan import Node
from trainer.runs.show import mean_figure
from trainer.stages.job import Note

EVERY = 15.0  # seconds between two lines; a line that falls due waits for the next beat
BEAT = 1.0  # seconds between two looks
BAR = 20  # letters
LEAST_SHARE = 0.01  # of the work done, below which no remaining time is given


@dataclass(kw_only=True)
class Progress:
    """Work of several stages, some of them running. quiet: nothing is shown."""

    quiet: bool = False
    every: float = EVERY
    weights: dict[str, float] = field(default_factory=dict)  # of what was to run, by key
    done: float = 0.0  # of the weights
    ended: int = 0
    running: dict[str, tuple[str, Note]] = field(default_factory=dict)  # label and newest note, by key
    waits: set[str] = field(default_factory=set)  # keys of those that were held back
    begun: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, weights: Mapping[str, float]) -> None:
        """What is about to run, and how much each stage weighs."""
        self.weights, self.done, self.ended, self.begun = dict(weights), 0.0, 0, time.monotonic()

    def begin(self, node: Node) -> None:
        """A stage starts."""
        self.advance(node.key, Note(done=0.0, text="starts"), label=node.label)

    def advance(self, key: str, note: Note, *, label: str = "") -> None:
        """What a running stage says of itself."""
        with self.lock:
            self.running[key] = (label or self.running[key][0], note)

    def doing(self, what: str, where: str = "") -> None:
        """What work that is no stage does."""
        self.running = {"": (what, Note(done=0.0, text=where))}

    def cached(self, node: Node, summary: Mapping[str, Any]) -> None:
        """A stage that the store held already."""
        self.say(f"  {node.label:<28} {mean_figure(summary['domains'])}   from the store")

    def finish(self, node: Node, summary: Mapping[str, Any]) -> None:
        """A stage finished."""
        self.end(node, f"{mean_figure(summary['domains'])}   {summary['wall_seconds']:.1f} s")

    def end(self, node: Node, how: str) -> None:
        """A stage finished, failed or was skipped."""
        with self.lock:
            self.running.pop(node.key, None)
            self.ended += 1
            self.done += self.weights.get(node.key, 0.0)
            place = f"[{self.ended:>{len(str(len(self.weights)))}}/{len(self.weights)}]"
            self.say(f"  {place} {node.label:<28} {how}   {self.remaining()}")

    def again(self, node: Node, attempt: int) -> None:
        """A stage's worker was killed."""
        self.say(f"  {node.label}: its worker was killed; attempt {attempt} goes on from its last checkpoint")

    def held_back(self, node: Node, wanted: float, room: float) -> None:
        """A stage waits for memory, in bytes; said once."""
        if node.key not in self.waits:
            self.waits.add(node.key)
            self.say(
                f"  {node.label} waits: with what runs it would want about {wanted / 1e9:.0f} GB of memory, and "
                f"{room / 1e9:.0f} GB were free"
            )

    def left(self, key: str) -> float:
        """Of a running stage's weight."""
        return self.weights.get(key, 0.0) * (1 - self.running[key][1].done)

    @property
    def share(self) -> float:
        """Of the work, what is done."""
        started = sum(self.weights.get(key, 0.0) * note.done for key, (_, note) in self.running.items())
        return min(1.0, (self.done + started) / max(sum(self.weights.values()), 1e-9))

    def remaining(self) -> str:
        """ "about 3 min left", or nothing where too little is done to tell."""
        if self.share < LEAST_SHARE:
            return ""
        seconds = (time.monotonic() - self.begun) * (1 - self.share) / self.share
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def say(self, line: str) -> None:
        """A line of its own, the bar wiped first."""
        with self.lock:
            if not self.quiet:
                wipe = "\r\x1b[K" if sys.stderr.isatty() else ""
                print(wipe + line.rstrip(), file=sys.stderr, flush=True)
            self.shown = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[Progress]:
        """Show what runs until the block ends."""
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        if not self.quiet:
            beating.start()
        try:
            yield self
        finally:
            stop.set()
            if not self.quiet:
                beating.join()
            self.running.clear()
            if not self.quiet and sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(min(BEAT, self.every)):
            with self.lock:
                if sys.stderr.isatty():
                    print(f"\r{self._bar()}\x1b[K", end="", file=sys.stderr, flush=True)
                elif time.monotonic() - self.shown >= self.every:
                    for line in self._lines():
                        self.say(line)

    def _lines(self) -> Sequence[str]:
        left = self.remaining() or f"{time.monotonic() - self.begun:.0f} s so far"
        found = [f"  {label:<28} {note.text}   {left}" for label, note in self.running.values()]
        return found or [f"  working   {left}"]

    def _bar(self) -> str:
        filled = round(BAR * self.share)
        said = "; ".join(f"{label} {note.text}" for label, note in self.running.values())
        line = f"  [{'#' * filled}{'-' * (BAR - filled)}] {self.share:4.0%} {self.remaining()}  {said}"
        return line[: shutil.get_terminal_size().columns - 1]
