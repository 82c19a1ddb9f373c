"""The verb `mopd app`: the what-if app in the browser. Leaves out: the app (`mopdsim.app`)."""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mopdsim.base.errors import NotFoundError, UsageError

ADDRESS = "127.0.0.1"
SCRIPT = Path(__file__).parents[2] / "app.py"


def app(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the local server.")] = 8501,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open a browser.")] = False,
) -> None:
    """Open the what-if app in the browser; it listens on this machine alone and sends nothing out.

    Example: mopd app --port 8600 --headless
    """
    arguments = command(port, headless=headless)
    os.execv(arguments[0], arguments)


def command(port: int, *, headless: bool) -> list[str]:
    """What is run. NotFoundError without streamlit or the app's script, UsageError for a port that is taken."""
    if find_spec("streamlit") is None:
        raise NotFoundError("streamlit is not installed: run `pip install streamlit`")
    if not SCRIPT.is_file():
        raise NotFoundError(
            f"{SCRIPT}: no such file: the app runs from the project's directory, not from a wheel"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            raise UsageError(
                f"port = {port}: is taken or not allowed; choose another, such as {port + 1}"
            ) from None
    return [
        sys.executable, "-m", "streamlit", "run", str(SCRIPT), f"--server.port={port}",
        f"--server.headless={str(headless).lower()}",
    ]  # fmt: skip
