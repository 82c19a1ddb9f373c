"""The walk through a recipe: published curves, analytic limits, and what must hold for any recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import domain
from mopdsim.quality.learning import best_of, climb, hill
from mopdsim.quality.step import CAUSES, Effort, State
from mopdsim.quality.walk import walk
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.catalogue import recipe
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Distill, Rl

NAMES = ["sort", "reverse", "shift"]
DRAWS = 64


def _world(plan: Recipe, *, noise: bool = True, **changes: Any) -> World:
    domains = {name: domain(name) for name in plan.domains}
    stages = tuple(stage.name for stage in plan.stages)
    world = draw_world(default_calibration().unfitted(), domains, stages, "tiny", seed=3, draws=DRAWS)
    if not noise:
        world = replace(world, spread={}, luck={})
    constants = {**world.constants, **changes.pop("constants", {})}
    return replace(world, constants=constants, **changes)


def _efforts(plan: Recipe, compute: float = 7e5, tokens: float = 1.6e4) -> dict[str, Effort]:
    spent = Effort(compute_N=np.full(DRAWS, compute), tokens_N=np.full(DRAWS, tokens))
    return {stage.name: spent for stage in plan.stages}


def _no_conflict(plan: Recipe, **constants: Any) -> World:
    world = _world(plan, noise=False, constants=constants)
    zeros = np.zeros_like(world.conflict_DDN)
    return replace(world, conflict_DDN=zeros, spill_DDN=zeros)


def _final(plan: Recipe, world: World, **amounts: float) -> State:
    return walk(plan, world, _efforts(plan, **amounts))[plan.output]


@pytest.mark.parametrize(
    ("midpoint", "steepness", "asymptote"), [(2542, 1.92, 0.610), (11272, 1.89, 0.645), (1675, 1.09, 0.615)]
)
def test_the_curve_is_scalerls(midpoint: float, steepness: float, asymptote: float) -> None:
    # 2510.13786: R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B), with its table 1.
    for compute in (midpoint / 10, midpoint, 3 * midpoint):
        published = 0.3 + (asymptote - 0.3) / (1 + (midpoint / compute) ** steepness)
        reached = climb(
            np.array(0.3),
            np.array(0.3),
            np.array(asymptote),
            np.array(compute / midpoint),
            np.array(steepness),
        )
        assert reached == pytest.approx(published, abs=1e-9)


def test_half_of_the_gain_at_the_midpoint_and_nothing_for_nothing() -> None:
    assert hill(np.array(1.0), np.array(1.7)) == 0.5
    assert hill(np.array(0.0), np.array(1.7)) == 0.0


@given(st.floats(0.05, 0.95), st.floats(0.01, 50), st.floats(0.01, 0.99), st.floats(1.0, 2.2))
def test_a_run_cut_in_two_ends_where_the_whole_run_ends(
    asymptote: float, compute: float, cut: float, steepness: float
) -> None:
    start, top, power = np.array(0.02), np.array(asymptote), np.array(steepness)
    whole = climb(start, start, top, np.array(compute), power)
    half = climb(start, start, top, np.array(compute * cut), power)
    assert climb(half, start, top, np.array(compute * (1 - cut)), power) == pytest.approx(whole, abs=1e-9)


def test_one_domain_is_the_plain_curve() -> None:
    plan = recipe("single_domain", ["sort"])
    world = _world(plan, noise=False)
    expected = world.start_DN + (world.asymptote_DN - world.start_DN) * hill(
        7e5 / world.midpoint_DN, world.steepness_DN
    )
    assert _final(plan, world).score_DN == pytest.approx(expected, abs=1e-12)


def test_without_conflict_mixed_training_is_each_curve_at_its_share() -> None:
    plan = recipe("mixed_rl", NAMES)
    world = _no_conflict(plan)
    shares = world.length_DN / world.length_DN.sum(axis=0)
    own = shares * 3 ** world.constants["batch_exponent"]  # a third of each step's prompts
    expected = world.start_DN + (world.asymptote_DN - world.start_DN) * hill(
        own * 7e5 / world.midpoint_DN, world.steepness_DN
    )
    assert _final(plan, world).score_DN == pytest.approx(expected, abs=1e-12)


def test_conflict_multiplies_the_gain_in_logits() -> None:
    plan = recipe("mixed_rl", NAMES[:2])
    plain = _no_conflict(plan)
    conflict = np.zeros_like(plain.conflict_DDN)
    conflict[1, 0] = -0.4
    lengths = np.ones_like(plain.length_DN)
    free, hurt = (
        _final(plan, replace(plain, length_DN=lengths, conflict_DDN=matrix)).score_DN
        for matrix in (np.zeros_like(conflict), conflict)
    )
    start = logit(plain.start_DN)
    factor = (logit(hurt) - start) / (logit(free) - start)
    assert factor[0] == pytest.approx(np.exp(-0.4)) and factor[1] == pytest.approx(1.0)


def test_a_domain_trained_in_two_stages_ends_where_one_stage_ends() -> None:
    plan = recipe("single_domain", ["sort"])
    first = plan.stages[0]
    again = first.model_copy(update={"name": "again", "init": first.name})
    amounts = {**plan.amounts, "again": plan.amounts[first.name]}
    twice = Recipe(
        name="twice",
        domains=plan.domains,
        amounts_name=plan.amounts_name,
        stages=(first, again),
        amounts=amounts,
        output="again",
    )
    whole = _final(plan, _no_conflict(plan), compute=1.4e6).score_DN
    assert _final(twice, _no_conflict(twice), compute=7e5).score_DN == pytest.approx(whole, abs=1e-9)


def test_unlimited_distillation_without_conflict_ends_at_the_cap() -> None:
    plan = recipe("mopd", NAMES)
    world = _no_conflict(plan)
    states = walk(plan, world, _efforts(plan, tokens=1e12))
    own = np.stack([states[f"teacher_{place + 1}"].score_DN[place] for place in range(3)])
    assert states["student"].score_DN == pytest.approx(own, abs=1e-12)


def test_verified_samples_lead_towards_what_one_of_eight_solves() -> None:
    plan = recipe("off_policy", NAMES, correct_only=True)
    spread, kept = np.full(DRAWS, 0.2), np.full(DRAWS, 0.8)
    world = _no_conflict(plan, prompt_spread=spread, imitated_choice=kept)
    states = walk(plan, world, _efforts(plan, tokens=1e12))
    own = np.stack([states[f"teacher_{place + 1}"].score_DN[place] for place in range(3)])
    target = own + 0.8 * (best_of(own, 8, spread) - own)
    assert states["student"].score_DN == pytest.approx(target, abs=1e-9)


def test_one_teacher_for_all_domains_is_single_teacher_distillation_at_shared_tokens() -> None:
    plan = recipe("mopd", ["sort"])
    world = _no_conflict(plan)
    states = walk(plan, world, _efforts(plan))
    cap = states["teacher_1"].score_DN
    closed = 1 - np.exp(-1.6e4 / world.distill_tokens_DN)
    assert states["student"].score_DN == pytest.approx(world.start_DN + closed * (cap - world.start_DN))


def test_conflict_hurts_synergy_helps_and_distillation_feels_only_its_share_of_it() -> None:
    mixed, distilled = recipe("mixed_rl", NAMES), recipe("mopd", NAMES)
    for sign in (-1.0, 1.0):
        for plan in (mixed, distilled):
            half = np.full(DRAWS, 0.5)
            plain = _no_conflict(plan, conflict_share=half)
            harmed = replace(plain, conflict_DDN=np.full_like(plain.conflict_DDN, 0.5 * sign))
            change = _final(plan, harmed).score_DN - _final(plan, plain).score_DN
            assert np.all(change * sign > 0)
    deaf = _no_conflict(distilled, conflict_share=np.zeros(DRAWS))
    noisy = replace(deaf, conflict_DDN=np.full_like(deaf.conflict_DDN, -0.5))
    assert np.array_equal(_final(distilled, deaf).score_DN, _final(distilled, noisy).score_DN)


def test_a_cascade_forgets_and_replay_keeps() -> None:
    bare, kept = recipe("cascade_rl", NAMES), recipe("cascade_rl", NAMES, replay=0.1)
    lost = _final(bare, _no_conflict(bare)).score_DN[0]
    assert np.all(lost < walk(bare, _no_conflict(bare), _efforts(bare))["step_1"].score_DN[0])
    assert np.all(_final(kept, _no_conflict(kept)).score_DN[0] > lost)


def test_merging_recovers_as_published_and_the_average_a_third() -> None:
    # 2606.30406: average of three specialists .328 of the gain, task arithmetic .857.
    average = recipe("merge", NAMES, method="average")
    summed = recipe("merge", NAMES, method="task_arithmetic", scale=1.0)
    for plan, published in ((average, 0.328), (summed, 0.857)):
        world = _no_conflict(plan, merge_exponent=np.ones(DRAWS))
        states = walk(plan, world, _efforts(plan))
        start, merged = logit(world.start_DN), logit(states["merged"].score_DN)
        own = np.stack([logit(states[f"teacher_{place + 1}"].score_DN[place]) for place in range(3)])
        recovery = (merged - start) / (own - start)
        assert recovery == pytest.approx(published, abs=0.02)


def test_misrouting_bias_and_reward_act_in_their_direction() -> None:
    right, wrong = recipe("mopd", NAMES), recipe("mopd", NAMES, misrouting=0.3)
    world = _no_conflict(right)
    assert np.all(_final(wrong, world).score_DN < _final(right, world).score_DN)
    rewarded = recipe("mopd", NAMES, reward_mix=1.0)
    assert np.all(_final(rewarded, world).score_DN >= _final(right, world).score_DN)


def test_a_domain_without_teacher_inherits_what_the_teachers_became() -> None:
    plan = recipe("mopd", ["sort"])
    open_plan = plan.model_copy(update={"domains": ("sort", "shift")})
    world = _world(open_plan, noise=False, constants={"inherited_bias": np.full(DRAWS, 0.74)})
    states = walk(open_plan, world, _efforts(open_plan, tokens=1e12))
    start_N = logit(world.start_DN[1])
    moved_N = logit(states["teacher_1"].score_DN[1]) - start_N
    assert logit(states["student"].score_DN[1]) - start_N == pytest.approx(0.74 * moved_N, abs=1e-9)


def test_without_distillation_nothing_is_inherited_and_no_run_moves_farther_than_a_whole_climb() -> None:
    plan = recipe("mopd", ["sort"]).model_copy(update={"domains": ("sort", "shift")})
    world = _world(plan, noise=False)
    left = walk(plan, world, _efforts(plan, tokens=0.0))["student"].score_DN[1]
    assert left == pytest.approx(world.start_DN[1], abs=1e-12)
    mixed = recipe("mixed_rl", NAMES)
    world = _world(mixed)
    moved = walk(mixed, world, _efforts(mixed, compute=1e12))["mixed"].kl_N
    assert moved == pytest.approx(world.constants["climb_kl"], rel=1e-3)


def test_balance_feeds_the_starved_domain() -> None:
    naive, balanced = recipe("mopd", NAMES), recipe("mopd", NAMES, balance="token_share")
    world = _no_conflict(naive)
    lengths = world.length_DN * np.array([[0.04], [1.0], [1.0]])
    starved = replace(world, length_DN=lengths)
    assert np.all(_final(balanced, starved).score_DN[0] > _final(naive, starved).score_DN[0])


def test_a_foreign_teacher_collapses_and_a_near_one_does_not() -> None:
    plan = recipe("mopd", ["sort"])
    near = _no_conflict(plan, climb_kl=np.full(DRAWS, 0.04), collapse_middle=np.full(DRAWS, 0.12))
    far = _no_conflict(plan, climb_kl=np.full(DRAWS, 0.5), collapse_middle=np.full(DRAWS, 0.12))
    assert not _waterfall(_final(plan, near))["collapse"].any()
    assert np.all(_waterfall(_final(plan, far))["collapse"] < 0)


def _waterfall(state: State) -> Mapping[str, Array]:
    assert state.waterfall is not None
    return dict(state.waterfall)


DOMAINS = ("sort", "reverse", "math")


@st.composite
def plans(draw: st.DrawFn) -> Recipe:
    """A random chain of RL stages, then a student of some of them, with random settings."""
    stages: list[Rl | Distill] = []
    for number in range(draw(st.integers(1, 3))):
        shares = draw(st.dictionaries(st.sampled_from(DOMAINS), st.floats(0.01, 5), min_size=1))
        init = draw(st.sampled_from(["base", *(stage.name for stage in stages)]))
        stages.append(Rl(name=f"rl_{number}", init=init, domains=shares))
    names = [stage.name for stage in stages]
    teachers = [{"stage": name, "domains": DOMAINS, "weight": draw(st.floats(0.1, 3))} for name in names]
    on_policy = draw(st.booleans())
    student = Distill(
        name="student",
        init=draw(st.sampled_from(["base", *names])),
        domains=dict.fromkeys(DOMAINS, 1.0),
        teachers=teachers,
        on_policy=on_policy,
        loss="reverse_kl",
        balance=draw(st.sampled_from(["none", "token_share", "remaining_gap", "dispersion"])),
    )
    amounts = {
        stage.name: {"steps": 2, "prompts_per_step": 2, "rollouts_per_prompt": 2, "learning_rate": 1e-3}
        for stage in (*stages, student)
    }
    return Recipe(
        name="any",
        domains=DOMAINS,
        amounts_name="tiny",
        stages=(*stages, student),
        amounts=amounts,
        output="student",
    )


@given(plans(), st.floats(0, 1e13), st.floats(0, 1e12))
def test_any_recipe_stays_in_range_adds_up_and_never_passes_teachers_that_lift_nothing(
    plan: Recipe, compute: float, tokens: float
) -> None:
    world = _world(plan, constants={"companion_lift": np.zeros(DRAWS)})
    states = walk(plan, world, _efforts(plan, compute=compute, tokens=tokens))
    for state in states.values():
        assert np.all((state.score_DN >= 0) & (state.score_DN <= 1))
        booked = sum(_waterfall(state)[cause] for cause in CAUSES)
        assert world.start_DN + booked == pytest.approx(state.score_DN, abs=1e-9)
    student = plan.stage["student"]
    assert isinstance(student, Distill)
    ceilings = [states[teacher.stage].score_DN for teacher in student.teachers] + [
        states[student.init].score_DN
    ]
    assert np.all(states["student"].score_DN <= np.max(ceilings, axis=0) + 1e-9)


@settings(max_examples=30)
@given(st.floats(1e3, 1e8), st.floats(1.0, 10))
def test_more_compute_never_hurts_a_mixed_run(compute: float, factor: float) -> None:
    plan = recipe("mixed_rl", NAMES)
    world = _world(plan, luck={})  # unless it breaks
    less, more = (_final(plan, world, compute=c).score_DN for c in (compute, compute * factor))
    gains = more - less
    assert np.all(gains >= -1e-9)


def test_the_silent_walk_is_the_explained_walk() -> None:
    for name in ("mixed_rl", "cascade_rl", "mopd", "off_policy", "merge"):
        plan = recipe(name, NAMES)
        world = _world(plan)
        silent = walk(plan, world, _efforts(plan), explain=False)[plan.output]
        assert (
            np.allclose(silent.score_DN, _final(plan, world).score_DN, atol=1e-12)
            and silent.waterfall is None
        )
