"""A term that made the measurements is missed when it is switched off; one that did not is not."""

from __future__ import annotations

import math

import pytest

from mopdsim.cost.constants import KINDS
from mopdsim.fit.ablation import NEUTRAL, OFF, TERMS, errors
from mopdsim.fit.cost import fit
from mopdsim.validate.cost import LOADERS
from mopdsim.validate.tables import published


def test_every_term_is_a_constant() -> None:
    for kind, terms in TERMS.items():
        assert set(terms) <= set(KINDS[kind].names())


def test_a_pinned_constant_keeps_its_value() -> None:
    rows = LOADERS["train_throughput"].load(published("train_throughput")).rows[:40]
    kept = fit("train_throughput", rows, LOADERS["train_throughput"], pinned={"tensor_traffic": 0.25})
    assert kept.constants.tensor_traffic == pytest.approx(0.25, rel=1e-3)
    assert math.isfinite(OFF) and set(NEUTRAL) <= set(TERMS["rl_steps"])


def test_elementwise_traffic_pays() -> None:
    whole = errors("train_throughput", {})
    off = errors("train_throughput", {"elementwise_passes": OFF})
    assert off["median_error"] > whole["median_error"]
