"""A stage's bill against hand counts, and the effects that decide between one mixed run and many
specialists.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.stage_cost import SIGNAL_SHARE, Bill, bill, seconds_after
from mopdsim.cost.stage_seconds import Machine
from mopdsim.facts.domains import domain
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model
from mopdsim.recipes.stage import (
    NORMALISING_ANSWERS,
    Amounts,
    AnyStage,
    Distill,
    Merge,
    Preference,
    RejectionSampling,
    RewardModel,
    Rl,
    Sft,
    Teacher,
)

AMOUNTS = Amounts(steps=100, prompts_per_step=64, rollouts_per_prompt=8, learning_rate=1e-6)
DENSE = Machine(model=model("Qwen3-8B"), gpu=gpu("H100"))


def _bill(
    stage: AnyStage, *names: str, machine: Machine = DENSE, gpus: int = 32, amounts: Amounts = AMOUNTS
) -> Bill:
    return bill(stage, amounts, {name: domain(name) for name in names}, machine, gpus=gpus)


def _distill(*names: str, **settings: object) -> Distill:
    teachers = tuple(Teacher(stage=f"t_{name}", domains=(name,)) for name in names)
    return Distill(name="student", domains=dict.fromkeys(names, 1.0), teachers=teachers, **settings)


def test_tokens_and_flops_are_the_hand_count() -> None:
    found = _bill(Rl(name="t", domains={"math": 1.0}, zero_signal="keep"), "math")
    sequences, length, prompt = 100 * 64 * 8, 10_000, 300
    assert found.generated_tokens == sequences * length
    assert found.gradient_tokens == found.generated_tokens
    assert found.trained_tokens == sequences * (length + prompt)
    products = 2 * DENSE.model.matmul_parameters * sequences * (length + prompt)
    assert 1.0 < found.flops["generation"] / products < 1.5  # attention comes on top
    assert found.flops["training"] == pytest.approx(3 * found.flops["generation"])
    assert found.flops["scoring"] == 0


def test_dropped_groups_are_not_trained_on_and_a_reference_is_scored() -> None:
    kept, dropped = (
        _bill(Rl(name="t", domains={"math": 1.0}, zero_signal=way), "math") for way in ("keep", "drop")
    )
    assert dropped.gradient_tokens == pytest.approx(SIGNAL_SHARE * kept.gradient_tokens)
    assert dropped.seconds["training"] < kept.seconds["training"]
    judged = _bill(Rl(name="t", domains={"math": 1.0}, kl_coefficient=0.01), "math")
    assert (
        judged.scored_tokens == pytest.approx(judged.generated_tokens * 1.03)
        and judged.seconds["scoring"] > 0
    )


def test_a_mixed_batch_waits_for_its_slowest_environment_and_a_teacher_does_not() -> None:
    mixed = _bill(Rl(name="t", domains={"math": 1.0, "swe": 0.001}), "math", "swe")
    alone = _bill(Rl(name="t", domains={"math": 1.0}), "math", "swe")
    waiting = 100 * domain("swe").turns * domain("swe").environment_seconds.value
    assert mixed.seconds["generation"] - alone.seconds["generation"] > 0.9 * waiting


def test_each_prompt_is_scored_by_its_own_teachers_only() -> None:
    one, two = _distill("math"), _distill("math", "code")
    assert _bill(two, "math", "code").flops["scoring"] == pytest.approx(
        _bill(two, "math", "code").flops["generation"]
    )
    shared = Distill(
        name="student",
        domains={"math": 1.0},
        teachers=(Teacher(stage="a", domains=("math",)), Teacher(stage="b", domains=("math",))),
    )
    assert _bill(shared, "math").flops["scoring"] == pytest.approx(2 * _bill(one, "math").flops["scoring"])
    likelihood = _distill("math", on_policy=False, loss="sample_nll")
    assert _bill(likelihood, "math").flops["scoring"] == 0


def test_fine_tuning_generates_nothing_and_merging_needs_one_gpu() -> None:
    sft = _bill(Sft(name="s", domains={"math": 1.0}), "math")
    assert sft.generated_tokens == 0 and "generation" not in sft.seconds
    merged = bill(Merge(name="m", inputs=("a", "b")), None, {"math": domain("math")}, DENSE, gpus=32)
    assert (merged.gpus, merged.gradient_tokens) == (1, 0)


def test_a_ceiling_of_flops_ends_the_stage() -> None:
    stage = Rl(name="t", domains={"math": 1.0})
    free = _bill(stage, "math")
    capped = _bill(
        stage, "math", amounts=AMOUNTS.model_copy(update={"max_flops": free.training_run_flops / 4})
    )
    assert capped.seconds["evaluation"] == pytest.approx(free.seconds["evaluation"])
    assert capped.steps == 25 and capped.training_run_flops == pytest.approx(free.training_run_flops / 4)


def test_evaluation_is_paid_once_a_stage_whatever_its_steps() -> None:
    stage = Rl(name="t", domains={"math": 1.0})
    short, long = (_bill(stage, "math", amounts=AMOUNTS.model_copy(update={"steps": n})) for n in (50, 500))
    assert long.seconds["evaluation"] == pytest.approx(short.seconds["evaluation"])
    assert long.flops["evaluation"] == pytest.approx(short.flops["evaluation"])
    assert long.seconds["generation"] == pytest.approx(10 * short.seconds["generation"])


def test_longer_answers_and_fewer_gpus_take_longer() -> None:
    stage = Rl(name="t", domains={"math": 1.0})
    few, many = (_bill(stage, "math", gpus=gpus) for gpus in (8, 64))
    assert sum(few.seconds.values()) > sum(many.seconds.values())
    short_s, long_s = seconds_after([few], [few.steps], np.array([1.0, 2.0]), np.zeros(2))[0]
    assert 1.0 < long_s / short_s < 4.0


def test_overlap_hides_the_shorter_phase() -> None:
    stage = Rl(name="t", domains={"math": 1.0})
    asynchronous = Machine(model=DENSE.model, gpu=DENSE.gpu, overlap="asynchronous")
    found = _bill(stage, "math", machine=asynchronous)
    assert found.scored_tokens > 0 and "training" not in found.seconds


def test_no_layout_is_said_with_what_is_missing() -> None:
    large = Machine(model=model("DeepSeek-V3"), gpu=gpu("A100-40GB"))
    with pytest.raises(InfeasibleError, match="does not fit"):
        _bill(Rl(name="t", domains={"math": 1.0}), "math", machine=large, gpus=8)


SAMPLES, PROMPTS = 100 * 64 * 8, 100 * 64
MATH = {"math": 1.0}
FREE: dict[str, object] = {"kl_coefficient": 0.0, "reward_models": {}}


def test_a_reward_model_is_trained_on_its_parents_samples() -> None:
    found = _bill(RewardModel(name="judge", domains=MATH), "math")
    assert found.generated_tokens == SAMPLES * 10_000
    assert found.flops["training"] == pytest.approx(3 * SIGNAL_SHARE * found.flops["generation"])
    assert found.flops["scoring"] == 0


def test_a_reward_model_pays_for_the_answers_that_normalise_its_scores() -> None:
    """Each is sampled and read once, however few steps there are; a test of it comes on top."""
    untested = Machine(model=model("Qwen3-1.7B"), gpu=gpu("H100"), evaluations=0)
    judge, other = RewardModel(name="judge", domains=MATH), Rl(name="t", domains=MATH)
    found, plain = (_bill(stage, "math", machine=untested) for stage in (judge, other))
    assert plain.flops["evaluation"] == plain.seconds["evaluation"] == 0
    a_sample = found.flops["generation"] / SAMPLES
    assert found.flops["evaluation"] == pytest.approx(2 * NORMALISING_ANSWERS * a_sample)
    assert found.once_seconds == found.seconds["evaluation"] > 0


def test_rejection_sampling_trains_nothing_and_pays_its_judge() -> None:
    free = _bill(RejectionSampling(name="data", domains=MATH), "math")
    judged = _bill(RejectionSampling(name="data", domains=MATH, reward_models={"math": "judge"}), "math")
    assert free.generated_tokens == judged.generated_tokens == SAMPLES * 10_000
    assert free.gradient_tokens == judged.gradient_tokens == judged.flops["training"] == 0
    assert free.flops["evaluation"] == 0 and free.flops["scoring"] == 0
    assert judged.flops["scoring"] == pytest.approx(judged.flops["generation"])
    assert judged.memory_bytes > free.memory_bytes and judged.seconds["scoring"] > 0


def test_dpo_trains_a_pair_of_each_prompt_and_scores_it_twice() -> None:
    by_verifier = _bill(Preference(name="dpo", domains=MATH), "math")
    assert by_verifier.gradient_tokens == pytest.approx(2 * SIGNAL_SHARE * PROMPTS * 10_000)
    pair = 2 * SIGNAL_SHARE * PROMPTS / SAMPLES
    assert by_verifier.flops["scoring"] == pytest.approx(2 * pair * by_verifier.flops["generation"])
    judged = _bill(Preference(name="dpo", domains=MATH, reward_models={"math": "judge"}), "math")
    assert judged.gradient_tokens == pytest.approx(2 * PROMPTS * 10_000)  # its scores always differ
    pair = 2 * PROMPTS / SAMPLES
    assert judged.flops["scoring"] == pytest.approx((1 + 2 * pair) * judged.flops["generation"])


def test_ppo_pays_values_reference_and_judge_and_keeps_them_in_memory() -> None:
    ppo = Rl(name="t", domains=MATH, algorithm="ppo", kl_coefficient=0.02, reward_models={"math": "judge"})
    grpo = _bill(Rl(name="t", domains=MATH, zero_signal="keep"), "math")
    found = _bill(ppo, "math")
    assert found.flops["scoring"] == pytest.approx(3 * found.flops["generation"])
    assert found.flops["training"] == pytest.approx(grpo.flops["training"])
    small = Machine(model=model("Qwen3-1.7B"), gpu=gpu("H100"))
    alone, beside = (_bill(stage, "math", machine=small) for stage in (ppo.model_copy(update=FREE), ppo))
    assert alone.layout == beside.layout
    weights = 2.0 * small.model.total_parameters / int(alone.layout.split()[1].strip(","))
    assert beside.memory_bytes - alone.memory_bytes == pytest.approx(2 * weights)
    mixed = _bill(ppo.model_copy(update={"demonstration_mix": 0.1}), "math")
    assert mixed.gradient_tokens - found.gradient_tokens == pytest.approx(PROMPTS * 10_000)


def test_what_is_sampled_ahead_waits_for_no_tail() -> None:
    at_once = _bill(Preference(name="dpo", domains=MATH), "math")
    in_turn = _bill(Preference(name="dpo", domains=MATH, on_policy=True), "math")
    assert at_once.flops == in_turn.flops
    assert at_once.seconds["generation"] < in_turn.seconds["generation"]
    assert at_once.seconds["fixed"] == 0 < in_turn.seconds["fixed"]


@pytest.mark.parametrize("on_policy", [True, False])
def test_a_teacher_of_another_size_works_at_its_own_cost(on_policy: bool) -> None:
    student = model("Qwen3-1.7B")
    stage = _distill("math", on_policy=on_policy, loss="reverse_kl")
    alone = _bill(stage, "math", machine=Machine(model=student, gpu=gpu("H100")))
    taught = _bill(stage, "math", machine=Machine(model=student, gpu=gpu("H100"), teacher=model("Qwen3-8B")))
    assert taught.flops["training"] == alone.flops["training"]
    assert taught.flops["scoring"] > 3 * alone.flops["scoring"]
    assert taught.seconds["scoring"] > alone.seconds["scoring"]
    grown = taught.flops["generation"] / alone.flops["generation"]
    assert grown == 1 if on_policy else grown > 3
    slower = taught.seconds["generation"] / alone.seconds["generation"]
    assert slower == pytest.approx(1) if on_policy else slower > 1.1  # reading the cache dominates


def test_narrow_formats_and_drafted_tokens_save_time_and_not_flops() -> None:
    stage = Rl(name="t", domains=MATH)
    plain = _bill(stage, "math")
    fp8 = Machine(model=DENSE.model, gpu=DENSE.gpu, precision="fp8")
    for machine in (fp8, Machine(model=DENSE.model, gpu=DENSE.gpu, speculative_factor=1.8)):
        found = _bill(stage, "math", machine=machine)
        assert found.seconds["generation"] < plain.seconds["generation"]
        assert found.flops == plain.flops
    narrow = _bill(stage, "math", machine=fp8)
    assert narrow.seconds["training"] < plain.seconds["training"]


def test_a_stages_own_length_replaces_its_domains() -> None:
    stage = Rl(name="t", domains=MATH)
    usual, own = (
        bill(stage, AMOUNTS, {"math": domain("math")}, DENSE, gpus=32, response_tokens=length)
        for length in (None, 40_000.0)
    )
    assert own.generated_tokens == pytest.approx(4 * usual.generated_tokens)
    assert own.mean_length == 40_000 and sum(own.seconds.values()) > 3 * sum(usual.seconds.values())


PLAIN = Rl(name="t", domains={"math": 1.0}, zero_signal="keep")
PPO = Rl(name="t", domains={"math": 1.0}, algorithm="ppo")


def test_a_separate_value_model_is_trained_and_scored_in_proportion_to_its_size() -> None:
    own = _bill(PPO, "math")
    small, same = (
        _bill(PPO, "math", machine=replace(DENSE, value_model=model(name)))
        for name in ("Qwen3-1.7B", "Qwen3-8B")
    )
    assert same.seconds["training"] == pytest.approx(2 * own.seconds["training"])
    share = model("Qwen3-1.7B").active_parameters / DENSE.model.active_parameters
    assert small.seconds["training"] == pytest.approx((1 + share) * own.seconds["training"])
    assert own.seconds["scoring"] < small.seconds["scoring"] < same.seconds["scoring"]
    assert _bill(PLAIN, "math", machine=replace(DENSE, value_model=model("Qwen3-8B"))) == _bill(PLAIN, "math")


def test_epochs_train_a_batch_again_and_sample_it_once() -> None:
    once, twice = (_bill(PLAIN, "math", machine=replace(DENSE, epochs=epochs)) for epochs in (1, 2))
    assert twice.seconds["training"] == pytest.approx(2 * once.seconds["training"])
    assert twice.seconds["generation"] == once.seconds["generation"]
    assert twice.flops["training"] == pytest.approx(2 * once.flops["training"])


def test_samples_that_are_thrown_away_cost_their_generation_alone() -> None:
    kept, thrown = (
        _bill(PLAIN, "math", machine=replace(DENSE, sampled_per_trained=ratio)) for ratio in (1.0, 2.0)
    )
    assert kept.seconds["generation"] < thrown.seconds["generation"] <= 2.01 * kept.seconds["generation"]
    assert thrown.seconds["training"] == kept.seconds["training"]
    assert thrown.flops["generation"] == pytest.approx(2 * kept.flops["generation"])


def test_environments_take_turns_where_slots_are_few() -> None:
    stage = Rl(name="t", domains={"swe": 1.0})
    all_, quarter = (
        _bill(stage, "swe", machine=replace(DENSE, environment_slots=slots)) for slots in (None, 128)
    )
    waiting = 100 * domain("swe").turns * domain("swe").environment_seconds.value
    assert quarter.seconds["generation"] - all_.seconds["generation"] == pytest.approx(3 * waiting, rel=0.02)


def test_adapters_alone_have_no_gradient_of_the_frozen_weights() -> None:
    full, lora = (_bill(PLAIN, "math", machine=replace(DENSE, lora=flag)) for flag in (False, True))
    assert lora.flops["training"] == pytest.approx(full.flops["training"] * 2 / 3)
    assert lora.seconds["training"] < full.seconds["training"]
    assert lora.seconds["fixed"] < full.seconds["fixed"]  # adapters alone are handed over
    assert lora.stored_bytes == pytest.approx(0.01 * full.stored_bytes)


def test_the_best_split_of_two_pools_is_no_slower_than_halves() -> None:
    two = replace(DENSE, overlap="asynchronous", lag=4)
    searched = _bill(PLAIN, "math", machine=two)
    for share in (0.25, 0.5, 0.75):
        given = _bill(PLAIN, "math", machine=replace(two, trainer_share=share))
        assert sum(searched.seconds.values()) <= sum(given.seconds.values()) * (1 + 1e-9)
    assert "train," in searched.layout


def test_two_pools_that_take_turns_are_slower_than_one_that_does_both() -> None:
    """Tulu 3 405B: 16 of 256 GPUs sample, 240 train, one after the other."""
    together, apart = (
        _bill(PLAIN, "math", machine=replace(DENSE, trainer_share=share)) for share in (None, 0.75)
    )
    for phase in ("generation", "training"):
        assert apart.seconds[phase] > together.seconds[phase]
    assert "train," in apart.layout


def test_what_tools_write_is_read_and_trained_but_not_sampled() -> None:
    quiet = domain("swe")
    tools = replace(quiet, tool_tokens=20_000)
    stage = Rl(name="t", domains={"swe": 1.0})
    without, with_tools = (bill(stage, AMOUNTS, {"swe": row}, DENSE, gpus=32) for row in (quiet, tools))
    assert with_tools.generated_tokens == without.generated_tokens
    assert with_tools.gradient_tokens == without.gradient_tokens
    assert with_tools.trained_tokens > 1.5 * without.trained_tokens
    for phase in ("generation", "training"):
        assert with_tools.seconds[phase] > without.seconds[phase]
