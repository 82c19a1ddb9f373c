"""The honest test on planted studies: what is left out of a fit does not touch it, and what is said of it is true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from mopdsim.base.arrays import Array, logistic, logit
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import Calibration, form_error, from_document, moved
from mopdsim.belief.calibration import tested as measured
from mopdsim.facts.model import model
from mopdsim.fit.latents import SPREADS
from mopdsim.forecast import scenario
from mopdsim.forecast.forecast import forecast
from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import assemble
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import to_document
from mopdsim.recipes.stage import BASE, Rl
from studies.framework.observe import POINTS, Observations, write
from studies.honest import honest, report
from studies.honest import refit as refitting
from studies.honest.baselines import Cell, strategy_of
from studies.honest.form_error import most_probable
from studies.honest.held_out import Trial
from studies.honest.refit import committed, entering, prior_of, refit, same
from studies.honest.scoring import coverage

RESULTS = Path(__file__).parents[3] / "studies" / "results"
DOMAINS = ("sort", "reverse")
ITEMS = 500
Change = Callable[[str, Mapping[str, float]], Mapping[str, float]]  # a run's final scores, changed


def planted(folder: Path, runs: Mapping[str, tuple[Recipe, int, bool]], change: Change | None = None) -> Path:
    """A study's files as if these runs (recipe, seed, held out) had scored what one drawn world says, to the item."""
    points: list[dict[str, Any]] = []
    described: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    for name, (recipe, seed, held_out) in runs.items():
        world = forecast(scenario.from_document({"recipe": to_document(recipe), "draws": 2, "seed": 5}))
        keys = {BASE: f"base{seed}"} | {stage: f"{name}:{stage}" for stage in recipe.stage}
        for stage, key in keys.items():
            scores = dict(zip(recipe.domains, world.states[stage].score_DN[:, 0], strict=True))
            if change is not None and stage == recipe.output:
                scores = dict(change(name, scores))
            effort, kind = world.efforts.get(stage), getattr(recipe.stage.get(stage), "kind", "base")
            flops = 0.0 if effort is None else float(effort.compute_N[0]) * model("tiny").active_parameters
            tokens = 0.0 if effort is None else float(effort.tokens_N[0]) / len(recipe.domains)
            stages[key] = {
                "kind": kind,
                "flops": flops,
                "steps": 9,
                "wall_seconds": 1.0,
                "trained_tokens": dict.fromkeys(recipe.domains, tokens),
            }
            for domain, score in scores.items():
                rng = np.random.default_rng(list(f"{key}{domain}".encode()))
                rate = rng.binomial(ITEMS, score) / ITEMS
                row = {"run": name, "stage": stage, "key": key, "split": "test", "step": 9, "domain": domain}
                row |= {
                    "trained": True,
                    "pass_rate": rate,
                    "n": ITEMS,
                    "flops": flops,
                    "gradient_tokens": tokens,
                }
                points.append(row | {"kl_parent": 0.05 if kind == "rl" else None})
        described[name] = {
            "document": to_document(recipe), "model": "tiny", "seed": seed, "domains": list(recipe.domains),
            "factors": {"recipe": recipe.name, "contest": "planted"}, "held_out": held_out, "output": recipe.output,
            "keys": keys, "failure": None, "recipe": recipe.name,
        }  # fmt: skip
    found = Observations(
        points=pd.DataFrame(points, columns=list(POINTS)),
        manifest={
            "study": folder.name,
            "date": "2026-01-01",
            "device": "none",
            "versions": {},
            "scale": 1,
            "workers": 1,
            "prediction_sha256": "",
            "runs": described,
            "stages": stages,
        },
    )
    write(found, folder)
    return folder


def design(*, held_out: bool = True) -> dict[str, tuple[Recipe, int, bool]]:
    """Specialists, mixed RL, MOPD and a merge on two seeds, the last seed's mixed RL and merge held out."""
    made = [
        *(catalogue.single_domain([domain]).model_copy(update={"domains": DOMAINS}) for domain in DOMAINS),
        catalogue.mixed_rl(DOMAINS),
        catalogue.mopd(DOMAINS),
        catalogue.merge(DOMAINS),
    ]
    return {
        f"{place}-{recipe.name}/seed{seed}": (
            recipe,
            seed,
            held_out and seed == 1 and recipe.name in ("mixed_rl", "merge"),
        )
        for seed in (0, 1)
        for place, recipe in enumerate(made)
    }


def collapsed(strategy: str, seed: int) -> Change:
    """Runs of a recipe and seed that ended at nothing."""

    def change(name: str, scores: Mapping[str, float]) -> Mapping[str, float]:
        return dict.fromkeys(scores, 0.02) if name.endswith(f"-{strategy}/seed{seed}") else scores

    return change


def fitted(folder: Path, leave: refitting.Leave | None = None) -> Mapping[str, Any]:
    folders = {folder.name: folder}
    return refit(folders, committed(folders), leave=leave, starts=1).document


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted study, to be read only."""
    return planted(tmp_path_factory.mktemp("planted") / "s", design())


@pytest.fixture(scope="module")
def first(written: Path) -> Mapping[str, Any]:
    """Its fit."""
    return fitted(written)


def test_a_held_out_run_never_enters_a_fit(first: Mapping[str, Any], tmp_path: Path) -> None:
    """What it scored changes nothing; the same run, not held out, changes the fit."""
    worse, before = collapsed("mixed_rl", 1), first
    after = fitted(planted(tmp_path / "after" / "s", design(), worse))
    assert same(before, after) and not any("mixed_rl/seed1" in name for name in before["fit"]["runs"])
    entered = fitted(planted(tmp_path / "entered" / "s", design(held_out=False), worse))
    assert not same(before["parameters"], entered["parameters"])


@pytest.mark.slow
def test_a_strategy_left_out_does_not_touch_the_fit(tmp_path: Path) -> None:
    def is_mopd(study: str, row: Mapping[str, Any]) -> bool:
        return str(row["factors"]["recipe"]) == "mopd"

    before = fitted(planted(tmp_path / "before" / "s", design()), is_mopd)
    after = fitted(planted(tmp_path / "after" / "s", design(), collapsed("mopd", 0)), is_mopd)
    assert same(before, after) and not any("mopd" in name for name in before["fit"]["runs"])
    folders = {"s": tmp_path / "before" / "s"}
    found = honest.strategies_left_out(folders, honest.tested(folders, starts=1, folds=1))
    assert set(found) == {"single_domain", "mixed_rl", "mopd", "merge"}
    assert found["mopd"]["fitted_runs"] == 6 and found["mopd"]["runs"] == 2 and found["mopd"]["n"] == 4


def test_a_run_that_holds_a_held_out_runs_last_stage_does_not_enter(written: Path) -> None:
    studies = committed({"s": written})
    runs = studies["s"].manifest["runs"]
    assert len(entering(studies)["s"]) == 8
    runs["3-mopd/seed1"]["keys"]["teacher_1"] = runs["2-mixed_rl/seed1"]["keys"]["mixed"]
    assert "3-mopd/seed1" not in entering(studies)["s"] and len(entering(studies)["s"]) == 7
    runs["0-single_domain/seed0"]["model"] = "runs/models/own"
    assert len(entering(studies)["s"]) == 6


def test_a_fit_of_nothing_is_refused(written: Path) -> None:
    folders = {"s": written}
    with pytest.raises(UsageError, match="no finished run enters the fit"):
        refit(folders, committed(folders), leave=lambda study, row: True)


def test_a_rebuilt_calibration_is_the_same(
    written: Path, first: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the one that ships holds a fit or not, even one of other runs."""
    assert same(prior_of(first), prior_of(refitting.shipped()))
    other = fitted(planted(tmp_path / "other" / "s", design(), collapsed("mopd", 0)))
    monkeypatch.setattr(refitting, "shipped", lambda: json.loads(json.dumps(other)))
    assert same(first, fitted(written)) and not same(first["parameters"], other["parameters"])


def test_documents_are_compared_to_six_digits() -> None:
    assert same({"a": [1.0, "x"]}, {"a": [1.000001, "x"]}) and not same([1.0], [1.00002])
    assert not same({"a": 1.0}, {"a": 1.0, "b": 1.0}) and not same([1.0], [1.0, 1.0])


def _calibration(scale: float) -> Any:
    row = {"value": scale, "sd": 0.0, "distribution": "lognormal", "grade": "fitted", "source": "planted"}
    found = {"value": scale, "sd": 0.0, "grade": "fitted", "source": "planted"}
    document = refitting.shipped()
    whole = {**row, "studies": {"tiny": found}}
    return from_document(
        {**document, "parameters": {**document["parameters"], "model_error": whole}}, source="planted"
    )


@pytest.mark.slow
def test_intervals_with_the_error_of_the_form_cover_at_their_level() -> None:
    """On scores that were moved by Student's t in logits and then tested on prompts."""
    rng = np.random.default_rng(1)
    rates = rng.uniform(0.3, 0.95, 600)
    off = logistic(logit(rates) + 0.3 * stats.t.rvs(4, size=600, random_state=rng))
    truth = rng.binomial(ITEMS, off) / ITEMS
    calibration = _calibration(0.3)
    ensembles = [
        measured(_with_error(np.full(1000, rate), calibration, str(place)), ITEMS, key=str(place))
        for place, rate in enumerate(rates)
    ]
    for level in (0.5, 0.8, 0.9):
        found = coverage(ensembles, truth, level)
        assert found.low <= level <= found.high


def _with_error(rate_N: Array, calibration: Calibration, stage: str) -> Array:
    error_DN = form_error(calibration, "tiny", stage, ["sort"], seed=0, draws=len(rate_N))
    assert error_DN is not None
    assert form_error(calibration, "frontier", stage, ["sort"], seed=0, draws=len(rate_N)) is None
    return moved(rate_N[None], error_DN)[0]


def test_the_error_is_wider_for_a_base_nobody_scored_where_its_start_is_that_of_others() -> None:
    calibration = _calibration(0.3)
    row = calibration.parameters["model_error"]
    both = replace(row, studies={**row.studies, "small": row.studies["tiny"]})
    calibration = replace(calibration, parameters={**calibration.parameters, "model_error": both})
    widths = {
        (scope, scored): np.std(error_DN)
        for scope in ("tiny", "small")
        for scored in (True, False)
        if (error_DN := form_error(calibration, scope, "s", ["a"], seed=0, draws=500, scored=scored))
        is not None
    }
    assert widths["tiny", False] > 3 * widths["tiny", True]
    assert widths["small", False] == widths["small", True] == widths["tiny", True]


@pytest.mark.parametrize("scale", [0.1, 0.4, 1.0])
def test_the_scale_of_the_forms_error_is_recovered(scale: float) -> None:
    """Over a forecast's own spread of half a logit and the finite test's."""
    rng = np.random.default_rng(2)
    cell = Cell(strategy="mopd", domain="a", trained=("a",), start={"a": 0.4})
    found = []
    for place, middle in enumerate(rng.uniform(-1, 2, 300)):
        world = middle + 0.2 * rng.standard_normal(401)
        truth = logistic(world[-1] + scale * stats.t.rvs(4, random_state=rng))
        ensemble = rng.binomial(ITEMS, logistic(world[:-1])) / ITEMS
        found.append(
            Trial(
                study="s", run=str(place), condition="c", seed=0, cell=cell, ensemble=tuple(ensemble.tolist()),
                truth=rng.binomial(ITEMS, truth) / ITEMS, items=ITEMS,
            )
        )  # fmt: skip
    assert most_probable(found, *SPREADS["error"]) == pytest.approx(scale, rel=0.25)


def test_a_scale_is_recovered_from_few_prompts_that_forecasts_hit_exactly() -> None:
    """A sharp forecast, tested on 40 prompts, has drawn the very share that was measured: that is no sign of a small
    error."""
    rng = np.random.default_rng(3)
    cell = Cell(strategy="mopd", domain="a", trained=("a",), start={"a": 0.4})
    few, found = 40, []
    for place, middle in enumerate(rng.uniform(-1, 2, 300)):
        truth = logistic(middle + 0.5 * stats.t.rvs(4, random_state=rng))
        ensemble = rng.binomial(few, logistic(np.full(400, middle))) / few
        found.append(
            Trial(
                study="s", run=str(place), condition="c", seed=0, cell=cell, ensemble=tuple(ensemble.tolist()),
                truth=rng.binomial(few, truth) / few, items=few,
            )
        )  # fmt: skip
    assert most_probable(found, *SPREADS["error"]) == pytest.approx(0.5, rel=0.25)


@pytest.mark.slow
def test_one_command_fits_judges_ships_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"s": planted(tmp_path / "s", design()), "later": tmp_path / "later"}
    ships = tmp_path / "calibration.json"
    ships.write_text(json.dumps(refitting.shipped()))
    monkeypatch.setattr(refitting, "shipped_path", lambda: ships)
    monkeypatch.setattr(report, "shipped_path", lambda: ships)
    found = report.fit_all(folders, ship=False, folder=None, leave_out=False)
    assert not found["fit"]["is_shipped"] and found["fit"]["left_out"] == {
        "later": "no observations, or not of skills"
    }
    found = report.fit_all(folders, ship=True, folder=tmp_path / "held_out", leave_out=True)
    assert found["fit"]["is_shipped"] and found["fit"]["runs"] == 8
    held = found["held_out"]
    assert (held["n"], held["runs"], held["conditions"]) == (4, 2, 2)
    asked = {
        "mae_points", "best_baseline", "best_baseline_mae_points", "skill", "skill_interval", "coverage_80",
        "regret_points", "best_constant_rule_regret_points", "crps_points", "seed_to_seed_points",
    }  # fmt: skip
    assert asked <= held.keys()
    text = (tmp_path / "held_out" / "report.md").read_text()
    assert "s: recipe mixed_rl (seeds 1)" in text and "**not** the one that ships" not in text
    assert "4 scores of 2 runs in 2 conditions" in text and "Each strategy forecast" in text
    assert (tmp_path / "held_out" / "predicted_against_measured.svg").stat().st_size > 1000
    rows = json.loads((tmp_path / "held_out" / "held_out.json").read_text())["trials"]
    assert {row["run"] for row in rows} == {"2-mixed_rl/seed1", "4-merge/seed1"}
    assert all(row["low"] <= row["predicted"] <= row["high"] for row in rows)
    again = report.fit_all(folders, ship=False, folder=None, leave_out=False, anew=False)
    assert again["fit"]["is_shipped"] and again["fit"]["seconds"] is None
    assert again["held_out"] == found["held_out"]
    taken = json.loads(ships.read_text())
    taken["fit"]["runs"].append("s/2-mixed_rl/seed1")
    ships.write_text(json.dumps(taken))
    with pytest.raises(UsageError, match="fitted to 's/2-mixed_rl/seed1', which is held out"):
        report.fit_all(folders, ship=False, folder=None, leave_out=False, anew=False)


def test_shipping_and_reporting_want_all_studies() -> None:
    from studies.cli.main import app

    for arguments in (["order", "--ship"], ["order", "--report"], ["--all", "--leave-out"]):
        assert isinstance(CliRunner().invoke(app, ["fit", *arguments]).exception, UsageError)


@pytest.mark.slow
def test_studies_are_fitted_anew_on_disk_only_to_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit over all studies, which is tested above, takes minutes on real results: it is left out."""
    from studies.cli.main import app

    monkeypatch.setattr(report, "fit_all", lambda folders, **options: {})
    written = tmp_path / "scale-0.5" / "conflict" / "calibration.json"
    shutil.copytree(RESULTS / "conflict", written.parent)
    written.write_text("{}")
    command = ["fit", "--all", "--json", "--scale", "0.5", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and list(json.loads(done.stdout)["studies"]) == ["conflict"]
    assert written.read_text() == "{}"
    done = CliRunner().invoke(app, [*command, "--ship"])
    assert done.exit_code == 0 and json.loads(written.read_text())["study"] == "conflict"


def test_without_held_out_runs_there_is_nothing_to_judge(tmp_path: Path) -> None:
    folders = {"s": planted(tmp_path / "s", design(held_out=False))}
    assert honest.tested(folders, starts=1).document() == {"n": 0}


@pytest.mark.parametrize(
    ("recipe", "strategy"),
    [
        (catalogue.single_domain(["sort"]), "single_domain"),
        (catalogue.mixed_rl(DOMAINS), "mixed_rl"),
        (catalogue.cascade_rl(DOMAINS), "cascade_rl"),
        (catalogue.mopd(DOMAINS, rounds=2), "mopd"),
        (catalogue.off_policy(DOMAINS), "off_policy"),
        (catalogue.merge(DOMAINS), "merge"),
    ],
)
def test_strategies_are_told_by_how_a_recipe_ends(recipe: Recipe, strategy: str) -> None:
    renamed = recipe.model_copy(update={"name": "another"})
    assert strategy_of(renamed) == strategy


def test_rl_after_distillation_is_a_strategy_of_its_own() -> None:
    mopd = catalogue.mopd(DOMAINS)
    joint = Rl(name="joint", init=mopd.output, domains=dict.fromkeys(DOMAINS, 1.0))
    amounts = {**mopd.amounts, joint.name: mopd.amounts["teacher_1"]}
    made = assemble(
        "mopd", DOMAINS, "tiny", (*mopd.stages, joint), amounts_of=lambda stage, _: amounts[stage.name]
    )
    assert strategy_of(made) == "mopd_then_rl"
