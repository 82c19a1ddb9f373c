"""The effect behind the largest errors: planted ones are found, and every constant has a name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.cost.constants import KINDS, TrainConstants, shipped
from mopdsim.validate import train_rows
from mopdsim.validate.cost import LOADERS
from mopdsim.validate.effects import EFFECTS, elasticities, largest_errors, name_of
from mopdsim.validate.tables import published

TRAIN = TrainConstants.shipped()


@pytest.mark.parametrize("constant", ["data_traffic", "expert_overhead", "attention_efficiency"])
def test_a_planted_effect_is_named_with_its_factor(constant: str) -> None:
    rows = train_rows.load(published("train_throughput")).rows
    work = train_rows.stacked(rows)
    planted = replace(TRAIN, **{constant: getattr(TRAIN, constant) * 1.5})
    made = [
        replace(row, measured=float(m))
        for row, m in zip(rows, train_rows.predict(work, planted), strict=True)
    ]
    found = largest_errors(made, train_rows.predict(work, TRAIN), TRAIN, train_rows)
    best = found["effects"][0]
    assert best["constant"] == constant and best["effect"] == EFFECTS[constant]
    assert best["factor"] == pytest.approx(1.5, rel=0.15)
    assert best["removed_share"] > 0.95
    assert sum(found["models"].values()) <= found["rows"] and found["gpus"]


def test_elasticities_of_times_add_up_to_one() -> None:
    """Every term of a training step is in proportion to one efficiency or overhead, except the optimizer's pass, and a
    format's gain counts by the logarithm of its speed."""
    rows = [row for row in train_rows.load(published("train_throughput")).rows if not row.moe]
    slopes = elasticities(rows, TRAIN, train_rows)
    overheads = slopes["elementwise_passes"] + slopes["tensor_traffic"] + slopes["data_traffic"]
    total = overheads - slopes["flops_efficiency"] - slopes["attention_efficiency"]
    assert np.all((total > 0.85) & (total <= 1.002))
    assert np.all(np.abs(slopes["expert_overhead"]) < 1e-9)


def test_every_constant_has_a_name_and_every_name_a_constant() -> None:
    constants = {name for kind in KINDS.values() for name in kind.names()}
    plain = {name for name in constants if not name.startswith("version_")}
    assert plain == set(EFFECTS)
    assert name_of("version_nemo_rl_v0_5") == "efficiency of the framework release nemo rl v0 5"


def test_no_rows_have_no_largest_errors() -> None:
    for kind, loader in LOADERS.items():
        assert largest_errors([], np.array([]), shipped()[kind].constants, loader) == {
            "rows": 0,
            "effects": [],
        }
