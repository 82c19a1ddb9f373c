"""Draws depend on a parameter's name and the seed alone; scopes keep to themselves; bad files are refused."""

from __future__ import annotations

import json
from copy import deepcopy
from importlib.resources import files
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.belief.calibration import (
    CONSTANTS,
    Calibration,
    default_calibration,
    from_document,
    load,
    sample,
    standard_normal,
    uniform,
)
from mopdsim.facts.domains import Estimate, Scope, domain
from mopdsim.quality.world import draw_fact, draw_world

SHIPPED: dict[str, Any] = json.loads(files("mopdsim").joinpath("data", "calibration.json").read_text())


def _with(name: str, **changes: Any) -> Calibration:
    document = deepcopy(SHIPPED)
    document["parameters"].setdefault(name, {"value": 1.0, "sd": 0.1, "grade": "prior", "source": "test"})
    document["parameters"][name] |= changes
    return from_document(document, source="test")


def test_every_parameter_has_an_uncertainty_a_grade_and_a_source() -> None:
    for name in SHIPPED["parameters"]:
        estimate = default_calibration().parameters[name].prior
        assert estimate.sd > 0 and len(estimate.source) > 10, name


def test_estimates_are_recovered_from_their_draws() -> None:
    estimate = Estimate(value=0.3, sd=0.2, grade="prior", source="test")
    draws = {
        kind: sample(estimate, kind, "x", seed=0, draws=20_000) for kind in ("normal", "lognormal", "logit")
    }
    assert np.mean(draws["normal"]) == pytest.approx(0.3, abs=0.005)
    assert np.std(draws["normal"]) == pytest.approx(0.2, abs=0.005)
    assert np.median(draws["lognormal"]) == pytest.approx(0.3, abs=0.005)
    assert np.std(np.log(draws["lognormal"])) == pytest.approx(0.2, abs=0.005)
    assert np.median(draws["logit"]) == pytest.approx(0.3, abs=0.005)
    heavy = sample(estimate, "student", "x", seed=0, draws=20_000)
    assert np.quantile(heavy, 0.999) > np.quantile(draws["normal"], 0.999)


def test_a_longer_draw_begins_with_the_shorter_and_names_are_independent() -> None:
    assert np.array_equal(standard_normal("x", 1, 2000)[:500], standard_normal("x", 1, 500))
    assert np.array_equal(uniform("x", 1, 2000)[:500], uniform("x", 1, 500))
    assert abs(np.corrcoef(standard_normal("x", 1, 2000), standard_normal("y", 1, 2000))[0, 1]) < 0.1
    assert not np.array_equal(standard_normal("x", 1, 50), standard_normal("x", 2, 50))


def test_a_new_parameter_shifts_no_other() -> None:
    before, after = default_calibration(), _with("something_new", value=2.0)
    for name in CONSTANTS:
        drawn = [found.draw(name, "frontier", seed=0, draws=20) for found in (before, after)]
        assert np.array_equal(*drawn)


def test_a_new_domain_shifts_no_other() -> None:
    few, more = (
        {name: domain(name) for name in names} for names in (("math", "code"), ("math", "swe", "code"))
    )
    worlds = [
        draw_world(default_calibration(), rows, ("mixed",), "frontier", seed=0, draws=50)
        for rows in (few, more)
    ]
    for field in ("start_DN", "asymptote_DN", "midpoint_DN", "length_DN"):
        assert np.array_equal(getattr(worlds[0], field)[1], getattr(worlds[1], field)[2])
    assert np.array_equal(worlds[0].conflict_DDN[0, 1], worlds[1].conflict_DDN[0, 2])


def test_all_pairs_have_one_prior() -> None:
    calibration, rows = default_calibration(), [domain(name) for name in ("swe", "chat", "math")]
    for one, other in permutations(rows, 2):
        known = calibration.pair("conflict", one, other, "frontier")
        assert known == calibration.parameters["conflict"].at("frontier")


def test_the_asymptote_moves_with_the_start_and_stays_above_it() -> None:
    row = domain("math")
    start, asymptote = (draw_fact(row, key, seed=0, draws=4000) for key in ("start", "asymptote"))
    assert np.all(asymptote >= start) and np.corrcoef(start, asymptote)[0, 1] > 0.8
    vague = row.with_facts({"start": [0.40, 0.60], "asymptote": [0.45, 0.65]})
    assert np.all(
        draw_fact(vague, "asymptote", seed=0, draws=4000) >= draw_fact(vague, "start", seed=0, draws=4000)
    )
    assert np.median(start) == pytest.approx(row.start.value, abs=0.01)
    assert np.std(start) == pytest.approx(row.start.sd, rel=0.1)


def _found(value: float, sd: float = 0.05) -> dict[str, Any]:
    return {"tiny": {"value": value, "sd": sd, "grade": "measured", "source": "study interference"}}


def test_a_study_moves_its_own_scope_and_a_shape_elsewhere_with_its_width() -> None:
    parameter = _with("batch_exponent", studies=_found(0.5)).parameter("batch_exponent")
    prior, between = parameter.prior, parameter.between_sd
    assert (parameter.at("tiny").value, parameter.at("tiny").sd) == (0.5, 0.05)
    moved, how = parameter.transferred()
    weight = 1 / (0.05**2 + between**2)
    assert how == "moved" and moved == parameter.at("frontier")
    assert moved.value == pytest.approx((prior.value * prior.sd**-2 + 0.5 * weight) / (prior.sd**-2 + weight))
    assert moved.sd == pytest.approx((prior.sd**-2 + weight) ** -0.5) and moved.sd < prior.sd


def test_a_study_that_contradicts_a_shape_widens_it_and_moves_nothing() -> None:
    parameter = _with("batch_exponent", studies=_found(2.0)).parameter("batch_exponent")
    wider, how = parameter.transferred()
    assert how == "widened" and wider.value == parameter.prior.value
    assert wider.sd > parameter.prior.sd and abs(2.0 - wider.value) <= 2 * wider.sd + 1e-9


@given(
    st.floats(0.01, 0.99),
    st.floats(0.01, 2.0),
    st.sampled_from(["companion_lift", "conflict_share", "batch_exponent"]),
)
def test_a_shape_never_narrows_around_an_unmoved_centre(value: float, sd: float, name: str) -> None:
    parameter = _with(name, studies=_found(value, sd)).parameter(name)
    after, how = parameter.transferred()
    if after.sd < parameter.prior.sd and value != pytest.approx(parameter.prior.value, rel=1e-3):
        assert how == "moved" and after.value != parameter.prior.value


def test_what_is_no_shape_does_not_transfer() -> None:
    own = _with("conflict", studies=_found(0.1)).parameter("conflict")
    assert own.at("frontier") == default_calibration().parameter("conflict").prior
    assert own.transferred()[1] == "nothing"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("p", {"value": float("nan")}, "must be a finite number"),
    ("p", {"sd": -1.0}, "must be a finite number from 0"),
    ("p", {"grade": "guess"}, "must be one of measured"),
    ("p", {"distribution": "gamma"}, "distribution 'gamma'"),
    ("p", {"distribution": "logit", "value": 1.0}, "inside"),
    ("p", {"distribution": "lognormal", "value": -1.0}, "must be a finite number above 0"),
    ("p", {"studies": {"huge": {}}}, "studies: scope 'huge'"),
    ("p", {"mean": 1.0}, "unknown key 'mean'"),
    ("p", {"studies": 3}, "studies = 3: must be a table"),
    ("p", {"studies": {"tiny": 3}}, "tiny = 3: must be a table"),
    ("p", {"between_sd": "x"}, "between_sd = 'x': must be a finite number"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD)
def test_a_bad_parameter_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _with(name, **changes)


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such calibration"):
        load(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "where a table belongs"),
        ("{}", "needs a table"),
        (json.dumps({**SHIPPED, "schema_version": 3}), "schema_version 3: this mopd reads version 2"),
        (json.dumps({**SHIPPED, "parameters": {}}), "is missing: add it"),
        (json.dumps({**SHIPPED, "domains": {"tiny": True}}), "domains.tiny = True: must be a table"),
        (json.dumps({**SHIPPED, "domains": {"tiny": {"sort": 1}}}), "domains.tiny.sort = 1: must be a table"),
        (json.dumps({**SHIPPED, "correlations": {"tiny": 1}}), "correlations.tiny = 1: must be a table"),
        (json.dumps({**SHIPPED, "correlations": {"tiny": {"names": [[]], "rows": ["1"]}}}), "must be texts"),
    ):
        broken.write_text(text)
        with pytest.raises(UsageError, match=message):
            load(broken)


def _fitted(**changes: Any) -> dict[str, Any]:
    """A fitted calibration: two constants that go together, and a domain's asymptote."""
    found = {"grade": "fitted", "source": "test"}
    document = deepcopy(SHIPPED) | {"schema_version": 2}
    document["parameters"]["companion_lift"]["studies"] = {"tiny": {"value": 0.01, "sd": 0.5, **found}}
    document["domains"] = {"tiny": {"sort": {"asymptote": {"value": 0.9, "sd": 0.01, **found}}}}
    names = ["batch_exponent", "companion_lift", "asymptote:sort"]
    document["correlations"] = {"tiny": {"names": names, "rows": ["1", "0.8 1", "0.000 -0.5 1.000"]}}
    return document | changes


def test_what_was_fitted_together_is_drawn_together_in_its_scope() -> None:
    found = from_document(_fitted(), source="test")
    scopes: tuple[Scope, ...] = ("tiny", "frontier")
    draws = {scope: np.log(found.draw("companion_lift", scope, seed=0, draws=20_000)) for scope in scopes}
    shift = {scope: found.draw("batch_exponent", scope, seed=0, draws=20_000) for scope in draws}
    asymptote = found.draw_fact(domain("sort"), "asymptote", "tiny", seed=0, draws=20_000)
    assert asymptote is not None
    assert np.corrcoef(draws["tiny"], shift["tiny"])[0, 1] == pytest.approx(0.8, abs=0.02)
    assert np.corrcoef(draws["tiny"], asymptote)[0, 1] == pytest.approx(-0.5, abs=0.03)
    assert np.std(draws["tiny"]) == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(draws["frontier"], shift["frontier"])[0, 1] == pytest.approx(0, abs=0.03)


def test_facts_of_a_domain_hold_for_its_dials_and_nowhere_else() -> None:
    found = from_document(_fitted(), source="test")
    dialled = found.fact(domain("sort?ambiguity=1"), "asymptote", "tiny")
    assert dialled is not None and dialled.value == 0.9
    assert found.fact(domain("sort"), "midpoint", "tiny") is None
    assert found.fact(domain("sort"), "asymptote", "frontier") is None
    assert found.fact(domain("reverse"), "asymptote", "tiny") is None


def test_a_studied_domain_takes_no_neighbours_fact_and_habits_are_other_skills() -> None:
    document = _fitted()
    facts = document["domains"]["tiny"]
    facts["sort?ambiguity=1"] = {"midpoint": {"value": 1e5, "sd": 0.1, "grade": "fitted", "source": "test"}}
    facts["shift?habit=0.6"] = facts["sort"]
    found = from_document(document, source="test")
    assert found.fact(domain("sort?ambiguity=1"), "asymptote", "tiny") is None
    assert found.fact(domain("sort?ambiguity=0.9"), "asymptote", "tiny") is not None
    assert found.fact(domain("shift"), "asymptote", "tiny") is None
    assert found.fact(domain("shift?habit=0.7"), "asymptote", "tiny") is not None


def test_a_correlation_that_rounding_broke_is_mended() -> None:
    names = ["batch_exponent", "companion_lift", "forgetting"]
    rows = ["1", "0.9 1", "0.9 0.619 1"]  # not positive definite, by rounding
    found = from_document(
        _fitted(correlations={"tiny": {"names": names, "rows": rows}}), source="test"
    ).correlations["tiny"]
    draws = np.stack([found.noise(name, 0, 20_000) for name in names])
    assert np.corrcoef(draws[1], draws[2])[0, 1] == pytest.approx(0.619, abs=0.02)
    assert np.std(draws, axis=1) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": {"tiny": {"sort": {"length": {}}}}}, "domains.tiny.sort: unknown key 'length'"),
        ({"domains": {"huge": {}}}, "domains: scope 'huge'"),
        ({"correlations": {"tiny": {"names": ["a"], "rows": []}}}, "as many rows as names"),
        ({"correlations": {"tiny": {"names": ["a", "b"], "rows": ["1", "2 1"]}}}, "row 1: must be 2 numbers"),
        ({"correlations": {"tiny": {"names": ["a"], "rows": ["x"]}}}, "row 0: must be numbers"),
    ],
)
def test_bad_findings_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_document(_fitted(**changes), source="test")
