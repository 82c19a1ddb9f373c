"""A stage's bill against hand counts, and the effects that decide between one mixed run and many
specialists.
"""

from __future__ import annotations

import numpy as np
import pytest

from mopdsim.amounts import Amounts
from mopdsim.domains import domain
from mopdsim.errors import InfeasibleError
from mopdsim.hardware import gpu
from mopdsim.model import model
from mopdsim.recipe import AnyStage, Distill, Merge, Rl, Sft, Teacher
from mopdsim.stage_batch import SIGNAL_SHARE
from mopdsim.stage_cost import Bill, Machine, bill

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
    short_s, long_s = few.seconds_at(np.array([1.0, 2.0]), np.zeros(2))
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
