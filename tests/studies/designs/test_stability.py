"""The study `stability`: mixed and single runs at equal samples; breaks and their time are found where they are put."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from simulated import noise, runs_of, simulated

from mopdsim.recipes.recipe import BASE
from studies.designs.effects import stability
from studies.framework.observe import Observations
from studies.framework.registry import NAMES
from studies.framework.run import Run

BREAKS_BY = 40  # steps


def breaks(run: Run, domain: str) -> bool:
    """At the highest rate reverse in mixed runs, at no other."""
    mixed, fastest = run.factors["arm"] == "mixed", run.factors["learning_rate"] == stability.HIGHEST
    return bool(mixed and fastest and run.factors["length"] == "long" and domain == "reverse")


def score(run: Run, stage: str, domain: str) -> float:
    if stage == BASE:
        return 0.4
    return 0.01 if breaks(run, domain) else 0.7 + noise(run, domain)


def validated() -> Observations:
    """Simulated observations with validations of the long runs, in which what breaks is broken by `BREAKS_BY`."""
    runs = runs_of("stability")
    found = simulated(runs, score)
    points = found.points[found.points.stage != BASE]
    paths = [
        points.assign(
            split="validation",
            step=step,
            pass_rate=[
                0.01 if breaks(runs[name], domain) and step >= BREAKS_BY else 0.5
                for name, domain in zip(points.run, points.domain, strict=True)
            ],
        )
        for step in range(0, stability.LENGTHS["long"] + 1, stability.EVERY)
    ]
    return replace(found, points=pd.concat([found.points, *paths]))


def test_a_mixed_run_spends_as_many_samples_as_the_runs_on_its_domains() -> None:
    samples: dict[tuple[object, ...], dict[str, int]] = {}
    runs = runs_of("stability")
    for run in runs.values():
        (amounts,) = run.recipe.amounts.values()
        key = (run.factors["learning_rate"], run.factors["length"], run.settings.seed)
        own = samples.setdefault(key, {"alone": 0, "mixed": 0})
        own[str(run.factors["arm"])] += amounts.steps * amounts.prompts_per_step * amounts.rollouts_per_prompt
        assert amounts.learning_rate == run.factors["learning_rate"]
        assert run.recipe.domains == stability.DOMAINS and run.start is None  # one base for each seed
    assert all(own["alone"] == own["mixed"] for own in samples.values())
    longs = {rate for rate, length, _ in samples if length == "long"}
    assert longs == set(stability.RATES)


def test_its_bases_are_of_no_other_study() -> None:
    seeds = {run.settings.seed for n in NAMES if n != "stability" for run in runs_of(n).values()}
    assert not seeds & set(stability.SEEDS)


def test_breaks_are_found_where_and_when_they_were_put() -> None:
    found = stability.analyse(validated())
    measured = found.quantities
    assert measured["broken_highest_mixed"].value == pytest.approx(1 / 3)
    assert measured["broken_highest"].value == pytest.approx(1 / 6)  # as many domains alone as mixed
    assert measured["broken_lowest"].value == 0 and measured["mixed_minus_alone_fast"].value == pytest.approx(
        0, abs=0.01
    )
    share = 1 / 3 / len(stability.RATES)
    assert measured["broken_mixed_minus_alone"].value == pytest.approx(share)
    assert measured["collapsed_mixed_minus_alone_equal_steps"].value == pytest.approx(share)
    broken = found.tables[2].frame
    assert len(broken) == len(stability.SEEDS) and set(broken.domain) == {"reverse"}
    assert set(broken.collapsed_by) == {BREAKS_BY}
    assert [chart.name for chart in found.charts] == ["scores", "paths"]


def test_without_validations_there_is_no_time_of_breaking() -> None:
    found = stability.analyse(simulated(runs_of("stability"), score))
    assert [chart.name for chart in found.charts] == ["scores"]
    assert found.tables[2].frame.collapsed_by.isna().all()
