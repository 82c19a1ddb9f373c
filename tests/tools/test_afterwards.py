"""What ships now is judged on the runs, and beside the rules, of the forecasts on record."""

from __future__ import annotations

import pytest

from studies.framework.forecasts import read, told
from studies.framework.observe import SAME
from studies.framework.observe import read as observed
from studies.framework.registry import RESULTS
from studies.honest.prospective import afterwards, foreteller
from tools.afterwards import lines

STUDY = "real_systems"  # three runs


@pytest.mark.slow
def test_a_look_back_speaks_of_the_same_runs_and_scores() -> None:
    record = read(RESULTS / STUDY)
    now = afterwards(observed(RESULTS / STUDY), record)
    assert now["model"] == foreteller().model
    before, after = told(record), told(now)
    assert before.keys() == after.keys()
    for run, figures in before.items():
        for figure, domains in figures.items():
            assert domains.keys() == after[run][figure].keys()
            for domain, row in domains.items():  # a start does not depend on what ran since
                start = after[run][figure][domain]["rules"]["start"]
                assert row["rules"]["start"] == pytest.approx(start, abs=SAME)


@pytest.mark.slow
def test_both_are_printed_in_both_figures() -> None:
    heads = [line.partition(", by model")[0] for line in lines(STUDY) if "errs by" in line]
    assert heads == [
        f"{STUDY}, {words}: {figure}"
        for words in ("on record", "that ships")
        for figure in ("temperature 1", "greedy")
    ]
