"""The study `real`: equal FLOPs, the order of its runs, what forecasts know of it, and its report half way; and
`breaking_real`, the same recipes at bolder rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from simulated import noise, runs_of, simulated

from mopdsim.belief.calibration import default_calibration
from mopdsim.recipes.stage import BASE
from studies.designs.skill import breaking_real, real
from studies.framework import forecasts, observe
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.honest import prospective
from studies.honest.form_error import carried
from studies.honest.refit import Refit, shipped
from trainer.tasks import task

FIRST = "real/mixture/x0.3/seed100"


def own(name: str) -> str:
    """A run's batch."""
    return str(runs_of("real")[name].factors["batch"])


@pytest.fixture(scope="module")
def half() -> Observations:
    """The first batch done, and of the second its start and teachers: as a study stopped half way leaves it."""
    first, second = list(forecasts.conditions(runs_of("real")))[:2]
    runs = {name: run for name, run in runs_of("real").items() if own(name) in (first, second)}

    def score(run: Run, stage: str, domain: str) -> float:
        return 0.2 if stage == BASE else 0.6 + noise(run, stage)

    seen = simulated(runs, score, greedy=lambda run, stage, domain: score(run, stage, domain) + 0.1)
    manifest: dict[str, Any] = {**seen.manifest, "study": "real"}
    for name, row in manifest["runs"].items():
        row["model"] = "tiny"  # the sizes of the real one are nowhere on a machine without it
        row["failure"] = None if own(name) == first else observe.NOT_RUN
    taught = seen.points.stage.isin([BASE, *(f"teacher_{place}" for place in range(1, 5))])
    scored = ~seen.points.stage.str.startswith(("teacher", "step")) | seen.points.trained
    return replace(
        seen,
        manifest=manifest,
        points=seen.points[scored & (seen.points.run.map(own) == first) | scored & taught],
    )


def test_recipes_of_a_world_and_a_budget_spend_alike_and_share_their_teachers() -> None:
    runs = runs_of("real")
    assert len(runs) <= 75 and len(real.WORLDS) == 3 and len(real.SEEDS) == 3
    assert all(task(domain) and len(domains) == 4 for domains in real.WORLDS.values() for domain in domains)
    for names in forecasts.conditions(runs).values():
        spent = [sum(a.max_flops or 0.0 for a in runs[name].recipe.amounts.values()) for name in names]
        assert len(names) == 5 and max(spent) == pytest.approx(min(spent))
        chosen = {str(runs[name].factors["recipe"]): runs[name].recipe for name in names}
        for place in range(1, 5):
            amounts = {chosen[name].amounts[f"teacher_{place}"] for name in ("mopd", "off_policy", "merge")}
            assert len(amounts) == 1


def test_the_most_valuable_runs_come_first() -> None:
    batches = list(forecasts.conditions(runs_of("real")))
    assert batches[0] == FIRST and len(batches) == 15
    worlds = [batch.split("/")[1] for batch in batches[:3]]
    assert worlds == list(real.WORLDS) and all(batch.endswith("x0.3/seed100") for batch in batches[:3])
    assert all(batch.endswith("seed100") for batch in batches[:6])
    assert {"/".join(batch.split("/")[:3]) for batch in batches} == {
        str(run.factors["contest"]) for run in runs_of("real").values()
    }


def test_a_forecast_of_a_real_model_knows_its_specialists_without_their_pace(half: Observations) -> None:
    told = prospective.tell(half)
    rows = told["mixture/x0.3/mopd/seed100"]["greedy"]
    assert set(rows) == set(real.WORLDS["mixture"])
    assert all(row["rules"]["own specialist"] == pytest.approx(0.7, abs=0.01) for row in rows.values())


def test_a_study_of_a_real_model_gives_its_scope_an_error_of_the_form(half: Observations) -> None:
    """Forecasts lie far off, so that the error is wide; too few runs say nothing."""
    document = shipped()
    whole = Refit(document=document, calibration=default_calibration(), seconds=None)
    rows = {
        name: dict(row) | {"failure": None}
        for name, row in half.manifest["runs"].items()
        if own(name) == FIRST
    }
    assert len(rows) == 5
    assert (
        carried(whole, {"real": replace(half, manifest={**half.manifest, "runs": rows})}).document == document
    )
    again = {f"{name}/again": row for name, row in rows.items()}
    points = half.points[half.points.run.isin(rows)]
    twice = replace(
        half,
        manifest={**half.manifest, "runs": rows | again},
        points=pd.concat([points, points.assign(run=points.run + "/again")]),
    )
    found = carried(whole, {"real": twice}).calibration.parameters
    for name in ("model_error", "greedy_error"):
        own_scale = found[name].studies["small"]
        assert own_scale.source == "10 runs, of real, which enter no fit" and own_scale.grade == "fitted"
        assert found[name].studies["tiny"] == default_calibration().parameters[name].studies["tiny"]
    assert "small" not in found["bold_error"].studies


def test_half_a_study_says_which_half(half: Observations) -> None:
    made = real.analyse(half)
    assert made.findings[0].startswith("5 of 10 runs are done. Seeds by condition: mixture x0.3 (1 of 3).")
    assert "points greedy (one seed: no interval)" in made.findings[1]
    assert "mixed_minus_mopd" not in made.quantities  # one seed of one world has no interval
    rows = {name: dict(row) for name, row in half.manifest["runs"].items()}
    rows["mixture/x0.3/merge/seed100"]["failure"] = observe.NOT_RUN
    less = real.analyse(replace(half, manifest={**half.manifest, "runs": rows}))
    assert less.findings == (
        "4 of 10 runs are done, 4 of them in batches that are not, which count in no mean. Seeds by condition: none. A "
        "lead has an interval where there are two seeds at least.",
    )


def test_bold_runs_of_a_seed_share_their_teachers_and_differ_in_the_last_rate_alone() -> None:
    assert not set(breaking_real.SEEDS) & set(real.SEEDS)
    usual = real.recipes(real.WORLDS["mixture"], real.SMALL)
    for run in runs_of("breaking_real").values():
        same = usual[str(run.factors["recipe"])]
        differing = {name for name, own in run.recipe.amounts.items() if own != same.amounts[name]}
        assert differing <= {same.output}
        assert run.recipe.amounts[same.output].learning_rate == run.factors["rate"]


def test_the_one_line_rule_is_judged_as_written_and_as_a_multiple_of_the_usual_rate() -> None:
    """Mixed RL leads at the usual rate and breaks above it: the line as written never sees that."""

    def greedy(run: Run, stage: str, domain: str) -> float:
        if stage == BASE:
            return 0.3
        mixed = run.factors["recipe"] == "mixed_rl"
        broken = mixed and run.factors["rate"] != breaking_real.RATE
        return (0.1 if broken else 0.8 if mixed else 0.6) + noise(run, stage)

    made = breaking_real.analyse(
        simulated(runs_of("breaking_real"), lambda run, stage, domain: 0.25, greedy=greedy)
    )
    right = {told.partition(" takes ")[0]: told for told in made.findings if "takes a recipe" in told}
    assert "1 of 3" in right["'mixed RL, but MOPD at 0.004 and above'"]
    assert "3 of 3" in right["'mixed RL, but MOPD at 0.00013 and above'"]
    assert made.quantities["broken_mixed_highest"].value == 1
    assert made.quantities["mixed_minus_mopd_lowest"].value == pytest.approx(0.2, abs=0.01)
