"""The table of docs/quality.md is what the calibration says, and there are few parameters."""

from __future__ import annotations

from mopdsim.belief.calibration import default_calibration
from mopdsim.plan.words import parameter
from tools.quality_table import END, PAGE, START, drawn

MOST = 40  # free parameters, facts of domains aside


def test_the_page_shows_what_the_calibration_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert START in text and END in text
    assert drawn(text) == text, "run python -m tools.quality_table"


def test_at_most_forty_parameters_are_free_and_each_has_words() -> None:
    names = list(default_calibration().parameters)
    assert len(names) <= MOST
    assert not [name for name in names if ":" in name or ">" in name]  # no pair or domain has one of its own
    assert all(parameter(name) != name.replace("_", " ") for name in names)
