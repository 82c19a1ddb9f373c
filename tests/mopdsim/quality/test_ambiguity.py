"""No model passes the bound of two rivals, whatever the recipe, the dial and the draw; no conflict is the identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.arrays import Array
from mopdsim.base.errors import UsageError
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import RIVALS, ambiguity, bound, domain, rivalry, unambiguous, within_bound
from mopdsim.forecast.forecast import Forecast, forecast
from mopdsim.forecast.scenario import of_recipe
from mopdsim.quality.step import Effort
from mopdsim.quality.walk import walk
from mopdsim.quality.world import World, draw_world
from mopdsim.recipes.catalogue import recipe
from mopdsim.recipes.recipe import Recipe

DIALS = np.arange(0, 1.0001, 0.05)
ROUNDING = 1e-9
DRAWS = 50
CATALOGUE: dict[str, dict[str, Any]] = {
    "single_domain": {}, "mixed_rl": {}, "cascade_rl": {}, "off_policy": {}, "merge": {"scale": 1.0},
    "mopd": {"reward_mix": 1.0, "extrapolation": 1.3}, "mopd_rounds": {"rounds": 2},
}  # fmt: skip


def pair(dial: float) -> list[str]:
    return [f"{name}?ambiguity={dial:g}" for name in ("sort", "sort_down")]


def made(name: str, names: list[str]) -> Recipe:
    return recipe(name.removesuffix("_rounds"), names, **CATALOGUE[name])


def world_of(plan: Recipe, *, seed: int = 0, **changes: Any) -> World:
    rows = {name: domain(name) for name in plan.domains}
    world = draw_world(default_calibration(), rows, tuple(plan.stage), "tiny", seed=seed, draws=DRAWS)
    return replace(world, **changes)


def spent(plan: Recipe, compute: float, tokens: float) -> dict[str, Effort]:
    effort = Effort(compute_N=np.full(DRAWS, compute), tokens_N=np.full(DRAWS, tokens))
    return {stage.name: effort for stage in plan.stages}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("mixed_rl", "mopd") else pytest.mark.slow) for n in CATALOGUE]
)
def test_no_draw_of_the_shipped_calibration_passes_the_bound_at_any_dial(name: str) -> None:
    for dial in DIALS:
        plan = made(name, [*pair(dial), "reverse"])
        world = world_of(plan)
        for compute, tokens in ((3e4, 3e2), (7e5, 1.6e4), (1e9, 1e9)):
            for state in walk(plan, world, spent(plan, compute, tokens)).values():
                assert np.all(state.score_DN[:2].mean(axis=0) <= bound(dial) + ROUNDING)
                assert state.waterfall is not None
                assert world.start_DN + sum(state.waterfall.values()) == pytest.approx(state.score_DN)


@given(
    st.sampled_from(list(CATALOGUE)),
    st.sampled_from(RIVALS),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(-10, 10),
    st.floats(0, 1e10),
)
def test_nor_any_recipe_with_any_conflict_of_a_users(
    name: str, rivals: tuple[str, str], one: float, other: float, conflict: float, compute: float
) -> None:
    names = [f"{rivals[0]}?ambiguity={one}", f"{rivals[1]}?ambiguity={other}", "swap"]
    plan = made(name, names)
    world = world_of(plan)
    world = replace(world, conflict_DDN=np.full_like(world.conflict_DDN, conflict))
    for state in walk(plan, world, spent(plan, compute, compute)).values():
        assert np.all(state.score_DN[:2].mean(axis=0) <= bound(min(one, other)) + ROUNDING)
        assert np.all((state.score_DN >= 0) & (state.score_DN <= 1))


def _forecast(name: str, dial: float) -> Forecast:
    return forecast(of_recipe(name, domains=pair(dial), draws=400))


def test_a_forecasts_likely_scores_keep_it_too_and_fall_with_the_dial() -> None:
    means = []
    for dial in (0.0, 0.25, 0.5, 0.75, 1.0):
        likely_N = _forecast("mixed_rl", dial).likely_DN.mean(axis=0)
        assert np.all(likely_N <= bound(dial) + ROUNDING)
        means.append(float(np.median(likely_N)))
    assert means == sorted(means, reverse=True)


def test_a_specialist_alone_may_master_its_own_domain() -> None:
    score_DN = np.array([[0.99, 0.2], [0.4, 0.1]])
    held_DN = within_bound(score_DN, ((0, 1, 1.0),), holding=[0])
    assert held_DN[0] == pytest.approx(score_DN[0])
    assert held_DN[1] == pytest.approx([0.01, 0.1])
    assert within_bound(score_DN, ((0, 1, 1.0),)).sum(axis=0) == pytest.approx([1.0, 0.3])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from([(), (0,), (1,), (0, 1)]))
def test_holding_moves_nothing_that_is_possible_and_never_leaves_0_to_1(
    one: float, other: float, dial: float, holding: tuple[int, ...]
) -> None:
    score_DN = np.array([[one], [other]])
    held_DN = within_bound(score_DN, ((0, 1, dial),), holding)
    assert np.all((held_DN >= -ROUNDING) & (held_DN <= score_DN))
    assert held_DN.mean() <= bound(dial) + ROUNDING
    if score_DN.mean() <= bound(dial):
        assert np.array_equal(held_DN, score_DN)


def test_conflict_falls_with_the_dial_in_every_draw() -> None:
    calibration = default_calibration()
    drawn = [
        calibration.draw_pair("conflict", *map(domain, pair(dial)), "tiny", seed=0, draws=500)
        for dial in DIALS
    ]
    assert np.all(np.diff(np.stack(drawn), axis=0) < 0)
    assert -1.9 < float(np.median(drawn[-1])) < -1.1  # measured at 1: -1.3 to -1.9


def _scores(plan: Recipe, conflict: float, *, others: float | None = None) -> Array:
    """A recipe's final scores, (D, N), under one conflict of all pairs."""
    calibration = default_calibration().unfitted()
    rows = {name: domain(name) for name in plan.domains}
    world = draw_world(calibration, rows, tuple(plan.stage), "tiny", seed=0, draws=DRAWS)
    changed = np.full_like(world.conflict_DDN, conflict)
    world = replace(world, conflict_DDN=changed, spread={}, luck={})
    return walk(plan, world, spent(plan, 7e5, 1.6e4))[plan.output].score_DN


@pytest.mark.parametrize("name", ["mixed_rl", "cascade_rl", "mopd", "off_policy", "merge"])
def test_conflict_hurts_in_every_recipe_of_several_domains(name: str) -> None:
    plan = made(name, ["sort", "reverse", "shift"])
    free, hurt = _scores(plan, 0.0).mean(axis=0), _scores(plan, -1.0).mean(axis=0)
    assert np.all(hurt <= free) and hurt.mean() < free.mean()  # a merge is held to the best of its inputs


def test_without_conflict_a_cascade_and_a_merge_are_those_of_unrelated_domains() -> None:
    for name in ("cascade_rl", "merge"):
        plan = made(name, ["sort", "reverse", "shift"])
        world = world_of(plan)
        world = replace(world, conflict_DDN=np.zeros_like(world.conflict_DDN))
        deaf = replace(world, constants={**world.constants, "conflict_share": np.zeros(DRAWS)})
        with_it, without = (
            walk(plan, each, spent(plan, 7e5, 1.6e4))[plan.output].score_DN for each in (world, deaf)
        )
        assert with_it == pytest.approx(without, abs=1e-9)


def test_a_users_conflict_reaches_every_recipe() -> None:
    for name in ("mixed_rl", "cascade_rl", "mopd", "off_policy", "merge"):
        told = {"sort>reverse": [-2.0, -2.0], "reverse>sort": [-2.0, -2.0]}
        asked = {"domains": ["sort", "reverse"], "draws": 300}
        plain, hurt = (
            forecast(of_recipe(name, **asked, conflict=conflict)).scores_DN.mean()
            for conflict in ({"sort>reverse": [0, 0], "reverse>sort": [0, 0]}, told)
        )
        assert hurt < plain


def test_rivals_are_those_of_the_trainers_tasks_and_ask_the_same_prompts() -> None:
    from trainer.tasks import task

    for one, other in RIVALS:
        spec = f"{one}?ambiguity=0.5"
        assert rivalry(spec, f"{other}?ambiguity=0.7") == 0.5
        assert task(spec).ambiguity == 0.5  # type: ignore[attr-defined]
        assert unambiguous(spec) == one
    assert rivalry("sort", "sort_down") == rivalry("sort?ambiguity=1", "reverse?ambiguity=1") == 0
    assert rivalry("sort?ambiguity=1&length=4", "sort_down?ambiguity=1") == 0


@pytest.mark.parametrize("text", ["1.5", "-0.1", "much", "nan"])
def test_a_dial_outside_0_to_1_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"ambiguity = .*: must be a number from 0 to 1"):
        ambiguity(f"sort?ambiguity={text}")
    with pytest.raises(UsageError, match="ambiguity"):
        forecast(of_recipe("mixed_rl", domains=[f"sort?ambiguity={text}", "sort_down"], draws=10))


def test_a_start_above_the_bound_is_one_sentence() -> None:
    facts = {name: {"start": 0.8} for name in pair(1.0)}
    with pytest.raises(UsageError, match=r"start = 0.8, with 0.8 of its rival .* at most 0.5"):
        forecast(of_recipe("mixed_rl", domains=pair(1.0), domain=facts, draws=10))
