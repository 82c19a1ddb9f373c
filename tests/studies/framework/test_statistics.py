"""The statistics of studies against known answers: closed forms, simulated truth, hand-made tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mopdsim.base.errors import UsageError
from studies.framework.analysis import bootstrap, mean_quantity
from studies.honest.baselines import BASELINES, Cell, constant_recovery, said
from studies.honest.held_out import CANDIDATES, Contest, Trial, judge
from studies.honest.scoring import best_constant_rule, choose, coverage, crps, exact_interval, regret


def test_crps_of_a_normal_ensemble_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.normal(0.5, 0.1, size=(4, 4000)), np.array([0.5, 0.6, 0.3, 0.9])
    z = (truth - 0.5) / 0.1
    exact = 0.1 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps(members, truth) == pytest.approx(exact, abs=0.003)


def test_crps_of_one_number_is_its_error_and_counts_must_agree() -> None:
    assert crps([[0.4], [0.9]], [0.6, 0.9]) == pytest.approx([0.2, 0.0])
    with pytest.raises(UsageError, match="1 ensembles for 2 truths"):
        crps([[0.4]], [0.6, 0.9])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_calibrated_intervals_cover_their_level(level: float) -> None:
    rng = np.random.default_rng(1)
    centre = rng.uniform(0.2, 0.8, 600)
    found = coverage(rng.normal(centre[:, None], 0.05, (600, 400)), rng.normal(centre, 0.05), level)
    assert found.low <= level <= found.high
    assert found.mean_width == pytest.approx(2 * 0.05 * stats.norm.ppf((1 + level) / 2), rel=0.03)


def test_intervals_too_narrow_are_found_out() -> None:
    rng = np.random.default_rng(2)
    found = coverage(rng.normal(0, 0.5, (200, 400)), rng.normal(0, 1, 200), 0.8)
    assert found.high < 0.8


def test_bootstrap_resamples_whole_runs() -> None:
    """Ten points of one run are one observation: the interval has the width that the runs' spread gives."""
    rng = np.random.default_rng(3)
    runs = [np.full(10, value) for value in rng.normal(0, 1, 40)]
    found = bootstrap(runs, lambda own: float(np.concatenate(own).mean()), rng)
    assert found is not None and found.n == 40
    assert found.high - found.low == pytest.approx(
        2 * 1.28 * np.std([r[0] for r in runs]) / 40**0.5, rel=0.15
    )


def test_too_few_runs_give_no_interval() -> None:
    rng = np.random.default_rng(4)
    assert bootstrap([1.0], lambda own: own[0], rng) is None
    assert mean_quantity([0.5, float("nan")]) is None


def test_the_t_interval_of_three_runs_covers_what_it_says() -> None:
    rng = np.random.default_rng(5)
    found = [mean_quantity(rng.normal(1.0, 0.3, 3)) for _ in range(1500)]
    inside = sum(q.low <= 1.0 <= q.high for q in found if q is not None)
    low, high = exact_interval(inside, len(found))
    assert low <= 0.8 <= high


def test_regret_counts_what_the_choice_lost_and_a_tie_as_its_mean() -> None:
    measured = [{"mopd": 0.8, "mixed": 0.9}, {"mopd": 0.7, "mixed": 0.5}]
    assert regret([["mopd"], ["mopd", "mixed"]], measured) == pytest.approx((0.1 + 0.1) / 2)
    assert best_constant_rule(measured) == ("mopd", pytest.approx(0.05))
    assert best_constant_rule([{"mopd": 0.8}, {"mixed": 0.5}]) is None
    assert choose({"mopd": 0.8, "mixed": 0.795, "merge": 0.6}, tie=0.01) == ("mixed", "mopd")


START = {"a": 0.4, "b": 0.5, "c": 0.6}
SPECIALIST = {"a": {"a": 0.9, "b": 0.4, "c": 0.6}, "b": {"a": 0.5, "b": 0.8, "c": 0.7}}


@pytest.mark.parametrize(
    ("rule", "strategy", "domain", "expected"),
    [
        ("no change", "mopd", "a", 0.4),
        ("own expert in set, base otherwise", "mixed_rl", "a", 0.9),
        ("own expert in set, base otherwise", "mixed_rl", "c", 0.6),
        ("MOPD equals teacher", "mopd", "b", 0.8),
        ("MOPD equals teacher", "mixed_rl", "b", None),
        ("constant recovery per strategy", "mixed_rl", "a", 0.4 + 0.47 * 0.5),
        ("constant recovery per strategy", "cascade_rl", "a", None),
        ("additive transfer", "mixed_rl", "b", 0.5 - 0.1 + 0.3),
        ("additive transfer", "mixed_rl", "a", 1.0),
        ("additive merge", "merge", "c", 0.6 + 0.5 * 0.1),
        ("additive merge", "mopd", "c", None),
        ("last checkpoint", "mopd", "a", 0.77),
    ],
)
def test_baselines_say_what_science_says(
    rule: str, strategy: str, domain: str, expected: float | None
) -> None:
    cell = Cell(
        strategy=strategy,
        domain=domain,
        trained=("a", "b"),
        start=START,
        specialist=SPECIALIST,
        merge_scale=0.5,
        last=0.77,
    )
    value = BASELINES[rule](cell)
    assert value is None if expected is None else value == pytest.approx(expected)


def test_a_rule_that_does_not_speak_is_completed_by_a_simpler_one() -> None:
    known = Cell(strategy="cascade_rl", domain="a", trained=("a",), start=START, specialist=SPECIALIST)
    unknown = Cell(strategy="cascade_rl", domain="a", trained=("a",), start=START)
    assert said(constant_recovery, known) == 0.9
    assert said(constant_recovery, unknown) == 0.4


def _trials(rng: np.random.Generator, *, bias: float) -> list[Trial]:
    trials = []
    for run in range(30):
        expert = {"a": 0.9, "b": 0.8}
        for domain in ("a", "b"):
            truth = START[domain] + 0.8 * (expert[domain] - START[domain]) + rng.normal(0, 0.02)
            centre = truth + bias + rng.normal(0, 0.02)
            cell = Cell(
                strategy="mopd", domain=domain, trained=("a", "b"), start=START, specialist=SPECIALIST
            )
            ensemble = tuple(rng.normal(centre, 0.02, 200).tolist())
            trials.append(
                Trial(
                    study="s", run=str(run), condition=str(run // 2), seed=run % 2, cell=cell, ensemble=ensemble,
                    truth=truth, items=500,
                )
            )  # fmt: skip
    return trials


def _contest(
    predicted: tuple[float, ...], measured: tuple[float, ...], *, held_out: bool = True, recipes: int = 3
) -> Contest:
    names = CANDIDATES[:recipes]
    return Contest(
        condition="c", seeds=(0,), held_out=held_out, predicted=dict(zip(names, predicted, strict=True)),
        measured=dict(zip(names, measured, strict=True)),
    )  # fmt: skip


def test_the_honest_test_tells_a_good_forecast_from_a_bad_one() -> None:
    rng = np.random.default_rng(7)
    contests = [_contest((0.8, 0.6, 0.5), (0.6, 0.8, 0.5))]
    good = judge(_trials(rng, bias=0.0), contests, rng)
    assert (good["n"], good["runs"], good["conditions"]) == (60, 30, 15)
    assert good["mae_points"] == pytest.approx(100 * 0.02 * (2 / np.pi) ** 0.5, rel=0.3)
    assert good["skill_interval"][0] > 0 and good["best_baseline"] in BASELINES
    assert good["coverage_80_interval"][0] <= 0.8 <= good["coverage_80_interval"][1]
    assert good["regret_points"] == pytest.approx(20) and good["best_constant_rule_regret_points"] == 0
    bad = judge(_trials(rng, bias=0.3), [], rng)
    assert bad["skill_interval"][1] < 0 and bad["coverage_90"] < 0.1 and bad["regret_points"] is None


def test_regret_counts_held_out_conditions_whose_choice_matters() -> None:
    """Of five conditions one is fitted, one is flat, one lacks a candidate: two are left, one of them a tie."""
    rng = np.random.default_rng(8)
    contests = [
        _contest((0.8, 0.6, 0.5), (0.6, 0.8, 0.5)),  # loses 20 points
        _contest((0.8, 0.795, 0.5), (0.7, 0.8, 0.5)),  # a tie of a loss of 10 with none
        _contest((0.8, 0.6, 0.5), (0.1, 0.8, 0.5), held_out=False),
        _contest((0.8, 0.6, 0.5), (0.76, 0.8, 0.79)),
        _contest((0.8, 0.6), (0.5, 0.8), recipes=2),
    ]
    found = judge(_trials(rng, bias=0.0), contests, rng)
    assert (found["regret_conditions"], found["ties"]) == (2, 1)
    assert found["regret_points"] == pytest.approx((20 + 5) / 2)
    assert found["best_constant_rule"] == "mixed_rl" and found["best_constant_rule_regret_points"] == 0
    assert found["regret_all_held_out"]["regret_points"] == pytest.approx((20 + 5 + 4 + 30) / 4)
    assert found["regret_fitted_too"]["regret_conditions"] == 5


def test_domains_that_a_recipe_did_not_train_are_told_apart() -> None:
    rng = np.random.default_rng(9)
    inside = _trials(rng, bias=0.0)
    outside = replace(inside[0], cell=replace(inside[0].cell, domain="c"), truth=0.1)
    found = judge([*inside, outside], [], rng)
    assert found["n"] == 60 and found["out_of_set"]["n"] == 1
    assert found["out_of_set"]["mae_points"] == pytest.approx(100 * abs(outside.median - 0.1))


def test_a_rerun_is_the_yardstick_of_a_forecast() -> None:
    """Three seeds of one condition make three pairs; a score without a second seed makes none."""
    one = _trials(np.random.default_rng(10), bias=0.0)[0]
    alike = [
        replace(one, run=f"r{n}", seed=n, condition="same", truth=truth, ensemble=(0.5,) * len(one.ensemble))
        for n, truth in enumerate((0.4, 0.5, 0.8))
    ]
    found = judge([*alike, replace(one, condition="alone")], [], np.random.default_rng(0))["rerun"]
    assert found["pairs"] == 3
    assert found["mae_points"] == pytest.approx(100 * (0.1 + 0.4 + 0.3) / 3)
    assert found["forecast_mae_points"] == pytest.approx(100 * 2 * (0.1 + 0.0 + 0.3) / 6)
