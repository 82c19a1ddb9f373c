"""Time models: limits, monotony, recovered parameters, and the published effects they must show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants, shipped
from mopdsim.cost.decode import Replica, decode_step_s, decode_work, roofline_step_s
from mopdsim.cost.generation import Lengths, cache_slots, generation_s
from mopdsim.cost.rlstep import RlStep, rl_step_s, scoring_s, teacher_scoring_s
from mopdsim.cost.training import TrainLayout, roofline_train_s, train_step_s, train_work
from mopdsim.errors import InfeasibleError, UsageError
from mopdsim.hardware import gpu, gpus
from mopdsim.model import model, models

QWEN = model("Qwen/Qwen3-8B")
MOE = model("Qwen/Qwen3-30B-A3B")
H100 = gpu("H100")
DECODE, TRAIN, RL = DecodeConstants.shipped(), TrainConstants.shipped(), RlConstants.shipped()
IDEAL_DECODE = DecodeConstants(
    bandwidth_efficiency=1.0,
    flops_efficiency=1.0,
    prefill_efficiency=1.0,
    layer_s=0.0,
    moe_layer_s=0.0,
    reduce_latency_s=0.0,
    reduce_bytes=0.0,
    sequence_s=0.0,
)
LENGTHS = Lengths(mean=2000, maximum=8192)


def rl_step(**changes: object) -> RlStep:
    step = RlStep(
        model=QWEN,
        gpu=H100,
        replica=Replica(),
        generation_gpus=16,
        layout=TrainLayout(gpus=16),
        samples=1024,
        lengths=LENGTHS,
    )
    return replace(step, **changes)  # type: ignore[arg-type]


def test_without_overheads_a_decode_step_is_the_roofline() -> None:
    work = decode_work(QWEN, H100, Replica(), batch=[1.0, 64.0, 4096.0], context=1000.0)
    assert decode_step_s(work, IDEAL_DECODE) == pytest.approx(roofline_step_s(work))
    weights = 2 * QWEN.matmul_parameters / H100.memory_bytes_per_s
    cache = 1000 * QWEN.kv_bytes_per_token() / H100.memory_bytes_per_s
    assert decode_step_s(work, IDEAL_DECODE)[0] == pytest.approx(weights + cache)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(models())),
    card=st.sampled_from(sorted(gpus())),
    degree=st.sampled_from([1, 2, 4, 8, 16]),
    batch=st.floats(1, 4096),
    context=st.floats(1, 1e5),
)
def test_decode_steps_are_above_the_roofline_and_grow(
    name: str, card: str, degree: int, batch: float, context: float
) -> None:
    chosen, replica = model(name), Replica(gpus=degree)
    work = decode_work(chosen, gpu(card), replica, batch=[batch, 2 * batch], context=context)
    once, twice = decode_step_s(work, DECODE)
    assert 0 < once <= twice * (1 + 1e-12)
    assert once >= roofline_step_s(work)[0]
    longer = decode_work(chosen, gpu(card), replica, batch=batch, context=2 * context)
    assert decode_step_s(longer, DECODE) >= once * (1 - 1e-12)


def test_more_gpus_per_replica_help_less_and_less() -> None:
    work = [decode_work(QWEN, H100, Replica(gpus=n), batch=8, context=1000) for n in (1, 2, 4, 8)]
    seconds = [float(decode_step_s(w, DECODE)) for w in work]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[3] < 4


def test_a_large_batch_of_a_sparse_model_reads_every_expert() -> None:
    small, large = (decode_work(MOE, H100, Replica(), batch=b, context=1) for b in (1, 10_000))
    routed = MOE.routed_parameters
    assert float(small.expert_weight_bytes) == pytest.approx(2 * routed * 8 / 128)
    assert float(large.expert_weight_bytes) == pytest.approx(2 * routed, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.02, 0.98), sigma=st.floats(0.05, 1.5), maximum=st.floats(64, 1e5))
def test_length_distributions_keep_their_mean(share: float, sigma: float, maximum: float) -> None:
    lengths = Lengths(mean=share * maximum, maximum=maximum, sigma=sigma)
    tokens = np.linspace(0, maximum, 20_001)
    survival = lengths.survival(tokens)
    assert np.trapezoid(survival, tokens) == pytest.approx(lengths.mean, rel=5e-3)
    assert np.all(np.diff(survival) <= 1e-12)


def test_lengths_read_off_a_table_equal_those_solved_one_by_one() -> None:
    sigmas = np.linspace(0.3, 0.9, 200)
    many = Lengths(mean=2000, maximum=8192, sigma=sigmas).survival([1000.0])
    one = [float(Lengths(mean=2000, maximum=8192, sigma=s).survival([1000.0])[0]) for s in sigmas[::20]]
    assert many[::20, 0] == pytest.approx(one, abs=1e-4)


def generate(samples: float, **changes: object) -> float:
    arguments: dict[str, object] = {"lengths": LENGTHS, "prompt_length": 200, **changes}
    return float(generation_s(QWEN, H100, Replica(), DECODE, samples_per_replica=samples, **arguments))  # type: ignore[arg-type]


def test_generation_waits_for_its_longest_sample() -> None:
    """With one sample the expected steps are its mean length; with many, the maximum."""
    step = float(decode_step_s(decode_work(QWEN, H100, Replica(), batch=1, context=200 + 2000), DECODE))
    assert generate(1) == pytest.approx(2000 * step, rel=0.05)
    assert generate(256) > 8000 * step
    tokens = generate(64) * 2, generate(128)
    assert tokens[1] < tokens[0]


def test_the_generation_integral_equals_a_fine_sum() -> None:
    tokens = (np.arange(4096) + 0.5) * LENGTHS.maximum / 4096
    survival = LENGTHS.survival(tokens)
    work = decode_work(QWEN, H100, Replica(), batch=np.maximum(64 * survival, 1.0), context=200 + tokens)
    alive = 1 - (1 - survival) ** 64
    fine = float((decode_step_s(work, DECODE) * alive).sum() * LENGTHS.maximum / 4096)
    assert generate(64) == pytest.approx(fine, rel=2e-3)


def test_a_cache_that_does_not_fit_queues_the_samples() -> None:
    """Continuous batching: eight times the slots take eight mean lengths of full steps and one drain."""
    slots = cache_slots(QWEN, H100, Replica(), context=2200)
    full = float(decode_step_s(decode_work(QWEN, H100, Replica(), batch=slots, context=1200), DECODE))
    steady = 8 * 2000 * full
    assert steady < generate(8 * slots) < steady + generate(slots)


def test_speculation_divides_and_streams_do_not_wait() -> None:
    assert generate(64, tokens_per_step=2.5) == pytest.approx(generate(64) / 2.5)
    assert generate(64, drain=False) < generate(64)


def test_training_is_above_the_roofline_at_full_efficiency() -> None:
    for chosen in (QWEN, MOE):
        work = train_work(chosen, H100, TrainLayout(gpus=8), sequences=64, mean_length=4096)
        assert train_step_s(work, TRAIN) > roofline_train_s(work, mfu=1.0)


def test_training_effects_have_the_right_sign() -> None:
    def seconds(**changes: object) -> float:
        layout = replace(TrainLayout(gpus=16), **changes)  # type: ignore[arg-type]
        return float(train_step_s(train_work(QWEN, H100, layout, sequences=64, mean_length=4096), TRAIN))

    assert seconds(lora=True) < seconds() < seconds(recompute=True)
    assert seconds(precision="fp8") < seconds()
    assert seconds(tensor=8) > seconds(tensor=2) > seconds()
    assert seconds(pipeline=4) > seconds(pipeline=4, virtual_stages=4)
    assert seconds(gpus=32) < seconds() < 2.2 * seconds(gpus=32)


def test_overlap_is_the_longer_of_two_pools() -> None:
    half = {"generation_gpus": 8, "layout": TrainLayout(gpus=8)}
    off = rl_step_s(rl_step(overlap="one_step_off", **half), DECODE, TRAIN, RL)
    sync = rl_step_s(rl_step(**half), DECODE, TRAIN, RL)
    longer = max(float(sync.generation), float(sync.scoring + sync.training))
    assert float(off.step) == pytest.approx(longer + float(sync.fixed))
    asynchronous = rl_step_s(rl_step(overlap="asynchronous", **half), DECODE, TRAIN, RL)
    assert float(asynchronous.step) <= float(off.step) <= float(sync.step)


def test_more_gpus_gain_almost_nothing_once_the_longest_sample_rules() -> None:
    """Published: doubling the GPUs of a small batch of long rollouts barely shortens the step."""
    few, many = (
        rl_step_s(rl_step(generation_gpus=n, layout=TrainLayout(gpus=n), samples=64), DECODE, TRAIN, RL)
        for n in (32, 64)
    )
    assert float(few.step) < 1.3 * float(many.step)


def test_draws_broadcast_and_centre_on_the_constants() -> None:
    rng = np.random.default_rng(0)
    sets = [shipped()[kind].draws(500, rng) for kind in ("decode", "train_throughput", "rl_steps")]
    drawn = rl_step_s(rl_step(), *sets).step  # type: ignore[arg-type]
    assert drawn.shape == (500,)
    assert np.median(drawn) == pytest.approx(float(rl_step_s(rl_step(), DECODE, TRAIN, RL).step), rel=0.05)
    one = [replace(s, **{n: getattr(s, n)[7] for n in s.names()}) for s in sets]
    assert float(rl_step_s(rl_step(), *one).step) == pytest.approx(drawn[7], rel=1e-3)  # type: ignore[arg-type]


def test_teachers_score_in_turn_or_side_by_side() -> None:
    layout = TrainLayout(gpus=8)
    one = scoring_s(QWEN, H100, layout, TRAIN, sequences=64, mean_length=2000)
    assert teacher_scoring_s([one, one, one], load_s=[1.0, 1.0, 1.0]) == pytest.approx(3 * one + 3)
    assert teacher_scoring_s([one, 2 * one], dedicated=True) == pytest.approx(2 * one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replica(gpus=0), "must be positive"),
        (lambda: Replica(gpus=8, attention_replicas=3), "multiple"),
        (lambda: Replica(precision="int4"), "int4"),
        (lambda: Lengths(mean=10, maximum=5), "mean <= maximum"),
        (lambda: Lengths(mean=float("nan"), maximum=5), "nan"),
        (lambda: TrainLayout(gpus=8, tensor=3), "multiple"),
        (lambda: TrainLayout(gpus=8, tensor=0), "at least 1"),
        (lambda: rl_step(overlap="sometimes"), "sometimes"),
        (lambda: rl_step(samples=0), "positive"),
        (lambda: generate(-1), "must be positive"),
        (lambda: train_work(QWEN, H100, TrainLayout(gpus=1), sequences=0, mean_length=10), "positive"),
    ],
)
def test_nonsense_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_a_model_that_cannot_be_served_says_by_how_much() -> None:
    with pytest.raises(InfeasibleError, match=r"lacks [\d,]+ GB"):
        cache_slots(model("deepseek-ai/DeepSeek-V3"), H100, Replica(gpus=8), context=1000)
