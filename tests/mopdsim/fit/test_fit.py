"""The quality model inverted: known curves are found again, what runs do not tell is said, files read or refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopdsim.base.documents import write_document
from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.belief.calibration import default_calibration, from_document, load
from mopdsim.facts.domains import domain
from mopdsim.facts.model import model
from mopdsim.fit.forest import RESULTS, Point, Run, Score, Tree, spent, trees_of
from mopdsim.fit.forest import load as load_forest
from mopdsim.fit.latents import latents_of
from mopdsim.fit.posterior import fit
from mopdsim.fit.predict import CEILING, linearised, observed, predict
from mopdsim.fit.quality import collapse_middle, fit_text, fitted
from mopdsim.fit.recovery import DESIGN, recover, simulated
from mopdsim.quality.step import Effort
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.recipe_file import to_document
from mopdsim.recipes.stage import BASE, Distill

START = domain("sort").start.value  # another would move the midpoint
ASYMPTOTE, MIDPOINT, STEEPNESS = 0.9, 1.2e5, 2.2
ITEMS = 100_000
COMPUTE = MIDPOINT * np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])


def curve(compute: float) -> float:
    """ScaleRL's form, by hand."""
    return START + (ASYMPTOTE - START) / (1 + (MIDPOINT / compute) ** STEEPNESS) if compute else START


def point(stage: str, score: float, compute: float | None = None) -> Point:
    effort = None if compute is None else spent(compute, 1.0)
    return Point(stage=stage, effort=effort, scores=(Score(domain="sort", passed=score * ITEMS, n=ITEMS),))


def one_curve(end: float | None = None) -> tuple[Tree, ...]:
    """Two seeds of RL on one domain that follow the curve exactly (the end replaced where given)."""
    recipe = catalogue.single_domain(["sort"])
    runs: list[Run] = []
    efforts: dict[str, Effort] = {}
    points: dict[str, tuple[Point, ...]] = {}
    for seed in "ab":
        runs.append(Run(name=seed, recipe=recipe, keys={BASE: f"base{seed}", "specialist": seed}))
        efforts[seed] = spent(COMPUTE[-1], 1.0)
        points[f"base{seed}"] = (point(BASE, START),)
        way = [point(seed, curve(compute), compute) for compute in COMPUTE[:-1]]
        points[seed] = (*way, point(seed, curve(COMPUTE[-1]) if end is None else end))
    return trees_of(runs, efforts, points)


def test_a_known_curve_is_found_again() -> None:
    found = fit(latents_of(one_curve(), default_calibration().unfitted()))
    value = {
        name: found.latents.entries[place].value(found.x_L[place])
        for name, place in found.latents.index.items()
    }
    assert found.settled
    assert value["midpoint:sort"] == pytest.approx(MIDPOINT, rel=0.05)
    assert value["steepness:sort"] == pytest.approx(STEEPNESS, rel=0.05)
    assert value["asymptote:sort"] == pytest.approx(ASYMPTOTE, abs=0.01)


def test_what_the_runs_do_not_tell_keeps_its_prior() -> None:
    found = fit(latents_of(one_curve(), default_calibration().unfitted()))
    learned = dict(zip(found.latents.index, found.learned_L, strict=True))
    place = found.latents.index["conflict_share"]
    assert learned["midpoint:sort"] > 0.8
    assert learned["conflict_share"] == learned["forgetting"] == learned["distill_tokens:sort"] == 0
    assert found.x_L[place] == pytest.approx(found.latents.mean_L[place])
    assert found.sd_L[place] == pytest.approx(found.latents.sd_L[place])


def test_a_score_above_the_ceiling_only_says_so() -> None:
    near, far = (
        fit(latents_of(one_curve(end), default_calibration().unfitted())) for end in (CEILING + 0.005, 0.999)
    )
    assert near.x_L == pytest.approx(far.x_L, abs=1e-9)
    below = fit(latents_of(one_curve(CEILING - 0.05), default_calibration().unfitted()))
    asymptote = below.latents.index["asymptote:sort"]
    assert near.x_L[asymptote] > below.x_L[asymptote]


def test_slopes_are_those_of_the_prediction() -> None:
    latents = latents_of(load_forest(DESIGN)[0], default_calibration().unfitted())
    rng = np.random.default_rng(3)
    direction_L = latents.sd_L * rng.standard_normal(len(latents.sd_L)) * 1e-4
    value_M, slope_ML = linearised(latents, latents.mean_L)
    ends_MN = predict(latents, np.stack([latents.mean_L - direction_L, latents.mean_L + direction_L], axis=1))
    assert value_M == pytest.approx(predict(latents, latents.mean_L[:, None])[:, 0])
    assert slope_ML @ direction_L == pytest.approx((ends_MN[:, 1] - ends_MN[:, 0]) / 2, abs=2e-5)


def test_an_outlier_loses_its_pull() -> None:
    trees = one_curve()
    latents = latents_of(trees, default_calibration().unfitted())
    spoiled = replace(trees[1], points=(trees[1].points[0], point("b", 0.05)))
    alone, beside = (fit(replace(latents, trees=(trees[0], other))) for other in (trees[1], spoiled))
    place = latents.index["asymptote:sort"]
    assert beside.x_L[place] == pytest.approx(alone.x_L[place], abs=2 * beside.sd_L[place])
    assert beside.spreads["error"][0] < 1.0


def test_the_middle_of_collapses_follows_what_collapsed() -> None:
    trees = load_forest([RESULTS / "balance" / "observations.csv"])[0]
    latents = latents_of(trees, default_calibration().unfitted())
    posterior = fit(
        replace(latents, trees=simulated(latents, latents.mean_L, 0.01, np.random.default_rng(0)))
    )
    prior = default_calibration().unfitted().parameters["collapse_middle"].prior
    kept = collapse_middle(posterior)
    fallen = tuple(replace(tree, points=tuple(_fallen(tree, one) for one in tree.points)) for tree in trees)
    lost = collapse_middle(replace(posterior, latents=replace(latents, trees=fallen)))
    assert kept is not None and lost is not None
    assert lost[0] < prior.value < kept[0]


def _fallen(tree: Tree, one: Point) -> Point:
    """Nothing is right after a distillation, half of all before."""
    done = one.stage != BASE and isinstance(tree.recipe.stage[one.stage], Distill)
    share = 0.0 if done else 0.5
    return replace(one, scores=tuple(replace(score, passed=share * score.n) for score in one.scores))


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    found = recover(load_forest(DESIGN)[0], repeats=4, seed=0)
    assert 0.78 <= found["coverage"] <= 0.98  # of some 120 intervals at 90%
    assert {"midpoint:sort", "conflict", "forgetting"} <= found["by_parameter"].keys()
    assert "size_exponent" in found["not_identified"]


COLUMNS = (
    "key", "split", "step", "domain", "trained", "pass_rate", "n", "flops", "gradient_tokens", "kl_parent",
)  # fmt: skip


def study(folder: Path, **run: Any) -> Path:
    """A study's files: one run that follows the curve, and a held-out one."""
    recipe, active = catalogue.single_domain(["sort"]), model("tiny").active_parameters
    rows: list[tuple[Any, ...]] = [("base", "test", 0, "sort", False, START, ITEMS, 0, 0, "")]
    rows += [
        ("base", "validation", 3, "sort", True, 0.1, ITEMS, 1, 1, "")
    ]  # on the way to the start: not read
    rows += [("key", "validation", 0, "sort", True, 0.9, ITEMS, 0, 0, 0.0)]  # the parent again: not read
    for step, compute in enumerate(COMPUTE, 1):
        split = "test" if compute == COMPUTE[-1] else "validation"
        rows.append(("key", split, step, "sort", True, curve(compute), ITEMS, compute * active, step, 0.02))
    with (folder / "observations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    shared = {"failure": None, "held_out": False, "model": "tiny", "document": to_document(recipe)}
    own = {**shared, "keys": {BASE: "base", "specialist": "key"}, **run}
    other = {**shared, "keys": {BASE: "base", "specialist": "unseen"}, "held_out": True}
    stages = {
        "base": {"kind": "sft", "flops": 1e9, "trained_tokens": {"sort": 1}},  # how `tiny` starts
        "key": {"kind": "rl", "flops": COMPUTE[-1] * active, "trained_tokens": {"sort": 7}},
    }
    manifest = {
        "study": "gain", "date": "2026-11-23", "runs": {"a": {k: v for k, v in own.items() if v != "gone"}, "b": other},
        "stages": stages,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "observations.csv"


def test_a_studys_files_become_a_calibration(tmp_path: Path) -> None:
    document = fitted([study(tmp_path)])
    write_document(tmp_path / "calibration.json", document)
    found = load(tmp_path / "calibration.json")
    midpoint = found.facts["tiny"]["sort"]["midpoint"]
    assert midpoint.value == pytest.approx(MIDPOINT, rel=0.1) and midpoint.grade == "fitted"
    assert document["fit"]["runs"] == ["gain/a"] and "conflict_share" in document["fit"]["not_identified"]
    assert found.parameters["forgetting"] == default_calibration().parameters["forgetting"]
    assert "2026-11-23" in document["provenance"][-1]
    assert "not identified" in fit_text(document)


def test_what_was_found_stays_in_its_scope(tmp_path: Path) -> None:
    found = from_document(fitted([study(tmp_path)]), source="test")
    for name, parameter in default_calibration().unfitted().parameters.items():
        there, prior = found.parameters[name].at("frontier"), parameter.at("frontier")
        if not parameter.shape:
            assert (there.value, there.sd) == (prior.value, prior.sd)
        elif there.value == prior.value:
            assert there.sd >= prior.sd  # a centre that stays is never narrowed


def test_points_carry_what_was_spent(tmp_path: Path) -> None:
    (tree,), dates = load_forest([study(tmp_path)])
    key_points = [one for one in tree.points if one.stage == "key"]
    efforts = [one.effort for one in key_points]
    assert dates == ("2026-11-23",)
    assert len(key_points) == len(COMPUTE) and efforts[-1] is None
    assert [one.scores[0].passed for one in tree.points if one.stage == BASE] == [START * ITEMS]
    assert [float(one.compute_N[0]) for one in efforts if one] == pytest.approx(COMPUTE[:-1])
    assert [one.kl for one in key_points][-2:] == [None, 0.02]
    assert observed((tree,)).censored_M.sum() == 0


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ({"document": "gone"}, UsageError, "runs.a.document is missing"),
        ({"failure": "killed"}, UsageError, "no finished run that is not held out"),
        ({"model": "nobodys"}, UsageError, "model 'nobodys' is not in the table"),
    ],
)
def test_manifests_that_cannot_be_fitted_are_refused(
    tmp_path: Path, run: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fitted([study(tmp_path, **run)])


def test_missing_or_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        fitted([tmp_path / "observations.csv"])
    study(tmp_path).write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no rows with a column 'key'"):
        fitted([tmp_path / "observations.csv"])


def test_stages_that_runs_share_stand_once() -> None:
    recipe: Recipe = catalogue.mopd(["sort", "reverse"])
    names = [stage.name for stage in recipe.stages]
    keys = {BASE: "base"} | {name: f"k{place}" for place, name in enumerate(names)}
    again = keys | {"student": "other"}
    efforts = {key: spent(1.0, 1.0) for key in (*keys.values(), "other")}
    (tree,) = trees_of(
        [Run(name="a", recipe=recipe, keys=keys), Run(name="b", recipe=recipe, keys=again)], efforts, {}
    )
    assert [stage.name for stage in tree.recipe.stages] == [*(keys[name] for name in names), "other"]
    assert {teacher.stage for teacher in tree.recipe.stage["other"].teachers} == {"k0", "k1"}  # type: ignore[union-attr]
