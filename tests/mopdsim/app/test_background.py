"""Commands in processes of their own: their documents, their failures, their number and time limited."""

from __future__ import annotations

import sys
import time

import pytest

from mopdsim.app import background
from mopdsim.app.background import Work, start
from mopdsim.base.errors import UsageError


def ended(work: Work) -> Work:
    """The work once its process has ended."""
    work.process.wait(timeout=120)
    return work


def test_a_command_prints_its_document_and_leaves_nothing_behind() -> None:
    work = start(["recipes"], {})
    found = ended(work).result()
    assert "mopd" in {entry["name"] for entry in found}
    assert not work.directory.exists()


def test_a_failing_command_is_one_sentence_without_paths() -> None:
    work = start(["forecast", "mine.toml"], {"mine.toml": "recipe = 3\n"})
    with pytest.raises(UsageError, match=r"^your file: recipe is missing"):
        ended(work).result()
    assert not work.directory.exists()


@pytest.mark.slow
def test_few_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        background, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(2); print({})")
    )
    works = [start(["recipes"], {}) for _ in range(background.MOST)]
    with pytest.raises(UsageError, match="wait for one to end"):
        start(["recipes"], {})
    for work in works:
        ended(work).result()
    ended(start(["recipes"], {})).result()


def test_a_command_is_ended_at_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(background, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(60)"))
    begun = time.monotonic()
    work = ended(start([], {}))
    assert time.monotonic() - begun < 30
    with pytest.raises(UsageError, match=r"took more than 0.2 s"):
        work.result()


def test_a_result_that_nobody_fetched_in_time_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(background, "PROGRAM", (sys.executable, "-c", "print({})"))
    work = ended(start([], {}))
    work.guard.join(timeout=30)
    with pytest.raises(UsageError, match="ask again"):
        work.result()
