"""Times the app in a real browser: `python -m tools.app_speed [--sessions N] [--seconds S]`, one JSON document.

Starts a server of its own and drives chromium: the first screen from a cold server (its start counted) and again from
a warm one; a slider's key press to the last change of the drawn page, warm; with --sessions, that many browser contexts
that move sliders at once, with the server's memory meanwhile. Needs playwright and chromium. Leaves out: judging the
figures (machines differ, and so does their load, which is in the document).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

from tools.screenshots import CHROMIUM, app

_MEMORY_S = 30.0  # between two looks at the server's memory
SLIDERS = ("Conflict between domains", "Training of the teachers", "Teams", "Teachers", "GPUs", "Budget")
# Notes each key press, with the address it found, and the last change of the page since.
WATCH = """() => {
  window.last = 0; window.moved = 0; window.from = '';
  new MutationObserver(() => { window.last = performance.now(); }).observe(
    document.querySelector('[data-testid=stMain]'),
    {subtree: true, childList: true, characterData: true, attributes: true});
  document.addEventListener('keydown', () => {
    window.moved = performance.now(); window.last = 0; window.from = location.href;
  }, true);
}"""
# Redrawn: the link is the new one, the script has ended, and nothing has changed for 200 ms.
STILL = """() => location.href !== window.from && window.last > window.moved
  && performance.now() - window.last > 200
  && document.querySelector('[data-testid=stApp]').getAttribute('data-test-script-state') === 'notRunning'"""


def slider(page: Any, number: int) -> Any:
    """One of `SLIDERS`, by the whole of its label."""
    return page.locator(f'input[type=range][aria-label="{SLIDERS[number % len(SLIDERS)]}"]')


def redraws(page: Any, presses: int) -> list[float]:
    """Milliseconds from a key press on each slider in turn to the last change of the page."""
    times = []
    for number in range(presses):
        thumb = slider(page, number)
        thumb.focus()
        page.keyboard.press("ArrowLeft" if number // len(SLIDERS) % 2 == 0 else "ArrowRight")
        page.wait_for_function(STILL, timeout=60_000, polling=50)
        times.append(page.evaluate("() => window.last - window.moved"))
    return times


def painted(browser: Any, address: str) -> Any:
    """A page of a fresh context, its first screen standing: verdict, columns, chart, what to measure."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address)
    page.get_by_text("Measure first").first.wait_for(timeout=60_000)
    page.locator("[role=img][aria-label^='Score of each plan']").wait_for(timeout=60_000)
    return page


def opened(browser: Any, address: str) -> Any:
    """Such a page, drawn to its first numbers, watched."""
    page = painted(browser, address)
    page.get_by_text("Explore one recipe").click()
    page.get_by_text("in mean score").first.wait_for(timeout=60_000)
    page.locator("[data-testid=stVegaLiteChart] svg.marks").last.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)
    return page


def resident_mb(pid: int) -> float:
    """Memory of the server, MB."""
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 1e6


def cpu_seconds(pid: int) -> float:
    """Processor time that the server has spent, which the machine's load does not distort."""
    import psutil

    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def measure(sessions: int, seconds: float, presses: int) -> dict[str, Any]:
    """All figures with the machine's load around them."""
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {"load_before": os.getloadavg()[0], "cpus": os.cpu_count()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        begun = time.perf_counter()
        with app() as (address, process):
            for name in ("first_page_seconds", "warm_page_seconds"):
                painted(browser, address).close()
                found[name], begun = time.perf_counter() - begun, time.perf_counter()
            page = opened(browser, address)
            redraws(page, len(SLIDERS))
            before = cpu_seconds(process)
            times = redraws(page, presses)
            found["redraw_ms"] = _spread(times)
            found["server_cpu_ms_a_redraw"] = 1000 * (cpu_seconds(process) - before) / presses
            if sessions:
                found["sessions"] = _crowd(browser, address, process, sessions, seconds)
        browser.close()
    found["load_after"] = os.getloadavg()[0]
    return found


def _crowd(browser: Any, address: str, pid: int, sessions: int, seconds: float) -> dict[str, Any]:
    """Several pages that take turns at pressing a key, so that their redraws overlap with one another."""
    pages = [opened(browser, address) for _ in range(sessions)]
    spent = cpu_seconds(pid)
    times, begun = list[float](), time.perf_counter()
    memory = [resident_mb(pid)]
    turn = 0
    while time.perf_counter() < begun + seconds:
        if time.perf_counter() > begun + _MEMORY_S * len(memory):
            memory.append(resident_mb(pid))
        for page in pages:
            slider(page, turn).focus()
            page.keyboard.press("ArrowLeft" if turn // len(SLIDERS) % 2 == 0 else "ArrowRight")
        for page in pages:
            page.wait_for_function(STILL, timeout=60_000, polling=50)
            times.append(page.evaluate("() => window.last - window.moved"))
        turn += 1
    errors = sum(page.locator("[data-testid=stException]").count() for page in pages)
    return {
        "count": sessions,
        "redraw_ms": _spread(times),
        "server_cpu_ms_a_redraw": 1000 * (cpu_seconds(pid) - spent) / len(times),
        "errors": errors,
        "memory_mb_every_30_s": [*memory, resident_mb(pid)],
    }


def _spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "count": len(ordered),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the app in chromium.")
    parser.add_argument(
        "--sessions", type=int, default=0, help="browser sessions at once, beside the single one"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the sessions move sliders")
    parser.add_argument("--presses", type=int, default=36, help="key presses of the single session")
    given = parser.parse_args()
    print(json.dumps(measure(given.sessions, given.seconds, given.presses), indent=1))
