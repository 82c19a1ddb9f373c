"""`mopd app`: what it runs, and what it refuses."""

from __future__ import annotations

import socket
import sys
import tomllib
from pathlib import Path

import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.cli import main as cli

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_it_runs_the_script_at_the_root_with_this_python() -> None:
    port = free_port()
    words = cli.command(port, headless=True)
    assert words[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(words[4]) == ROOT / "app.py"
    assert words[5:] == [f"--server.port={port}", "--server.headless=true"]


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port = {port}: is taken"):
            cli.command(port, headless=True)


def test_a_wheel_without_the_script_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "SCRIPT", tmp_path / "app.py")
    with pytest.raises(NotFoundError, match="not from a wheel"):
        cli.command(free_port(), headless=True)


def test_the_settings_keep_the_app_on_this_machine() -> None:
    found = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert found["server"]["address"] == "127.0.0.1"
    assert found["server"]["maxUploadSize"] == 5
    assert found["server"]["enableXsrfProtection"] and found["server"]["enableCORS"]
    assert found["browser"]["gatherUsageStats"] is False
    assert found["client"]["showErrorDetails"] == "none"
    assert "http" not in (ROOT / ".streamlit" / "config.toml").read_text()
