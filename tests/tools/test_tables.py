"""The tables of pages are what the calibration and the code say, and there are few parameters."""

from __future__ import annotations

import pytest

from mopdsim.belief.calibration import default_calibration
from mopdsim.plan.words import parameter
from tools.tables import DOCS, END, START, TABLES, drawn

MOST = 40  # free parameters, facts of domains aside


@pytest.mark.parametrize("page", TABLES)
def test_the_page_shows_what_the_code_says(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert START in text and END in text
    assert drawn(page) == text, "run python -m tools.tables"


def test_at_most_forty_parameters_are_free_and_each_has_words() -> None:
    names = list(default_calibration().parameters)
    assert len(names) <= MOST
    assert not [name for name in names if ":" in name or ">" in name]  # no pair or domain has one of its own
    assert all(parameter(name) != name.replace("_", " ") for name in names)
