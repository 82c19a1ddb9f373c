"""A question's candidates in one table: the planner's finalists as planned, and the published systems at equal dollars.

Finalists carry the planner's own numbers. A system's steps are scaled until it costs what the recommended plan costs,
and it meets the same worlds; one that needs a second model, or cannot be cut down so far, says so. The verdict is the
planner's: the best within the limits; `ahead` names the systems that are better than it in most worlds. Leaves out:
systems with their own amounts (`mopd forecast SYSTEM`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mopdsim.base.errors import MopdError, UsageError
from mopdsim.forecast.at_budget import AtBudget, at_dollars
from mopdsim.forecast.compare import SURE
from mopdsim.forecast.forecast import Forecast, forecast, quantiles
from mopdsim.forecast.scenario import loads
from mopdsim.plan import words
from mopdsim.plan.finalists import how_often
from mopdsim.plan.question import JUDGING_DRAWS, Question
from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import SYSTEMS
from mopdsim.recipes.stage import SMALLER


def ranking(question: Question, document: Mapping[str, Any]) -> dict[str, Any]:
    """The table as plain data, from the planner's answer as `mopd plan --json` prints it: finalists first in the
    planner's order, then systems, the best first. UsageError where the document is no such answer."""
    for key in ("recommended", "alternatives", "assumptions", "headline", "basis", "contradicted_by"):
        if key not in document:
            raise UsageError(f"the answer has no {key!r}: give what `mopd plan FILE --json` printed")
    recommended = forecast(loads(document["recommended"]["scenario"]))
    dollars = float(np.median(recommended.usd_N))
    found, left_out = [], {}
    for name in SYSTEMS:
        try:
            found.append(_system(question, name, recommended, dollars))
        except MopdError as error:
            left_out[name] = str(error)
    return {
        "assumptions": document["assumptions"],
        "headline": document["headline"],
        "basis": document["basis"],
        "contradicted_by": document["contradicted_by"],
        "usd": dollars,
        "finalists": [{"of": "planner", **_row(row)} for row in words.finalists(document)],
        "ahead": [row["name"] for row in found if row["probability_better"] >= SURE],
        "systems": sorted(found, key=lambda row: -float(row["value"])),
        "left_out": left_out,
    }


def _row(finalist: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("name", "label", "value", "utility", "mean_score", "worst_score", "usd", "gpu_hours", "days")
    return {**{key: finalist[key] for key in keys}, "probability_better": finalist.get("probability_better")}


def _system(question: Question, name: str, recommended: Forecast, dollars: float) -> dict[str, Any]:
    scaled = _scaled(question, name, dollars)
    made = forecast(scaled.scenario)
    utility_N = question.utility(made.scores_DN)
    return {
        "of": "catalogue",
        "name": name,
        "label": name,
        "value": float(question.value(utility_N)),
        "utility": quantiles(question.utility(made.likely_DN)),
        "mean_score": made.mean_score,
        "worst_score": made.worst_score,
        "usd": quantiles(made.usd_N),
        "gpu_hours": quantiles(made.gpu_hours_N),
        "days": quantiles(made.days_N),
        "probability_better": how_often(question, utility_N, question.utility(recommended.scores_DN)),
        "off_budget": scaled.reason,
    }


def _scaled(question: Question, name: str, dollars: float) -> AtBudget:
    recipe = catalogue.recipe(name, question.domains, amounts=question.amounts_name)
    if SMALLER in recipe.roots:
        raise MopdError("it delivers a smaller model too, which the question does not name")
    return at_dollars(replace(question.base, recipe=recipe, draws=JUDGING_DRAWS), dollars)
