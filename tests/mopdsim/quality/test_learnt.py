"""What our runs taught the quality model: rates and batches, starts, companions and rewards that find nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.base.arrays import Array, logit
from mopdsim.belief.calibration import default_calibration
from mopdsim.facts.domains import Estimate, domain
from mopdsim.forecast.scenario import from_document
from mopdsim.forecast.stage_draws import relative_size
from mopdsim.quality.distillation import companions, pull
from mopdsim.quality.learning import BREAKING_COMPUTE, broken, paced
from mopdsim.quality.step import Effort
from mopdsim.quality.walk import products, walk
from mopdsim.quality.world import World, draw_world, sized
from mopdsim.recipes.catalogue import recipe
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, SMALLER, Merge, default_amounts

NAMES = ["sort", "reverse", "shift"]
ONE = Effort(compute_N=np.array([1.0]), tokens_N=np.array([2.0]))


def test_a_flop_counts_for_more_at_a_higher_rate_and_a_smaller_batch() -> None:
    constants = {"batch_exponent": np.array([1.0])}
    usual = default_amounts("tiny", "rl")
    assert paced(ONE, usual, "tiny", "rl", constants).compute_N == pytest.approx(1.0)
    faster = usual.model_copy(
        update={"learning_rate": 4 * usual.learning_rate, "prompts_per_step": usual.prompts_per_step // 2}
    )
    found = paced(ONE, faster, "tiny", "rl", constants)
    assert found.compute_N == pytest.approx(2.0 * 2.0)  # 4^.5 of the rate, 2^1 of the batch
    assert found.tokens_N == pytest.approx(2 * found.compute_N)


def test_a_judge_and_amounts_of_other_sets_keep_their_effort() -> None:
    constants = {"batch_exponent": np.array([1.0])}
    odd = default_amounts("small", "rl").model_copy(update={"learning_rate": 1.0})
    assert paced(ONE, odd, "small", "rl", constants) is ONE
    assert paced(ONE, odd, "tiny", "reward_model", constants) is ONE


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_a_model_that_rarely_succeeds_climbs_later(slope: float) -> None:
    low, high = (_world(start, start_slope=slope) for start in (0.1, 0.4))
    ratio = np.median(low.midpoint_DN[0] / high.midpoint_DN[0])
    assert ratio == pytest.approx(np.exp(slope * (logit(0.4) - logit(0.1))))


def test_a_larger_model_needs_other_compute_and_breaks_at_a_lower_rate() -> None:
    world = _world(0.3, size_exponent=0.5, breaking_size=0.25)
    larger = sized(world, 16.0)
    assert larger.midpoint_DN == pytest.approx(world.midpoint_DN / 4)
    assert larger.distill_tokens_DN is world.distill_tokens_DN
    assert larger.constants["breaking_rate"] == pytest.approx(world.constants["breaking_rate"] / 2)
    assert sized(world, 1.0) is world


def test_sizes_are_told_from_the_studied_model_in_its_scope_alone() -> None:
    asked = {"recipe": "mopd", "domains": NAMES}
    ratios = [relative_size(from_document({**asked, "model": name})) for name in ("tiny", "tiny-xlarge")]
    assert ratios == [1.0, pytest.approx(15.49, abs=0.01)]
    assert relative_size(from_document({**asked, "domains": ["math"], "model": "Qwen3-8B"})) is None


def test_a_smaller_student_is_told_from_the_studied_model_too() -> None:
    rows = {name: domain(name) for name in NAMES}
    sizes = {BASE: 4.0, SMALLER: 1.0}
    drawn = [
        draw_world(
            default_calibration(), rows, (), "tiny", seed=3, draws=5, sizes_b=sizes, relative_size=relative
        )
        for relative in (None, 8.0)
    ]
    plain, told = (world.of(SMALLER).midpoint_DN for world in drawn)
    exponent_N = drawn[0].constants["size_exponent"]
    assert told == pytest.approx(plain * 2.0**-exponent_N)
    assert drawn[1].midpoint_DN == pytest.approx(drawn[0].midpoint_DN * 8.0**-exponent_N)


def test_others_lift_by_their_gains_and_drag_nobody_by_their_losses() -> None:
    constants = {"companion_lift": np.array([0.4])}
    before, won, lost = (np.array([score]) for score in (0.5, 0.731058579, 0.268941421))  # by a logit
    pulls = [pull(before, won, constants), pull(before, lost, constants)]
    assert companions(sum(pulls), len(pulls)) == pytest.approx(0.4 / np.sqrt(2))
    assert companions(np.zeros(1), 0) == 0


def test_domains_of_one_teacher_do_not_conflict_in_the_student() -> None:
    rivals = np.full((3, 3, 1), -0.8)
    for groups, conflict in (([NAMES], False), ([NAMES[:1], NAMES[1:]], True)):
        plan = recipe("mopd", NAMES, groups=groups)
        calm = replace(_world(0.5), spill_DDN=np.zeros((3, 3, 1)))
        teachers = {s.name: _effort(2e5 if s.name == "student" else 0.0) for s in plan.stages}
        better = replace(calm, asymptote_DN=np.full((3, 1), 0.95))
        efforts = teachers | {s.name: _effort(1e5) for s in plan.stages if s.name != "student"}
        alone, beside = (
            walk(plan, world, efforts) for world in (better, replace(better, conflict_DDN=rivals))
        )
        names = [s.name for s in plan.stages if s.name != "student"]
        taught = [np.max([found[n].score_DN[:, 0] for n in names], axis=0) for found in (alone, beside)]
        reached = [found["student"].score_DN[:, 0] for found in (alone, beside)]
        lost = (taught[1] - reached[1]) - (taught[0] - reached[0])
        assert bool(lost[0] > 1e-4) is conflict


def test_a_student_passes_its_own_teacher_where_the_others_gained_too() -> None:
    plan = recipe("mopd", NAMES)
    alone, lifted = (_student(plan, _world(0.5, companion_lift=share)) for share in (1e-9, 1.0))
    teachers = _teachers(plan, _world(0.5))
    assert np.all(alone <= teachers + 1e-6)
    assert np.median(lifted - teachers) > 0.01


def test_a_reward_adds_nothing_where_every_answer_fails() -> None:
    plan = recipe("mopd", NAMES)
    student = plan.stage["student"].model_copy(update={"reward_mix": 0.5})
    rewarded = plan.model_copy(update={"stages": (*(s for s in plan.stages if s.name != "student"), student)})
    for start, gains in ((1e-9, False), (0.5, True)):
        world = _world(start, companion_lift=0.0, start_slope=0.0)
        efforts = {s.name: _effort(2e6 if s.name == "student" else 0.0) for s in plan.stages}
        before, after = (walk(p, world, efforts)["student"].score_DN for p in (plan, rewarded))
        assert bool(np.max(after - before) > 0.01) is gains


def test_breaking_grows_with_the_rate_and_the_length_and_spares_the_usual_rate() -> None:
    usual = default_amounts("tiny", "rl")
    constants = {"breaking_rate": np.array([usual.learning_rate]), "breaking_power": np.array([2.0])}
    twice = usual.model_copy(update={"learning_rate": 2 * usual.learning_rate})
    spent = Effort(compute_N=np.array([9 * BREAKING_COMPUTE]), tokens_N=np.array([0.0]))
    assert broken(spent, twice, "tiny", constants) == pytest.approx((4.0 - 1.0) * 3.0)
    assert broken(spent, usual, "tiny", constants) is None
    assert broken(spent, twice, "small", constants) is None


def test_a_bold_rate_takes_as_many_logits_from_every_domain() -> None:
    plan = recipe("mixed_rl", NAMES[:2])
    bold = plan.amounts["mixed"].model_copy(update={"learning_rate": 4e-3})
    plan = plan.with_amounts({"mixed": bold})
    world = _world(0.5, breaking_rate=4e-3, breaking_power=2.0)
    calm = replace(world, constants={**world.constants, "breaking_rate": np.array([1e3])})
    whole, after = (walk(plan, one, {"mixed": _effort(4e5)})["mixed"].score_DN for one in (calm, world))
    lost = (1 - (1.5 / 4) ** 2) * 2 * (4 / 1.5) ** 0.25  # sqrt(4e5 / 1e5) at r0, of FLOPs that count for more
    assert logit(whole) - logit(after) == pytest.approx(np.full((3, 1), lost), abs=1e-5)


def test_a_merge_takes_over_what_a_specialist_lost() -> None:
    plan = recipe("merge", NAMES)
    world = _world(0.5, merge_exponent=0.5)
    merged = plan.stage[plan.output]
    assert isinstance(merged, Merge)
    known = {name: dict.fromkeys(NAMES, 0.5) for name in merged.inputs}
    known[merged.inputs[0]] = {"sort": 0.9, "reverse": 0.3, "shift": 0.5}
    efforts = {s.name: _effort(1e5) for s in plan.stages if s.kind != "merge"}
    found = logit(products(plan, world, efforts, known=known).states[plan.output].score_DN[:, 0])
    kept = 0.5**0.5  # of what one of three specialists moved, at weight .5
    gain, loss = (
        logit(0.9) - 2 * 0.07 * 0.5**1.5 * logit(0.9),
        logit(0.3),
    )  # each of two pairs takes its overlap
    assert found[0] == pytest.approx(kept * gain, abs=1e-6)
    assert found[1] == pytest.approx(kept * 0.5 * loss - 2 * 0.07 * 0.25 * abs(loss), abs=1e-6)
    assert found[2] == pytest.approx(0.0, abs=1e-6)


def test_measured_scores_take_the_place_of_forecast_ones() -> None:
    plan = recipe("mopd", NAMES)
    world = _world(0.5, companion_lift=1e-9)
    efforts = {s.name: _effort(2e5) for s in plan.stages}
    found = products(plan, world, efforts, known={"teacher_1": {"sort": 0.61}}).states
    assert found["teacher_1"].score_DN[0] == pytest.approx(0.61)
    assert found["student"].score_DN[0] == pytest.approx(0.61, abs=1e-3)
    booked = found["teacher_1"].waterfall
    assert booked is not None
    assert world.start_DN + sum(booked.values()) == pytest.approx(found["teacher_1"].score_DN)


def _world(start: float, **constants: float) -> World:
    """One draw without noise of seeds, collapse or conflict; all domains start here."""
    first = Estimate(value=start, sd=0.0, grade="measured", source="given")
    domains = {name: replace(domain(name), start=first) for name in NAMES}
    own = default_calibration().unfitted()
    given = {
        name: replace(own.parameters[name], prior=replace(own.parameters[name].prior, value=value, sd=0.0))
        for name, value in constants.items()
    }
    world = draw_world(
        replace(own, parameters={**own.parameters, **given}), domains, (), "tiny", seed=3, draws=1
    )
    one_way = np.full_like(world.spill_DDN, 0.5)  # each skill helps the others by half a logit
    return replace(
        world, conflict_DDN=np.zeros_like(one_way), spill_DDN=one_way, luck={"student": np.ones(1)}
    )


def _effort(compute: float) -> Effort:
    return Effort(compute_N=np.array([compute]), tokens_N=np.array([1e6]))


def _student(plan: Recipe, world: World) -> Array:
    return walk(plan, world, {s.name: _effort(2e5) for s in plan.stages})["student"].score_DN


def _teachers(plan: Recipe, world: World) -> Array:
    states = walk(plan, world, {s.name: _effort(2e5) for s in plan.stages})
    return np.max([states[name].score_DN for name in states if name.startswith("teacher")], axis=0)
