"""What a calibration says a run will score on a finite test: the ensemble that an honest test judges.

A forecast is of true pass rates and takes the form of the model for granted. A measured score differs from it by the
error of that form (Student's t with four degrees of freedom, in logits, of the scale `model_error` that the fit found)
and by the draw of the test's prompts (binomial). Leaves out: prompts that a run shares with its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mopdsim.base.arrays import Array
from mopdsim.belief.calibration import Calibration
from mopdsim.belief.form_error import FORM_ERRORS, GREEDY_ERROR, MODEL_ERROR, tested
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import Scenario
from studies.framework.ledger import CPU
from studies.framework.observe import Figure


def ensemble(
    recipe: Mapping[str, Any],
    start: Mapping[str, float],
    items: Mapping[str, int],
    calibration: Calibration,
    *,
    key: str,
    model: str,
    form_error: bool,
    figure: Figure = "pass_rate",
    known: Mapping[str, Mapping[str, float]],
    specialists: Mapping[str, Mapping[str, float]] | None,
) -> dict[str, Array]:
    """Draws of each domain's measured score at the end of a recipe (a document), (N,). start: scores of its base
    by domain; items: how many prompts the test has; model: of the catalogue; key: names the run's own streams of
    errors; form_error: whether the form's error is among them; figure: which scores all these are; known: scores
    measured after its stages; specialists: what RL on a domain alone, from the same base, was measured to reach,
    as a scenario says it."""
    asked = scenario_of(recipe, start, model=model, specialists=specialists)
    rows = dict(calibration.parameters)
    if figure == "greedy" and asked.scope in rows[GREEDY_ERROR].studies:
        rows[MODEL_ERROR] = rows[GREEDY_ERROR]
    if not form_error:
        rows = {name: row for name, row in rows.items() if name not in FORM_ERRORS}
    calibration = replace(calibration, parameters=rows)
    own = {
        stage: {
            domain: score for domain, score in scores.items() if domain in start
        }  # probes are none of these
        for stage, scores in known.items()
    }
    found = forecast(asked, calibration, known=own)
    drawn = {}
    for domain, score_N in zip(found.world.names, found.likely_DN, strict=True):
        drawn[domain] = tested(score_N, items[domain], key=f"{key}:{domain}")
    return drawn


def scenario_of(
    recipe: Mapping[str, Any],
    start: Mapping[str, float],
    *,
    model: str,
    specialists: Mapping[str, Mapping[str, float]] | None,
) -> Scenario:
    """The question of a run, FLOPs counted as this project's trainer counts them."""
    return scenario.from_document(
        {
            "recipe": recipe,
            "model": model,
            "gpu": CPU,
            "domain": {
                domain: {"start": score}
                | ({"specialist": specialists[domain]} if specialists and domain in specialists else {})
                for domain, score in start.items()
            },
        }
    )
