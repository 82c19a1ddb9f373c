"""The benchmark of the simulator asks what its docstring says; how fast it is, is not tested."""

from __future__ import annotations

import pytest

from tools.speed import measure


@pytest.mark.slow
def test_the_search_is_over_nine_stages_on_eight_domains_and_a_new_process_costs_more() -> None:
    found = measure(repeats=1, candidates=32)
    assert (found["search_stages"], found["search_domains"], found["draws"]) == (9, 8, 1000)
    assert found["cold_forecast_s"] > found["warm_forecast_s"]
