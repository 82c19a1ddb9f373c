"""The hierarchical model of recovery: known recoveries are found again, what one study alone has stays wide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.base.arrays import logistic, logit
from mopdsim.belief.calibration import PUBLISHED_STRATEGIES, default_calibration
from mopdsim.validate.quality_rows import METHODS, Score, read
from mopdsim.validate.recovery import fit, parameters


def rows_of(study: str, method: str, recovery: float, *, count: int = 12) -> list[Score]:
    """Rows whose gain in logits is exactly this share of the specialist's."""
    found = []
    for line in range(count):
        start, teacher = 0.3 + 0.02 * line, 0.5 + 0.02 * line
        gained = recovery * (logit(teacher) - logit(start))
        found.append(
            Score(
                line=line, study=study, model="M", method=method, trained=("math", "code"), domain="math", start=start,
                teacher=teacher, score=float(logistic(logit(start) + gained)), unit="percent", benchmark=f"b{line}",
            )
        )  # fmt: skip
    return found


def table(**recovery: float) -> list[Score]:
    """Four studies with the same strategies."""
    return [
        row for study in "abcd" for method, share in recovery.items() for row in rows_of(study, method, share)
    ]


def test_a_known_recovery_is_found_again_from_all_strategies_together() -> None:
    rows = table(mixed_rl=0.8, mopd=0.95, merge_average=0.65)
    assert parameters(rows)["recovery"]["value"] == pytest.approx(0.8, abs=0.06)
    found = fit(rows)
    for method in ("mopd", "mixed_rl"):
        (row,) = rows_of("new", method, 0.8, count=1)
        assert np.median(found.drawn(row, seed=0, draws=4000)) == pytest.approx(row.score, abs=0.01)


def test_one_odd_study_pulls_the_others_little() -> None:
    plain = table(mopd=0.95)
    odd = [*plain, *rows_of("odd", "mopd", 0.2)]
    pulled, usual = (parameters(rows)["recovery"]["value"] for rows in (odd, plain))
    assert pulled > usual - 0.1


def test_a_strategy_of_one_study_is_not_identified_and_wide() -> None:
    rows = [*table(mopd=0.9), *rows_of("a", "cascade_rl", 0.6)]
    found = fit(rows)
    assert (
        found.identified("mopd") and not found.identified("cascade_rl") and not found.identified("telepathy")
    )
    usual, odd = (
        found.drawn(row, seed=0, draws=4000)
        for method in ("mopd", "cascade_rl")
        for row in rows_of("new", method, 0.9, count=1)
    )
    assert odd.std() > 1.2 * usual.std()
    assert set(parameters(rows)) == {"recovery", "recovery_common", "recovery_unseen"}


def test_predictions_of_one_study_share_what_they_share() -> None:
    found = fit(table(mopd=0.9, mixed_rl=0.9))
    (mopd,), (mixed,) = (rows_of("new", method, 0.9, count=1) for method in ("mopd", "mixed_rl"))
    alike = [found.drawn(row, seed=0, draws=4000) for row in (mopd, replace(mixed, line=77))]
    apart = [alike[0], found.drawn(replace(mixed, study="other", line=77), seed=0, draws=4000)]
    assert np.corrcoef(alike)[0, 1] > np.corrcoef(apart)[0, 1] + 0.05


def test_domains_outside_the_set_keep_their_start_with_heavy_tails() -> None:
    (row,) = rows_of("new", "mixed_rl", 0.9, count=1)
    outside = replace(row, domain="swe")
    drawn_N = fit(table(mixed_rl=0.9)).drawn(outside, seed=0, draws=4000)
    assert np.median(drawn_N) == pytest.approx(outside.start, abs=0.01)


def test_the_calibration_ships_what_the_shipped_table_says() -> None:
    rows = [row for row in read()[0] if not (row.method == "single_domain" and row.in_set)]
    shipped = default_calibration().parameters
    found = parameters(rows)
    assert {name for name in shipped if name.startswith("recovery")} == set(found)
    assert {name for name in METHODS.values() if fit(rows).identified(name)} == set(PUBLISHED_STRATEGIES)
    for name, row in found.items():
        assert (shipped[name].prior.value, shipped[name].prior.sd) == pytest.approx((row["value"], row["sd"]))
