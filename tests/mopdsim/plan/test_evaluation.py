"""Plans evaluated side by side are the forecasts of their scenarios; groupings are all there."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pytest

from mopdsim.base.errors import InfeasibleError
from mopdsim.forecast.forecast import forecast
from mopdsim.forecast.scenario import dump, loads
from mopdsim.plan.candidate import Plan, group_name, scenario_of
from mopdsim.plan.evaluation import Evaluator, splits
from mopdsim.plan.explore import explore, moves, regrouped
from mopdsim.plan.finalists import undominated
from mopdsim.plan.grouping import communities, friendliness, neighbours, ordered, partitions, suggested
from mopdsim.plan.question import Question, from_document

NAMES = ["math", "code", "swe", "if"]
TWO = (("math", "code"), ("swe", "if"))
THREE = (("math",), ("code", "if"), ("swe",))


def _question(**changes: Any) -> Question:
    document = {"domains": NAMES, "gpu": "H200", "gpus": 48, "teams": 2, "budget_usd": 1e6, "draws": 30}
    return from_document({**document, **changes})


def _plan(family: Any, groups: Any, **changes: Any) -> Plan:
    steps = tuple(40 + 25 * place for place in range(len(groups)))
    return Plan(
        **{"family": family, "groups": groups, "rl_steps": steps, "gpus": 24, "student_gpus": 48, **changes}
    )


PLANS = [
    _plan("mixed_rl", (tuple(NAMES),), normalizer="sequence"),
    _plan("single", (("swe",),), gpus=48),
    _plan("cascade_rl", (("swe",), ("math",), ("if",), ("code",)), replay=0.1),
    _plan("cascade_rl", (("swe",), ("math",), ("code",), ("if",)), normalizer="sequence"),
    _plan("cascade_rl", (("swe",), ("math",), ("code",), ("if",)), replay=0.1, gpus=48),
    _plan("mopd", TWO, distill_steps=30, balance="remaining_gap"),
    _plan("mopd", THREE, distill_steps=30, reward_mix=0.5, gpus=12),
    _plan("mopd", THREE, distill_steps=30, student_gpus=24, rounds=2),
    _plan("mopd", (tuple(NAMES),), distill_steps=30, rounds=2),
    _plan("off_policy", THREE, distill_steps=50, balance="token_share", normalizer="sequence"),
    _plan("merge", TWO, scale=0.7),
    _plan("merge", THREE, scale=0.0, gpus=12),
]


def _check_forecasts(question: Question, plans: list[Plan]) -> None:
    """What the evaluator makes of plans is what the forecasts of their scenarios say."""
    evaluator = Evaluator(question)
    scores = {
        plan: scores_DCN[:, place]
        for batch, scores_DCN in evaluator.scores(plans)
        for place, plan in enumerate(batch)
    }
    for plan, found in zip(plans, evaluator.evaluate(plans), strict=True):
        made = forecast(scenario_of(question, plan))
        assert scores[plan] == pytest.approx(made.scores_DN, rel=1e-9), plan.label
        assert found.value == pytest.approx(made.scores_DN.mean(), rel=1e-9)
        assert found.median["gpu_hours"] == pytest.approx(np.median(made.gpu_hours_N), rel=1e-9)
        assert found.median["usd"] == pytest.approx(np.median(made.usd_N), rel=1e-9)
        assert found.median["days"] == pytest.approx(np.median(made.days_N), rel=1e-9)
        for name in question.minimum:
            row_N = made.scores_DN[made.world.index[name]]
            assert found.lowest[name] == pytest.approx(np.quantile(row_N, 0.2, method="lower"), rel=1e-9)


@pytest.mark.parametrize("teams", [None, 1, 2])
def test_a_plan_is_its_scenarios_forecast(teams: int | None) -> None:
    question = _question(**({} if teams is None else {"teams": teams}), minimum={"swe": 0.1})
    _check_forecasts(question if teams is not None else question.on(teams=None), PLANS)


def test_a_plan_of_tiny_domains_is_its_forecast_though_long_runs_may_break() -> None:
    tiny = dict(zip(NAMES, ("sort", "reverse", "shift", "rotate"), strict=True))
    plans = [
        replace(
            plan,
            groups=tuple(tuple(tiny[name] for name in group) for group in plan.groups),
            rl_steps=tuple(100 * steps for steps in plan.rl_steps),
            gpus=1,
            student_gpus=1,
        )
        for plan in PLANS
    ]
    _check_forecasts(from_document({"domains": [*tiny.values()], "deadline_days": 1, "draws": 30}), plans)


def test_rivals_and_normalisers_side_by_side_are_their_forecasts() -> None:
    """Teachers of other domains are trained in one batch; those of rivals, and in later rounds of each normaliser,
    apart."""
    names = ["reverse", "sort?ambiguity=0.5", "shift", "sort_down?ambiguity=0.5"]
    alone, pairs = tuple((name,) for name in names), ((names[0], names[3]), (names[1], names[2]))
    plans = [
        _plan(family, groups, distill_steps=30, rounds=rounds, normalizer=normalizer, gpus=1, student_gpus=1)
        for family, rounds in (("mopd", 1), ("mopd", 2), ("cascade_rl", 1))
        for groups in ((alone, alone[::-1]) if family == "cascade_rl" else (pairs, pairs[::-1]))
        for normalizer in ("token", "sequence")
    ]
    _check_forecasts(from_document({"domains": names, "deadline_days": 1, "draws": 30}), plans)


def test_a_pool_that_does_not_divide_is_placed_like_the_forecast() -> None:
    names = ["math", "code", "chat", "if"]
    question = _question(domains=names, gpus=52, teams=7, model="Qwen3-8B")
    plans = [
        _plan("mopd", tuple((name,) for name in names), distill_steps=20, gpus=gpus, student_gpus=52)
        for gpus in splits(52)[:3]
    ]
    for plan, found in zip(plans, Evaluator(question).evaluate(plans), strict=True):
        days_N = forecast(scenario_of(question, plan)).days_N
        assert found.median["days"] == pytest.approx(np.median(days_N), rel=1e-9)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_plan_on_too_few_gpus_never_ends_and_leaves_the_others_alone(rounds: int) -> None:
    question = _question()
    fits = _plan("mopd", TWO, distill_steps=30, rounds=rounds)
    plans = [fits, replace(fits, gpus=2), replace(fits, gpus=2, student_gpus=2)]
    evaluator = Evaluator(question)
    found = evaluator.evaluate(plans)
    assert [bool(np.isfinite(one.median["usd"])) for one in found] == [True, False, False]
    assert [one.feasible for one in found] == [True, False, False]


def test_a_limit_is_kept_by_the_share_of_draws_that_is_asked() -> None:
    question = _question()
    plan = _plan("mopd", TWO, distill_steps=30, balance="remaining_gap")
    usd_N = np.sort(forecast(scenario_of(question, plan)).usd_N)
    for limit, kept in ((usd_N[24] * 1.0001, True), (usd_N[23] * 1.0001, False)):  # 25 and 24 of 30 draws
        asked = replace(question, base=replace(question.base, budget_usd=float(limit)))
        evaluator = Evaluator(asked)
        assert evaluator.evaluate([plan])[0].feasible is kept


def test_a_model_too_large_for_the_gpus_is_refused_in_one_sentence() -> None:
    with pytest.raises(InfeasibleError, match="does not fit"):
        explore(_question(model="DeepSeek-V3", gpus=8))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.family}{len(plan.groups)}")
def test_a_plans_scenario_survives_its_file(plan: Plan) -> None:
    scenario = scenario_of(_question(), plan)
    assert loads(dump(scenario)) == scenario


def test_the_same_teacher_in_two_plans_is_the_same_stage() -> None:
    question = _question()
    one, other = (
        scenario_of(question, _plan("mopd", groups, distill_steps=9)).recipe
        for groups in ((("swe",), ("math", "code", "if")), (("math", "code"), ("swe",), ("if",)))
    )
    name = group_name(("swe",))
    assert one.stage[name] == other.stage[name]


def test_teachers_names_tell_long_and_odd_domains_apart() -> None:
    odd = [
        ("sort?length=4-7",),
        ("sort?length=8",),
        ("a" * 70,),
        ("a" * 71,),
        ("math", "code"),
        ("code", "math"),
    ]
    names = [group_name(group) for group in odd]
    assert len(set(names)) == len(odd) and all(len(name) <= 61 for name in names)
    assert names[4] == "teacher_math_and_code"


@pytest.mark.parametrize(("count", "bell"), [(1, 1), (3, 5), (5, 52), (8, 4140)])
def test_partitions_are_bells_number_and_distinct(count: int, bell: int) -> None:
    names = [f"d{place}" for place in range(count)]
    found = list(partitions(names))
    assert len(found) == bell == len(set(found))
    assert all(sorted(name for group in grouping for name in group) == names for grouping in found)
    few = list(partitions(names, most=2))
    assert len(few) == 2 ** (count - 1)  # Stirling: S(n, 1) + S(n, 2)


def test_neighbours_reach_every_grouping_and_stay_groupings() -> None:
    names = ["a", "b", "c", "d", "e"]
    everything = set(partitions(names))
    reached = {(tuple(names),)}
    edge = set(reached)
    while edge:
        edge = {near for grouping in edge for near in neighbours(grouping, tuple(names))} - reached
        reached |= edge
    assert reached == everything


def test_the_graph_suggests_the_planted_groups() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    planted = (("a", "d"), ("b", "c", "f"), ("e",))
    conflict_DDN = np.full((6, 6, 1), -0.5)
    for group in planted:
        for one, other in combinations(group, 2):
            conflict_DDN[names.index(one), names.index(other)] = 0.4
    weight_DD = friendliness(conflict_DDN)
    assert weight_DD[0, 3] == pytest.approx(0.4 - 0.5)
    assert planted in suggested(names, weight_DD)
    assert all(len(grouping) <= 2 for grouping in suggested(names, weight_DD, most=2))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_communities_are_networkxs(seed: int, resolution: float) -> None:
    weight_DD = np.random.default_rng(seed).normal(-0.2, 1.0, (9, 9))
    weight_DD += weight_DD.T
    graph = nx.Graph()
    graph.add_nodes_from(range(9))
    pairs = combinations(range(9), 2)
    graph.add_weighted_edges_from((a, b, weight_DD[a, b]) for a, b in pairs if weight_DD[a, b] > 0)
    wanted = nx.community.greedy_modularity_communities(graph, weight="weight", resolution=resolution)
    found = communities(weight_DD, resolution)
    assert {frozenset(group) for group in found} == set(wanted)


def test_regrouping_keeps_every_domains_steps() -> None:
    plan = _plan("mopd", TWO, distill_steps=9)
    merged = regrouped(plan, (tuple(NAMES),))
    assert merged.rl_steps == (sum(plan.rl_steps),)
    assert regrouped(merged, TWO).rl_steps == tuple(round(sum(plan.rl_steps) / 2) for _ in TWO)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.family}{len(plan.groups)}")
def test_moves_are_distinct_valid_plans(plan: Plan) -> None:
    question = _question()
    found = moves(plan, splits(question.pool), question)
    assert plan not in found and len(found) == len(set(found))
    order = {name: place for place, name in enumerate(NAMES)}
    for near in found[:: max(1, len(found) // 12)]:
        scenario_of(question, near)
        if near.family == "mopd":
            assert near.groups == ordered(near.groups, order)


def test_undominated_by_brute_force() -> None:
    points_PX = np.random.default_rng(3).integers(0, 6, (80, 3)).astype(float)
    kept = undominated(points_PX)
    for place, point in enumerate(points_PX):
        beaten = ((points_PX <= point).all(axis=1) & (points_PX < point).any(axis=1)).any()
        same = (points_PX[kept] == point).all(axis=1).sum()
        assert (place in kept) <= (not beaten)
        assert beaten or same == 1
