"""What numbers rest on, in words: it is said of every score, and agrees with what leaving the studies out does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mopdsim.belief.calibration import CONSTANTS, default_calibration
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import from_document, of_recipe
from mopdsim.forecast.why import LEAST, why

LAB = of_recipe("mopd", domains=["math", "swe"], draws=300)


def test_every_score_says_its_start_ceiling_and_speed_with_their_source() -> None:
    sentences = why(forecast(LAB))
    for name, row in LAB.domains.items():
        (own,) = [text for text in sentences if text.startswith(f"{name} starts at")]
        assert all(estimate.source in own for estimate in (row.start, row.asymptote, row.midpoint))


def test_what_studies_change_is_what_leaving_them_out_changes() -> None:
    calibration = default_calibration()
    found = forecast(LAB)
    last = why(found)[-1]
    plain = forecast(LAB, calibration.unfitted())
    shift = plain.mean_score["p50"] - found.mean_score["p50"]
    said = re.search(r"mean score by ([+-][\d.]+)", last)
    if said is None:
        assert abs(shift) < LEAST and "nothing" in last
    else:
        assert float(said.group(1)) == pytest.approx(shift, abs=LEAST)


def test_each_parameter_that_transfers_is_named_and_no_other() -> None:
    calibration = default_calibration()
    sentences = why(forecast(LAB))
    for name in CONSTANTS:
        how = calibration.parameters[name].transferred()[1]
        assert any(text.startswith(f"{name}: tiny studies") for text in sentences) == (how != "nothing")


def test_without_studies_it_says_that_they_change_nothing() -> None:
    bare = default_calibration().unfitted()
    assert why(forecast(LAB, bare), bare)[-1] == "Studies of tiny models change nothing here."


def test_strategies_that_nobody_repeated_are_said_to_be_a_prior() -> None:
    told = " ".join(why(forecast(LAB)))
    assert "fewer than two studies have (cascades, second rounds)" in told
    cascade = forecast(of_recipe("cascade_rl", domains=["math", "swe"], draws=50))
    assert any("not identified" in text for text in cascade.warnings)


def test_it_is_said_where_the_error_of_the_form_was_measured_and_where_not() -> None:
    asked = {"recipe": "mopd", "domains": ["ask:smallest", "ask:swap"], "model": "tiny", "draws": 50}
    small = forecast(from_document(asked))
    measured = default_calibration().parameters["model_error"].studies["small"]
    assert small.error_DN is not None
    assert any(f"{measured.value:.2g} logits" in text and measured.source in text for text in why(small))
    assert any(
        "(frontier) lie from the model's form was never measured" in text for text in why(forecast(LAB))
    )


def test_a_model_without_published_starts_gets_a_wide_prior_that_says_so() -> None:
    known, other = LAB.domains["swe"], replace(LAB, model="Qwen3-0.6B").domains["swe"]
    assert known.start.grade == "published"
    assert other.start.grade == "prior" and "no published start of" in other.start.source
    assert other.start.value < known.start.value
    assert replace(LAB, model="tiny").domains["swe"].start.value < 0.02
    given = of_recipe("mopd", domains=["swe"], model="Qwen3-0.6B", domain={"swe": {"start": 0.2}}, draws=50)
    assert given.domains["swe"].start.value == 0.2
