"""Draws docs/app.md's pictures: `python -m tools.screenshots`, into docs/app/.

Starts the app with a run directory of its own, and photographs each page in chromium at 1280
pixels in light and at 390 pixels in dark. Needs playwright and chromium. Leaves out: the words of docs/app.md.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "app"
SHOTS = {"wide": (1280, 900, "light"), "narrow": (390, 844, "dark")}
HIGHEST = {"wide": 2000, "narrow": 2600}  # pixels of a picture at most
TALLER = {"runs": 800}  # pixels more, for what stands below
DRAWN = """() => document.querySelectorAll(
    "[data-testid=stSkeleton], [data-testid=stMermaidChart]:not(:has(img))").length === 0"""  # grey bars, empty places
PAGES = {
    "what_if": ("", "Measure first"),
    "plan": ("plan", "GPUs used and idle"),
    "interference": ("interference", "No pull between two domains"),
    "recipes": ("recipes?recipe=DeepSeek-V4", "specialists by SFT then GRPO"),
    "calibration": ("calibration", "Predicted against measured"),
    "runs": ("runs", "steps logged"),
}


@contextmanager
def app(runs: Path | None = None) -> Iterator[tuple[str, int]]:
    """The app's address and its process's id; it ends with the block. runs: the folder that its page Runs shows, where
    it is not the usual one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), "--server.headless=true",
         f"--server.port={port}"],
        env=os.environ | ({} if runs is None else {"MOPD_RUNS": str(runs)}), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def tiny_run(runs: Path) -> None:
    """A run of minutes for the page Runs to show."""
    words = ["train", "run", "mopd", "--domains", "sort,reverse", "--scale", "0.5", "--out"]
    subprocess.run(
        [sys.executable, "-m", "mopdsim.cli", *words, str(runs / "tiny-1")],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def shoot(browser: Any, address: str, name: str, shot: str) -> Path:
    """One page at one width and theme, as high as it is."""
    path, words = PAGES[name]
    width, height, scheme = SHOTS[shot]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/{path}")
    page.get_by_text(words).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2500)
    page.wait_for_function(DRAWN, timeout=120_000)
    tall = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(tall, HIGHEST[shot] + TALLER.get(name, 0))})
    page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    page.wait_for_function(DRAWN, timeout=120_000)
    target = OUT / f"{name}_{shot}.png"
    page.screenshot(path=target)
    context.close()
    return target


def main() -> None:
    """All pages at both widths; prints what was written."""
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        tiny_run(Path(place))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with app(Path(place)) as (address, _):
            for name in PAGES:
                for shot in SHOTS:
                    print(shoot(browser, address, name, shot).relative_to(ROOT))
        browser.close()


if __name__ == "__main__":
    main()
