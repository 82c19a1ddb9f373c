"""A lab's year: the first release, then releases that each change some domains, by what a plan must run again.

A plan of teachers retrains those of the changed domains and merges or distils again, the other teachers being shared
with the release before; one mixed run is redone whole. Draws are those of the forecast, so that two plans meet the same
year. Leaves out: scores that move from release to release, releases that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from mopdsim.base.arrays import Array
from mopdsim.forecast.compare import SURE, TIE
from mopdsim.forecast.forecast import Forecast, quantiles
from mopdsim.plan.candidate import first_of_each
from mopdsim.plan.finalists import Finalist
from mopdsim.plan.question import Question


class Release(NamedTuple):
    """What one release runs: domains changed, stages, GPU-hours and days by draw."""

    changed: tuple[str, ...]
    stages: tuple[str, ...]
    gpu_hours_N: Array
    days_N: Array


def releases(made: Forecast, changes: Sequence[Sequence[str]]) -> list[Release]:
    """The first release and one for each set of changed domains."""
    order = [job.name for job in made.timeline.jobs]
    found = [Release(made.scenario.recipe.domains, tuple(order), made.gpu_hours_N, made.days_N)]
    for changed in changes:
        stale, hours_N, days_N = made.retraining(*changed)
        found.append(Release(tuple(changed), tuple(name for name in order if name in stale), hours_N, days_N))
    return found


def portfolio(question: Question, finalists: Sequence[Finalist]) -> dict[str, Any] | None:
    """The year of the best plan of each family that trains every domain, cheapest first, and how surely the cheapest
    beats the next; None where no releases are asked."""
    if not question.portfolio:
        return None
    whole = (one for one in finalists if {*chain(*one.plan.groups)} == set(question.domains))
    best = first_of_each(whole, lambda one: one.plan.family)
    years = {one.plan.label: releases(one.forecast, question.portfolio) for one in best}
    totals = {
        label: np.sum([release.gpu_hours_N for release in year], axis=0) for label, year in years.items()
    }
    ranked = sorted(totals, key=lambda label: float(np.median(totals[label])))
    document: dict[str, Any] = {
        "plans": [_year(question, label, years[label], totals[label]) for label in ranked]
    }
    if len(ranked) > 1:
        probability = float(np.mean(totals[ranked[0]] < totals[ranked[1]]))
        document["cheapest"] = ranked[0] if probability >= SURE else TIE
        document["probability_cheaper"] = probability
    return document


def _year(question: Question, label: str, year: Sequence[Release], total_N: Array) -> dict[str, Any]:
    return {
        "label": label,
        "gpu_hours": quantiles(total_N),
        "usd": quantiles(total_N * question.usd_per_gpu_hour),
        "days": quantiles(np.sum([release.days_N for release in year], axis=0)),
        "releases": [
            {
                "changed": list(release.changed),
                "stages": list(release.stages),
                "gpu_hours": quantiles(release.gpu_hours_N),
                "days": quantiles(release.days_N),
            }
            for release in year
        ],
    }
