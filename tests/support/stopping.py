"""A run stopped after its n-th checkpoint, as a kill would stop it."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.files import checkpoint


class Stop(BaseException):
    """Ends a stage as a kill would, without its leave."""


def stop_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """End the stage right after that many checkpoints."""
    own, calls = checkpoint.save, 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        own(*arguments, **named)
        calls += 1
        if calls == saves:
            raise Stop

    monkeypatch.setattr(checkpoint, "save", counted)
