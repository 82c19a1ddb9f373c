"""Along the ambiguity dial the forecast of mixed RL stays near what was measured."""

from __future__ import annotations

import pytest

from tools.dials import rows

MOST = 0.10  # of a mean score


@pytest.mark.slow
def test_every_dial_is_forecast_within_ten_points() -> None:
    found = list(rows())
    assert {dial for _, dial, *_ in found} == {0, 0.25, 0.5, 0.75, 0.9, 1}
    assert not [row for row in found if abs(row[4] - row[3]) > MOST]
