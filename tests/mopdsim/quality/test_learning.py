"""Reward models, chosen samples, DPO and a smaller student in the quality model: published forms and exact limits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.arrays import Array, logit
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import Estimate, domain
from mopdsim.quality import distillation
from mopdsim.quality.learning import best_of, best_of_kl, left_by_best_of, left_by_rl
from mopdsim.quality.step import CAUSES, Effort, State
from mopdsim.quality.walk import Products, products, walk
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.catalogue import SYSTEMS, recipe
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import (
    BASE,
    SMALLER,
    Amounts,
    AnyStage,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
)

NAMES = ["sort", "reverse", "shift"]
ALL = dict.fromkeys(NAMES, 1.0)
JUDGED = dict.fromkeys(NAMES, "judge")
SIZES = {BASE: 8.0, SMALLER: 1.5}
DRAWS = 64


def _plan(*stages: AnyStage, rollouts: int = 8) -> Recipe:
    amounts = {
        stage.name: Amounts(
            steps=2,
            prompts_per_step=2,
            rollouts_per_prompt=1 if isinstance(stage, Sft) else rollouts,
            learning_rate=0.0 if isinstance(stage, RejectionSampling) else 1e-3,
        )
        for stage in stages
    }
    return Recipe(
        name="any",
        domains=tuple(NAMES),
        amounts_name="tiny",
        stages=stages,
        amounts=amounts,
        output=stages[-1].name,
    )


def _world(plan: Recipe, *, starts: dict[str, Estimate] | None = None, **constants: float) -> World:
    """A world without seeds, conflict and luck; `constants` are set to one value in all draws."""
    world = draw_world(
        default_calibration().unfitted(),
        {name: domain(name) for name in plan.domains},
        tuple(plan.stage),
        "tiny",
        seed=3,
        draws=DRAWS,
        sizes_b=SIZES if SMALLER in plan.roots else None,
        smaller_starts=starts,
    )
    changes = {name: np.full(DRAWS, value) for name, value in constants.items()}
    zeros = np.zeros_like(world.conflict_DDN)

    def calm(of: World) -> World:
        return replace(
            of, spread={}, luck={}, constants={**of.constants, **changes}, conflict_DDN=zeros, spill_DDN=zeros
        )

    return replace(calm(world), smaller=None if world.smaller is None else calm(world.smaller))


def _walked(plan: Recipe, world: World, compute: float = 2e6, tokens: float = 8e4) -> Products:
    spent = Effort(compute_N=np.full(DRAWS, compute), tokens_N=np.full(DRAWS, tokens))
    return products(plan, world, {stage.name: spent for stage in plan.stages})


def _score(plan: Recipe, world: World, **amounts: float) -> Array:
    return _walked(plan, world, **amounts).states[plan.output].score_DN


# Over-optimisation and best-of-n.


@pytest.mark.parametrize("beyond", [1.0, 1.3, 2.0, np.e, 4.0])
def test_the_gold_reward_beyond_its_peak_is_gao_et_als(beyond: float) -> None:
    alpha, beta = 1.9, 0.45
    peak = np.exp(alpha / beta - 1)
    gold = [d * (alpha - beta * np.log(d)) for d in (beyond * peak, peak)]
    assert left_by_rl(np.array(beyond)) == pytest.approx(gold[0] / gold[1])
    peak = alpha / (2 * beta)
    gold = [d * (alpha - beta * d) for d in (beyond * peak, peak)]
    assert left_by_best_of(np.array(beyond)) == pytest.approx(gold[0] / gold[1])


@given(st.floats(0, 1))
def test_nothing_is_lost_before_the_peak(before: float) -> None:
    assert left_by_rl(np.array(before)) == left_by_best_of(np.array(before)) == 1


@pytest.mark.parametrize(("a", "b", "n"), [(2, 3, 4), (1, 1, 7), (5, 1, 64), (1, 4, 2)])
def test_best_of_n_over_a_beta_of_pass_rates_is_exact(a: int, b: int, n: int) -> None:
    """E[(1 - p)^n] under Beta(a, b) is the product of (b + i) / (a + b + i)."""
    missed = np.prod([(b + i) / (a + b + i) for i in range(n)])
    found = best_of(np.array(a / (a + b)), n, np.array(1 / (a + b + 1)))
    assert found == pytest.approx(1 - missed, abs=1e-9)


@given(st.floats(0.001, 0.999), st.integers(1, 512), st.floats(0.0, 1.0))
def test_best_of_n_lies_between_no_help_and_prompts_all_alike(score: float, n: int, spread: float) -> None:
    found = float(best_of(np.array(score), n, np.array(spread)))
    assert score - 1e-9 <= found <= 1 - (1 - score) ** n + 1e-6
    assert best_of(np.array(score), 1, np.array(spread)) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 8, 100])
def test_the_distance_of_best_of_n_is_its_divergence_from_the_sampler(n: int) -> None:
    """The quantile u of the best of n has density n u^(n-1)."""
    u = (np.arange(400_000) + 0.5) / 400_000
    density = n * u ** (n - 1)
    assert best_of_kl(n) == pytest.approx(np.mean(density * np.log(np.maximum(density, 1e-300))), abs=1e-4)


# Reward models.


def _judged(kl_coefficient: float = 0.0, noise: float = 0.0) -> Recipe:
    judge = RewardModel(name="judge", domains=ALL, noise=noise)
    return _plan(judge, Rl(name="rl", domains=ALL, reward_models=JUDGED, kl_coefficient=kl_coefficient))


def test_fidelity_counts_comparisons_by_the_information_that_noise_leaves() -> None:
    judge = RewardModel(name="judge", domains={"sort": 1.0}, noise=0.2)
    plan = _plan(judge, Rl(name="rl", domains=ALL, reward_models={"sort": "judge"}))
    world = _world(plan, fidelity_pairs=500.0)
    fidelity_DN = _walked(plan, world, tokens=8e4).judges["judge"].fidelity_DN
    comparisons = 8e4 / world.length_DN[0] * 7 / 8 * 0.6**2
    assert fidelity_DN[0] == pytest.approx(comparisons / (comparisons + 500))
    assert not fidelity_DN[1:].any()


def test_a_perfect_judge_is_the_verifier() -> None:
    judged, plain = _judged(), _plan(Rl(name="rl", domains=ALL))
    world = _world(judged, fidelity_pairs=1e-9, overoptimisation_kl=1e9)
    assert _score(judged, world) == pytest.approx(_score(plain, _world(plain)), abs=1e-9)


def test_noise_takes_from_the_gain_and_more_comparisons_give_it_back() -> None:
    clean, noisy = _judged(), _judged(noise=0.3)
    world = _world(clean, fidelity_pairs=2000.0, overoptimisation_kl=1e9)
    assert np.all(_score(noisy, world) < _score(clean, world))
    assert np.all(_score(noisy, world, tokens=1e7) > _score(noisy, world, tokens=1e4))


def test_too_much_optimisation_ends_below_the_start_and_a_penalty_keeps_from_it() -> None:
    free, held = _judged(), _judged(kl_coefficient=0.02)
    world = _world(free, climb_kl=0.04, overoptimisation_kl=0.02, kl_coefficient_at_peak=0.02)
    assert np.all(_score(free, world, compute=1e9) < world.start_DN)
    assert np.all(_score(free, world, compute=1e9) >= distillation.COLLAPSE_KEPT * world.start_DN - 1e-12)
    assert np.all(_score(held, world, compute=1e9) > world.start_DN)
    gains = [np.mean(_score(free, world, compute=compute)) for compute in (1e3, 4e4, 4e7)]
    assert gains[1] > gains[0] and gains[1] > gains[2]


def test_only_judged_domains_feel_the_judge() -> None:
    half = _plan(
        RewardModel(name="judge", domains=ALL),
        Rl(name="rl", domains=ALL, reward_models={"sort": "judge"}, kl_coefficient=0.01),
    )
    plain = _plan(Rl(name="rl", domains=ALL, kl_coefficient=0.01))
    world = _world(half, fidelity_pairs=1e4)
    by_judge, by_verifier = _score(half, world), _score(plain, world)
    assert np.all(by_judge[0] < by_verifier[0]) and by_judge[1:] == pytest.approx(by_verifier[1:])


# Chosen samples and DPO.


def _rejected(keep: Literal["best", "passed"], share: float = 1.0, init: str = BASE) -> Recipe:
    sampling = RejectionSampling(name="data", domains=ALL, keep=keep, init=init)
    return _plan(sampling, Sft(name="tuned", domains=ALL, data=("data",), data_share=share))


@pytest.mark.parametrize("keep", ["best", "passed"])
def test_training_on_the_best_of_n_leads_a_share_of_the_way_to_it(keep: Literal["best", "passed"]) -> None:
    plan = _rejected(keep)
    world = _world(plan, imitated_choice=0.3, prompt_spread=0.5)
    found = _walked(plan, world, tokens=1e12)
    start = world.start_DN
    best = best_of(start, 8, np.full(DRAWS, 0.5))
    assert found.datasets["data"].kept_DN == pytest.approx(best)
    assert found.states["tuned"].score_DN == pytest.approx(start + 0.3 * (best - start))


def test_the_rest_of_the_examples_are_demonstrations() -> None:
    whole, part = _rejected("best"), _rejected("best", share=0.25)
    world = _world(whole)
    mixed = 0.25 * _score(whole, world, tokens=1e12) + 0.75 * world.demonstrated_DN
    assert _score(part, world, tokens=1e12) == pytest.approx(mixed)


def test_a_reward_model_chooses_worse_than_the_verifier_and_too_many_samples_mislead_it() -> None:
    def kept(rollouts: int, reward_models: dict[str, str]) -> Array:
        sampling = RejectionSampling(name="data", domains=ALL, reward_models=reward_models)
        judge = [RewardModel(name="judge", domains=ALL)] if reward_models else []
        plan = _plan(*judge, sampling, Sft(name="tuned", domains=ALL, data=("data",)), rollouts=rollouts)
        world = _world(plan, best_of_peak_kl=2.0, fidelity_pairs=2000.0)
        return _walked(plan, world, tokens=5e4).datasets["data"].kept_DN

    assert np.all(kept(8, JUDGED) < kept(8, {}))
    assert np.all(kept(4096, JUDGED) < kept(8, JUDGED))


def test_rounds_of_dpo_approach_geometrically() -> None:
    rounds = [
        Preference(name=f"dpo_{number}", domains=ALL, init=BASE if number == 1 else f"dpo_{number - 1}")
        for number in (1, 2, 3)
    ]
    plan = _plan(*rounds)
    world = _world(plan, preference_share=0.35, forgetting=0.0)
    states = _walked(plan, world, tokens=1e12).states
    gaps = [world.asymptote_DN - states[name].score_DN for name in (BASE, "dpo_1", "dpo_2", "dpo_3")]
    for before, after in pairwise(gaps):
        assert after == pytest.approx(0.65 * before)


def test_reversed_pairs_take_from_dpo_in_proportion() -> None:
    clean, noisy = (_plan(Preference(name="dpo", domains=ALL, noise=noise)) for noise in (0.0, 0.2))
    world = _world(clean)
    gained = [_score(plan, world) - world.start_DN for plan in (clean, noisy)]
    assert gained[1] == pytest.approx(0.6 * gained[0])


def test_one_domain_and_no_conflict_leave_dpo_as_it_is() -> None:
    alone = _plan(Preference(name="dpo", domains={"sort": 1.0}))
    world = _world(alone)
    conflicting = replace(world, conflict_DDN=np.full_like(world.conflict_DDN, -0.5))
    assert np.array_equal(_score(alone, world), _score(alone, conflicting))
    together = _plan(Preference(name="dpo", domains=ALL))
    assert np.all(_score(together, conflicting) < _score(together, world))


def test_demonstrations_beside_the_reward_slow_forgetting() -> None:
    def second(mix: float) -> Recipe:
        shares = {"sort": 0.05, "reverse": 1.0}
        return _plan(
            Rl(name="first", domains=ALL),
            Rl(name="second", init="first", domains=shares, demonstration_mix=mix),
        )

    bare, mixed = second(0.0), second(2.0)
    world = _world(bare, climb_kl=0.2)
    lost = [_walked(plan, world, compute=1e5).states["second"].score_DN for plan in (bare, mixed)]
    assert np.all(lost[1][0] > lost[0][0]) and np.array_equal(lost[1][2], lost[0][2])


# A smaller student.


def _small() -> Recipe:
    return recipe("deepseek_r1", NAMES, smaller=True)


def test_a_smaller_model_starts_lower_by_its_size_or_as_told() -> None:
    plan = _small()
    world = _world(plan)
    lower = logit(world.start_DN) - logit(world.of(SMALLER).start_DN)
    slope = default_calibration().unfitted().draw("size_slope", "tiny", seed=3, draws=DRAWS)
    assert lower == pytest.approx(np.broadcast_to(slope * np.log(8.0 / 1.5), lower.shape))
    told = Estimate(value=0.2, sd=0.0, grade="measured", source="test")
    assert _world(plan, starts={"sort": told}).of(SMALLER).start_DN[0] == pytest.approx(0.2)


def test_a_smaller_student_ends_at_the_cap_of_its_size() -> None:
    plan = _small()
    world = _world(plan)
    states = _walked(plan, world, tokens=1e12).states
    cap = distillation.across_sizes(states["rl"].score_DN, teacher_b=8.0, student_b=1.5)
    assert states["distilled"].score_DN == pytest.approx(np.maximum(cap, 0.0))
    assert np.all(states["distilled"].score_DN <= states["rl"].score_DN)
    causes = states["distilled"].waterfall
    assert causes is not None
    assert world.of(SMALLER).start_DN + sum(causes.values()) == pytest.approx(states["distilled"].score_DN)


def test_a_world_without_a_second_model_refuses_a_smaller_student() -> None:
    plan = _small()
    with pytest.raises(UsageError, match="without a second model"):
        _score(plan, replace(_world(plan), smaller=None))


# Every system.


@given(st.sampled_from(sorted(SYSTEMS)), st.floats(0, 1e13), st.floats(0, 1e12))
def test_every_system_stays_in_range_and_its_causes_add_up(name: str, compute: float, tokens: float) -> None:
    options: dict[str, Any] = {"smaller": True} if name == "deepseek_r1" else {}
    plan = recipe(name, NAMES, **options)
    world = draw_world(
        default_calibration().unfitted(),
        {name: domain(name) for name in NAMES},
        tuple(plan.stage),
        "tiny",
        seed=3,
        draws=DRAWS,
        sizes_b=SIZES if SMALLER in plan.roots else None,
    )
    found = _walked(plan, world, compute, tokens)
    for state in found.states.values():
        _in_range(state.score_DN)
        assert _booked(state, world) == pytest.approx(state.score_DN, abs=1e-9)
    for judge in found.judges.values():
        _in_range(judge.fidelity_DN)
    for data in found.datasets.values():
        _in_range(data.kept_DN)
    spent = Effort(compute_N=np.full(DRAWS, compute), tokens_N=np.full(DRAWS, tokens))
    silent = walk(plan, world, {stage.name: spent for stage in plan.stages}, explain=False)
    assert np.allclose(silent[plan.output].score_DN, found.states[plan.output].score_DN, atol=1e-12)


def _in_range(values: Array) -> None:
    assert np.all((values >= 0) & (values <= 1))


def _booked(state: State, world: World) -> Array:
    assert state.waterfall is not None
    start = world.of(state.root).start_DN
    return start + sum((state.waterfall[cause] for cause in CAUSES), np.zeros_like(start))
