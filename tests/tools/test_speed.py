"""The benchmark runs and reports every figure; how fast is not tested."""

from __future__ import annotations

from tools.simulator_speed import measure


def test_every_figure_is_measured() -> None:
    found = measure(repeats=1, candidates=32)
    assert all(value > 0 for value in found.values())
    assert (found["search_stages"], found["search_domains"], found["draws"]) == (10, 8, 1000)
