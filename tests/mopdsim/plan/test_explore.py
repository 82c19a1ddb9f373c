"""The search against truth: planted worlds, exhaustive search, the graph method, determinism, infeasible questions."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest

from mopdsim.base.errors import InfeasibleError
from mopdsim.plan import explore as exploring
from mopdsim.plan.candidate import Plan
from mopdsim.plan.evaluation import Evaluator
from mopdsim.plan.explore import Found, explore, grid
from mopdsim.plan.grouping import partitions
from mopdsim.plan.plan import plan
from mopdsim.plan.question import Question, from_document

TINY = ["sort", "reverse", "shift", "rotate"]


def _question(count: int = 3, **changes: Any) -> Question:
    document = {"domains": TINY[:count], "deadline_days": 0.02, "draws": 24, "max_rounds": 1}
    return from_document({**document, **changes})


def _conflicts(pairs: dict[tuple[str, str], float]) -> dict[str, float]:
    return {f"{a}>{b}": value for pair, value in pairs.items() for a, b in (pair, pair[::-1])}


def _best(found: Found) -> float:
    return next(o.value for o in found.outcomes if o.feasible)


@pytest.mark.parametrize("enumerated", [8, 0], ids=["enumeration", "graph"])
@pytest.mark.parametrize("together", [("sort", "shift"), ("reverse", "rotate")])
def test_the_planted_grouping_is_found(
    together: tuple[str, str], enumerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exploring, "ENUMERATED", enumerated)
    apart = tuple(name for name in TINY if name not in together)
    pairs = {(a, b): -1.5 for a in together for b in apart} | {together: 0.8, apart: 0.8}
    question = _question(4, families=["merge"], conflict=_conflicts(pairs))
    best = explore(question).outcomes[0].plan
    assert {frozenset(group) for group in best.groups} == {frozenset(together), frozenset(apart)}


def test_a_single_teacher_wins_where_everything_helps_everything() -> None:
    pairs = {(a, b): 1.0 for a in TINY[:3] for b in TINY[:3] if a < b}
    question = _question(families=["mopd"], deadline_days=0.005, conflict=_conflicts(pairs))
    assert len(explore(question).outcomes[0].plan.groups) == 1


def _exhaustive(question: Question) -> float:
    """The best of every plan on the search's grid, each teacher's steps chosen apart."""
    evaluator = Evaluator(question)
    steps = grid(Evaluator(question))
    domains, (gpus,) = question.domains, evaluator.options
    plans: list[Plan] = []

    def add(**settings: Any) -> None:
        plans.append(Plan(gpus=gpus, student_gpus=gpus, **settings))

    for total, normalizer in product(steps.rl, ("token", "sequence")):
        add(family="mixed_rl", groups=(domains,), rl_steps=(total,), normalizer=normalizer)
    for order, normalizer, replay in product(permutations(domains), ("token", "sequence"), (0.0, 0.1, 0.2)):
        for counts in product(steps.rl[:6], repeat=len(order)):
            groups = tuple((name,) for name in order)
            add(family="cascade_rl", groups=groups, rl_steps=counts, normalizer=normalizer, replay=replay)
    for groups in partitions(domains):
        for counts, normalizer in product(product(steps.rl[:6], repeat=len(groups)), ("token", "sequence")):
            shared = {"groups": groups, "rl_steps": counts, "normalizer": normalizer}
            for scale in (0.3, 0.5, 0.7, 1.0):
                add(family="merge", scale=scale, **shared)
            for distill, balance, mix in product(steps.distill, ("none", "remaining_gap"), (0.0, 1.0)):
                add(family="mopd", distill_steps=distill, balance=balance, reward_mix=mix, **shared)
    plans = [one for one in plans if one.family in question.families]
    return max(o.value for o in evaluator.evaluate(plans) if o.feasible)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("objective", ["mean", pytest.param("worst", marks=pytest.mark.slow)])
def test_two_domains_within_one_percent_of_exhaustive_search(objective: str, seed: int) -> None:
    question = _question(
        2,
        objective=objective,
        seed=seed,
        draws=16,
        deadline_days=(0.004, 0.01, 0.03)[seed],
        families=["mixed_rl", "cascade_rl", "mopd", "merge"],
        conflict=_conflicts({("sort", "reverse"): (-1.0, 0.0, 0.6)[seed]}),
    )
    assert _best(explore(question)) >= 0.99 * _exhaustive(question)


def test_three_domains_within_one_percent_of_exhaustive_search() -> None:
    question = _question(3, draws=8, families=["merge"], conflict=_conflicts({("sort", "shift"): -0.8}))
    assert _best(explore(question)) >= 0.99 * _exhaustive(question)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_graph_method_comes_within_one_percent_of_enumeration(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = _question(4, families=["merge", "mopd"], seed=seed, draws=16)
    everything = _best(explore(question))
    monkeypatch.setattr(exploring, "ENUMERATED", 0)
    assert _best(explore(question)) >= 0.99 * everything


@pytest.mark.slow
def test_more_domains_than_are_enumerated() -> None:
    names = [*TINY, "swap", "brackets", "dedup", "rle_decode", "compare", "guess"]
    question = from_document({"domains": names, "deadline_days": 0.05, "draws": 8, "families": ["merge"]})
    found = explore(question)
    assert len(found.outcomes) < 20_000
    assert sorted(name for group in found.outcomes[0].plan.groups for name in group) == sorted(names)


def test_limits_on_teachers_and_families_are_kept() -> None:
    found = explore(_question(families=["mopd", "single"], max_teachers=2))
    assert {o.plan.family for o in found.outcomes} <= {"mopd", "single"}
    assert max(len(o.plan.groups) for o in found.outcomes) == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_plan_and_another_other_numbers() -> None:
    families = ["mixed_rl", "merge"]
    first, again, other = (
        plan(_question(2, seed=seed, families=families)).to_document() for seed in (5, 5, 6)
    )
    for document in (first, again, other):
        del document["seconds"]
    assert first == again and first != other


def test_a_wider_budget_is_never_worse() -> None:
    question = _question(2, families=["mixed_rl", "merge"])
    values = [
        _best(explore(replace(question, base=replace(question.base, deadline_days=days))))
        for days in (0.004, 0.008, 0.016)
    ]
    assert values == pytest.approx(sorted(values), abs=5e-4)  # the grid of steps begins at the budget


@pytest.mark.parametrize(
    ("changes", "binds", "key"),
    [
        ({"deadline_days": 1e-5}, "what binds is deadline_days", "deadline_days"),
        (
            {"budget_gpu_hours": 1e-4, "deadline_days": 9.0},
            "what binds is budget_gpu_hours",
            "budget_gpu_hours",
        ),
    ],
)
def test_an_infeasible_question_names_what_binds_and_the_nearest_that_works(
    changes: dict[str, Any], binds: str, key: str
) -> None:
    with pytest.raises(InfeasibleError, match=binds) as caught:
        plan(_question(2, **changes))
    assert caught.value.exit_code == 5
    nearest = float(str(caught.value).split(f"keeps is {key} = ")[1].split(" ")[0].rstrip(","))
    assert plan(_question(2, **{**changes, key: nearest})).finalists
    with pytest.raises(InfeasibleError):
        plan(_question(2, **{**changes, key: nearest / 1.2}))


def test_a_budget_that_buys_nothing_names_the_least_that_buys_a_plan() -> None:
    with pytest.raises(
        InfeasibleError, match=r"budget_usd = 1e-09 buys no plan .* the least that does is"
    ) as caught:
        plan(_question(2, budget_usd=1e-9))
    least = float(str(caught.value).split("is budget_usd = ")[1].split(" ")[0])
    assert plan(_question(2, budget_usd=least)).finalists


@pytest.mark.slow
def test_a_minimum_that_a_wider_budget_reaches_and_one_that_none_does() -> None:
    facts = {name: {"start": 0.5, "asymptote": 0.9} for name in TINY[:2]}
    with pytest.raises(
        InfeasibleError, match=r"with minimum.sort = 0.8 .* nearest that one keeps is deadline_days"
    ):
        plan(_question(2, deadline_days=1e-5, domain=facts, minimum={"sort": 0.8}))
    with pytest.raises(InfeasibleError, match=r"minimum.sort = 0.99 is what binds"):
        plan(_question(2, deadline_days=5e-3, domain=facts, minimum={"sort": 0.99}))
