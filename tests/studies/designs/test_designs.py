"""The shipped studies: every design is sound, and every analysis finds what was put into simulated observations."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from simulated import noise, runs_of, simulated, traced
from typer.testing import CliRunner

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.belief.calibration import default_calibration
from mopdsim.recipes.stage import BASE, ROOTS
from studies.framework import report
from studies.framework.analysis import Analysis
from studies.framework.observe import Observations
from studies.framework.registry import LISTED, NAMES, RESULTS, RETIRED, study
from studies.framework.run import Run
from studies.framework.study import Study
from studies.honest.trials import Forecaster, contests, trials
from trainer.tasks import PROBES, task

JUDGING = (  # no run of these is fitted
    "order", "order_again", "order_fresh", "conflict", "teachers",
    "breaking", "breaking_real", "caps", "real", "teachers_real", "trace_fresh", "trace_real",
)  # fmt: skip
PROBED = ("teachers", "caps")  # they ask what becomes of a composed probe
WHOLE = (  # nothing is held out: claims judge the first two, the others set worlds and amounts
    "real_conflict", "real_systems", "skill_gate", "skill_sweep",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_designs_are_sound(name: str) -> None:
    chosen = study(name)
    assert chosen.name == name and Path(f"studies/designs/{name}.py").name == f"{name}.py"
    runs = runs_of(name)
    assert len(runs) == len(chosen.design())  # each has a name of its own
    held_out = [run.held_out for run in runs.values()]
    assert any(held_out) == (name not in WHOLE) and all(held_out) == (name in JUDGING)
    for run in {each.rpartition("/seed")[0]: run for each, run in runs.items()}.values():
        assert len(run.recipe.domains) >= 2
        for domain in run.recipe.domains:
            task(domain)
        names = {domain.partition("?")[0] for domain in run.recipe.domains}
        probes = [probe for probe, skills in PROBES.items() if set(skills) <= names]
        assert probes == (["sort_then_shift"] if name in PROBED else [])
        assert type(run).model_validate(run.model_dump()) == run  # recipes in a wider world stay valid
    for claim in chosen.prediction.claims:
        assert claim.at_least is not None or claim.at_most is not None


QUICK = "real_conflict"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in NAMES]
)
def test_every_claim_is_measured(name: str) -> None:
    _, analysis = analysed(name)
    assert {claim.quantity for claim in study(name).prediction.claims} <= set(analysis.quantities)


@cache
def analysed(name: str) -> tuple[Observations, Analysis]:
    """Simulated observations of a study, and what it makes of them."""
    found = _observed(study(name))
    return found, study(name).analyse(found)


def _observed(chosen: Study) -> Observations:
    """Of a world in which every stage adds a little, in which each quantity exists."""

    def score(run: Run, stage: str, domain: str) -> float:
        depth = 0 if stage in ROOTS else 1 + len(run.recipe.ancestors(stage))
        return min(0.9, 0.4 + 0.05 * depth + noise(run, stage, domain))

    greedy = score if chosen.suite != "sharpening" or chosen.foretells else None
    found = simulated(runs_of(chosen.name), score, greedy=greedy)
    return found if chosen.measure is None else replace(found, measured=traced(runs_of(chosen.name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_reported(name: str, tmp_path: Path) -> None:
    found, analysis = analysed(name)
    record = {"written": "2026-01-01", "first_run": "2026-01-02", "sha256": "0" * 64}
    files = report.write(study(name), found, analysis, record, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "not measured" not in text and all(path.stat().st_size > 0 for path in files) and len(files) > 1


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_of_nothing_says_nothing(name: str) -> None:
    chosen = study(name)
    assert not chosen.analysis(simulated({}, lambda run, stage, domain: 0.5)).quantities


def test_unknown_studies_are_refused() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'order'"):
        study("oder")


@pytest.mark.parametrize("verb", ["list", "plan", "run", "status", "fit", "report", "validation"])
def test_help_of_every_verb_has_an_example(verb: str) -> None:
    from studies.cli.main import app

    shown = CliRunner().invoke(app, [verb, "--help"]).output
    assert f"mopd study {verb}" in " ".join(shown.split())


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_study_is_not_run_and_says_who_succeeds_it(name: str) -> None:
    from studies.cli.main import app

    for verb in ("plan", "run", "status"):
        refused = CliRunner().invoke(app, [verb, name]).exception
        assert isinstance(refused, UsageError) and f"studies/results/{name}" in str(refused)
        assert (f"run `{RETIRED[name].successor}`" in str(refused)) == bool(RETIRED[name].successor)
    assert RETIRED[name].successor in ("", "mopd train pace", *NAMES) and any((RESULTS / name).iterdir())


@pytest.mark.parametrize("name", [name for name in LISTED if name in RETIRED])
def test_what_a_retired_study_found_can_be_read(name: str) -> None:
    from studies.cli.main import app

    shown = CliRunner().invoke(app, ["report", name]).output.split()
    assert str(RESULTS / name / "report.md") in shown and all(Path(file).is_file() for file in shown)
    fitted = json.loads(CliRunner().invoke(app, ["fit", name, "--json"]).output)["studies"][name]
    claims = {claim.quantity for claim in study(name).prediction.claims}
    assert claims <= set(fitted["quantities"]) and fitted["runs"]


def test_held_out_runs_become_trials_with_their_baselines() -> None:
    """A student as good as its teachers: the rule 'MOPD equals teacher' is then exact, and 'no change' is not."""
    runs = {name: run for name, run in runs_of("order").items() if name == "letters/mopd/seed70"}

    def score(run: Run, stage: str, domain: str) -> float:
        return 0.4 if stage == BASE else 0.8

    found = simulated(runs, score)
    forecaster = Forecaster(studies={"order": found}, calibration=default_calibration())
    name = next(name for name, run in runs.items() if run.held_out)
    own = [trial for trial in trials(forecaster) if trial.run == name]
    assert [trial.cell.domain for trial in own] == list(runs[name].recipe.domains)
    assert {trial.truth for trial in own} == {0.8} and len(own[0].ensemble) > 100
    assert own[0].cell.specialist[own[0].cell.domain][own[0].cell.domain] == 0.8
    assert own[0].cell.start[own[0].cell.domain] == 0.4
    assert contests(forecaster) == []  # one recipe alone


def test_the_list_names_every_study_and_fit_wants_one_or_all() -> None:
    from studies.cli.main import app

    shown = CliRunner().invoke(app, ["list", "--json"])
    assert [row["name"] for row in json.loads(shown.output)] == list(LISTED)
    for arguments in (["fit"], ["fit", "order", "--all"]):
        assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)
    missing = CliRunner().invoke(app, ["report", "order", "--scale", "0.015", "--out", "nowhere"])
    assert isinstance(missing.exception, NotFoundError) and "mopd study run order" in str(missing.exception)
