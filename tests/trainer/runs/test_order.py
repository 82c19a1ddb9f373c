"""The order of stages: no worse than long chains first, better where that leaves a worker idle at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_world import SETTINGS

from mopdsim.recipes import catalogue
from trainer.runs.order import Workers, makespan, ordered, ranks_of
from trainer.runs.plan import Node, Plan, plan
from trainer.runs.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")
TEACHERS = {"teacher_1": 90.0, "teacher_2": 90.0, "teacher_3": 50.0, "teacher_4": 70.0}
SECONDS = {"base": 90.0, "mixed": 250.0, "student": 120.0, "merged": 150.0, **TEACHERS}


@pytest.fixture
def whole(model: Path, tmp_path: Path) -> Plan:
    domains = [f"ask:{name}" for name in ("smallest", "larger", "gcd", "swap")]
    recipes = {name: catalogue.recipe(name, domains) for name in ("mopd", "mixed_rl", "merge", "off_policy")}
    return plan(recipes, model=str(model), settings=SETTINGS, store=Store(root=tmp_path))


def seconds_of(whole: Plan) -> dict[str, float]:
    return {node.key: SECONDS[node.label.rpartition("/")[2]] for node in whole.nodes}


def free(count: int, *, most: int = 99, **left: float) -> Workers:
    return Workers(count=count, left=left, ready=(), fits=lambda keys: len(keys) <= most)


def chains_first(whole: Plan, weights: dict[str, float]) -> list[Node]:
    ranks = ranks_of(whole, weights)
    return sorted(whole.nodes, key=lambda node: -ranks[node.key])


def labels(order: Sequence[Node]) -> list[str]:
    return [node.label for node in order]


def test_a_better_order_than_long_chains_first_is_found(whole: Plan) -> None:
    weights, workers = seconds_of(whole), free(2)
    plain, found = chains_first(whole, weights), ordered(whole, whole.nodes, weights, workers)
    least = max(max(ranks_of(whole, weights).values()), (sum(weights.values()) + SECONDS["base"]) / 2)
    assert sorted(labels(found)) == sorted(labels(plain))
    assert least <= makespan(found, weights, workers) < 0.95 * makespan(plain, weights, workers)
    assert labels(ordered(whole, whole.nodes, weights, workers)) == labels(found), "chance plays no part"


def test_what_runs_and_what_memory_holds_count(whole: Plan) -> None:
    weights = seconds_of(whole)
    order, all_of_them = chains_first(whole, weights), sum(weights.values())
    assert makespan(order, weights, free(1)) == pytest.approx(all_of_them)
    assert makespan(order, weights, free(2, most=1)) == pytest.approx(all_of_them), "one at a time"
    base, *others = order
    runs = Workers(count=9, left={base.key: 60.0}, ready=(), fits=lambda keys: True)
    there = Workers(count=9, left={base.key: 60.0}, ready={base.key}, fits=lambda keys: True)
    chain = max(ranks_of(whole, weights)[node.key] for node in others)
    assert makespan(others, weights, runs) == pytest.approx(60 + chain)
    assert makespan(others, weights, there) == pytest.approx(chain), "its weights are enough"


def test_one_worker_and_many_stages_take_long_chains_first(
    whole: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = seconds_of(whole)
    plain = labels(chains_first(whole, weights))
    assert labels(ordered(whole, whole.nodes, weights, free(1))) == plain
    monkeypatch.setattr("trainer.runs.order.LOOKS", len(whole.nodes) ** 2 - 1)
    assert labels(ordered(whole, whole.nodes, weights, free(2))) == plain
    assert math.isfinite(makespan(list(whole.nodes), weights, free(2)))
