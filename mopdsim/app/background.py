"""A `mopd` command in a process of its own, for what takes more than a moment: bounded in time, its JSON read back.

A command goes by a key, under which all visitors find it: two pages, two tabs, or a page that was left and is back
meet the same work and the same result. The page polls. A process whose visitors have left is ended at its time limit
and its files are removed; few run at once, and the last few results are kept. Leaves out: what the command does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from mopdsim.base.errors import UsageError
from mopdsim.plan.words import capital

PROGRAM = (sys.executable, "-m", "mopdsim.cli")
MAX_SECONDS = 600.0
MOST = 4  # processes at once, of all visitors: a rough and a full answer each
KEPT = 32  # results, some 150 KB each
POLL_S = 0.5
Key = tuple[str, ...]
_STEP = re.compile(r"([1-9]\d?)/([1-9]\d?) (.+)")
_live: list[subprocess.Popen[bytes]] = []
_found: OrderedDict[Key, dict[str, Any]] = OrderedDict()
_working: dict[Key, Work] = {}
_turn = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command under way. begun: monotonic seconds. guard: ends it at its time limit."""

    directory: Path
    process: subprocess.Popen[bytes]
    begun: float
    guard: threading.Timer

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.begun

    @property
    def running(self) -> bool:
        """Whether it still computes."""
        return self.process.poll() is None

    @property
    def progress(self) -> tuple[int, int, str]:
        """Steps done, steps in all, and what it does now, from the last line "3/8 judging plans" that it wrote."""
        try:
            lines = (self.directory / "err").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        for line in reversed(lines):
            if found := _STEP.fullmatch(line):
                return int(found[1]) - 1, int(found[2]), found[3]
        return 0, 1, "starting"

    def result(self) -> dict[str, Any]:
        """The document it printed; its files are removed. UsageError, one sentence, where it failed."""
        try:
            if self.process.returncode == 0:
                found: dict[str, Any] = json.loads((self.directory / "out").read_text())
                return found
            if self.process.returncode < 0:
                raise UsageError(f"it took more than {MAX_SECONDS:g} s and was ended: ask for less")
            text = (self.directory / "err").read_text(errors="replace")
            lines = [line for line in text.strip().splitlines() if not _STEP.fullmatch(line)]
            raise UsageError(unplaced(self.directory, lines[-1] if lines else "it ended without a word"))
        except FileNotFoundError:
            raise UsageError("its result was not fetched in time and is gone: ask again") from None
        finally:
            self.guard.cancel()
            shutil.rmtree(self.directory, ignore_errors=True)


def start(arguments: Sequence[str], files: Mapping[str, str]) -> Work:
    """Begin `mopd ARGUMENTS --json`; an argument that names one of `files` is its path in a fresh directory.

    UsageError where as many processes run already as the app allows.
    """
    with _turn:
        _live[:] = [process for process in _live if process.poll() is None]
        if len(_live) >= MOST:
            raise UsageError(
                f"{len(_live)} long computations are under way on this machine: wait for one to end"
            )
        directory = Path(tempfile.mkdtemp(prefix="mopd-app-"))
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
        placed = [str(directory / word) if word in files else word for word in arguments]
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            process = subprocess.Popen(
                [*PROGRAM, *placed, "--json"],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
            )
        _live.append(process)
    guard = threading.Timer(MAX_SECONDS, _end, (process, directory))
    guard.daemon = True
    guard.start()
    return Work(directory=directory, process=process, begun=time.monotonic(), guard=guard)


def begin(key: Key, arguments: Sequence[str], files: Mapping[str, str], *, anew: bool = False) -> None:
    """Start a command under a key, unless it is under way, or, but for one asked for anew, done. UsageError where the
    machine has enough to do."""
    with _turn:
        if anew:
            _found.pop(key, None)
        if key not in _found and key not in _working:
            _working[key] = start(arguments, files)


def under_way(key: Key) -> Work | None:
    """The work under a key, until its result is known."""
    return _working.get(key)


def known(key: Key) -> dict[str, Any] | None:
    """The result under a key, where there is one. UsageError, one sentence, where the command failed just now."""
    with _turn:
        work = _working.get(key)
        if work is not None and not work.running:
            del _working[key]
            keep(key, work.result())
        if key in _found:
            _found.move_to_end(key)
        return _found.get(key)


def keep(key: Key, result: dict[str, Any]) -> None:
    """Remember a result, the last few of them."""
    _found[key] = result
    while len(_found) > KEPT:
        _found.popitem(last=False)


@st.fragment(run_every=POLL_S)
def wait(key: Key, *others: Key, says: str = "{what}: {seconds:.0f} s") -> None:
    """Say how far the work under a key is. The page is drawn again when it or one of the others is done."""
    work = under_way(key)
    if work is None or any(one is not None and not one.running for one in map(under_way, (key, *others))):
        st.rerun()
        return
    done, stages, what = work.progress
    st.progress(done / stages, text=says.format(what=capital(what), seconds=work.seconds))


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """The time limit: whatever still runs is ended; files that nobody fetched go."""
    unfetched = process.poll() is not None
    process.kill()
    process.wait()
    if unfetched:
        shutil.rmtree(directory, ignore_errors=True)


def unplaced(directory: Path, text: str) -> str:
    """A sentence in which a file is called by what the visitor knows of it."""
    for path in sorted(directory.iterdir()):
        text = text.replace(str(path), "your file")
    return text.removeprefix("error: ")[:600]
