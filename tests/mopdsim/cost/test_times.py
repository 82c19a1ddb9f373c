"""Time models: limits, monotony, recovered parameters, and the published effects they must show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopdsim.base.errors import InfeasibleError, UsageError
from mopdsim.cost.constants import DecodeConstants, RlConstants, TrainConstants
from mopdsim.cost.generation import (
    Lengths,
    Replica,
    Speculation,
    cache_slots,
    decode_step_s,
    decode_work,
    generation_s,
    roofline_step_s,
)
from mopdsim.cost.rlstep import RlStep, fastest_split, rl_step_s, weight_sync_s
from mopdsim.cost.training import LORA_SHARE, TrainLayout, roofline_train_s, train_step_s, train_work
from mopdsim.facts.hardware import gpu, gpus
from mopdsim.facts.model import model, models

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


def test_narrower_weights_and_cache_move_half_the_bytes() -> None:
    wide = decode_work(QWEN, H100, Replica(), batch=32, context=1000)
    narrow = decode_work(QWEN, H100, Replica(precision="fp8", cache_precision="fp8"), batch=32, context=1000)
    assert narrow.dense_weight_bytes == wide.dense_weight_bytes / 2
    assert float(narrow.cache_bytes_per_sequence) == float(wide.cache_bytes_per_sequence) / 2
    assert narrow.dense_flops_per_s == H100.fp8_flops_per_s
    assert decode_step_s(narrow, IDEAL_DECODE) == pytest.approx(decode_step_s(wide, IDEAL_DECODE) / 2)


def test_speculation_verifies_at_the_price_of_one_read() -> None:
    """Three drafted tokens, of each of which four in five are accepted (Leviathan et al., equation 1). While weights
    rule, a step costs what it did, plus drafting; once FLOPs rule, four times as much."""
    drafts = Speculation(drafted=3, tokens_per_step=(1 - 0.8**4) / 0.2, draft_cost=0.1)
    plain, drafting = Replica(), Replica(speculation=drafts)
    for batch, times in ((1, 1.0), (4096, 4.0)):
        one, many = (
            float(decode_step_s(decode_work(QWEN, H100, replica, batch=batch, context=0), IDEAL_DECODE))
            for replica in (plain, drafting)
        )
        assert many == pytest.approx(1.3 * times * one)
    woken = [decode_work(MOE, H100, r, batch=1, context=1).expert_weight_bytes for r in (plain, drafting)]
    share = [float(w) / (2 * MOE.routed_parameters) for w in woken]
    assert share == pytest.approx([1 - (1 - 8 / 128), 1 - (1 - 8 / 128) ** 4])


def generate(samples: float, replica: Replica | None = None, **changes: object) -> float:
    arguments: dict[str, object] = {"lengths": LENGTHS, "prompt_length": 200, **changes}
    served = replica or Replica()
    return float(generation_s(QWEN, H100, served, DECODE, samples_per_replica=samples, **arguments))  # type: ignore[arg-type]


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


@pytest.mark.parametrize(("samples", "drain"), [(64.0, True), (20_000.0, True), (64.0, False)])
def test_replicas_side_by_side_say_what_each_says(samples: float, drain: bool) -> None:
    """A dense model of 70 B: with attention on every GPU it does not fit."""
    large = model("Llama-3.1-70B")
    like = Replica(gpus=8, speculation=Speculation(drafted=1, tokens_per_step=1.5))
    splits = [(8, 1), (8, 8), (16, 2), (64, 8)]
    grid = Replica.side_by_side(
        [replace(like, gpus=size, attention_replicas=split) for size, split in splits]
    )
    many_R1 = 64 // grid.gpus

    def seconds(replica: Replica, many: Any) -> Any:
        return generation_s(
            large, H100, replica, DECODE, samples_per_replica=samples / many, lengths=LENGTHS, prompt_length=200,
            slowest_of=many, drain=drain,
        )  # fmt: skip

    together_R = seconds(grid, many_R1)
    for (size, split), value in zip(splits, together_R, strict=True):
        replica = replace(like, gpus=size, attention_replicas=split)
        if np.isfinite(value):
            assert value == pytest.approx(float(seconds(replica, 64 // replica.gpus)), rel=1e-12)
        else:
            with pytest.raises(InfeasibleError):
                seconds(replica, 64 // replica.gpus)
    assert np.isfinite(together_R).tolist() == [True, False, True, True]


def test_speculation_saves_steps_and_streams_do_not_wait() -> None:
    drafts = Speculation(drafted=2, tokens_per_step=2.5)
    gained = generate(64) / generate(64, Replica(speculation=drafts))
    assert 1.5 < gained < 2.5
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


def test_data_parallel_rings_share_the_network_cards_of_a_node() -> None:
    """Two bytes of gradients out and two of weights back per parameter: eight members on a node share its eight cards,
    a tensor group of eight leaves one card a ring."""
    n = QWEN.total_parameters
    spread = train_work(QWEN, H100, TrainLayout(gpus=16), sequences=64, mean_length=4096)
    assert spread.data_s_per_step == pytest.approx(4 * n / (8 * H100.scale_out_bytes_per_s))
    tensor = train_work(QWEN, H100, TrainLayout(gpus=16, tensor=8), sequences=64, mean_length=4096)
    assert tensor.data_s_per_step == pytest.approx(4 * n / 8 / H100.scale_out_bytes_per_s)
    node = train_work(QWEN, H100, TrainLayout(gpus=8), sequences=64, mean_length=4096)
    assert node.data_s_per_step == pytest.approx(4 * n / H100.scale_up_bytes_per_s)


def test_weight_sync_is_a_share_of_the_weights_over_one_link() -> None:
    """Hand-computed: on shared GPUs a replica of two takes half the weights within the node; between pools the same
    half crosses the network, or the single copy leaves a small trainer, whichever is slower. Adapters are small."""
    weights = 2.0 * QWEN.total_parameters
    shared = rl_step(replica=Replica(gpus=2))
    assert weight_sync_s(shared) == pytest.approx(weights / 2 / H100.scale_up_bytes_per_s)
    apart = rl_step(replica=Replica(gpus=2), overlap="one_step_off", layout=TrainLayout(gpus=8))
    assert weight_sync_s(apart) == pytest.approx(weights / 2 / H100.scale_out_bytes_per_s)
    thin = rl_step(replica=Replica(gpus=8), overlap="one_step_off", layout=TrainLayout(gpus=2, tensor=2))
    assert weight_sync_s(thin) == pytest.approx(weights / 2 / H100.scale_out_bytes_per_s)
    narrow = rl_step(replica=Replica(gpus=2, precision="fp8"))
    assert weight_sync_s(narrow) == weight_sync_s(shared) / 2
    adapters = rl_step(replica=Replica(gpus=2), layout=TrainLayout(gpus=16, lora=True))
    assert weight_sync_s(adapters) == pytest.approx(LORA_SHARE * weight_sync_s(shared))
    wide = rl_step(replica=Replica(gpus=2), layout=TrainLayout(gpus=16, fully_sharded=True))
    assert weight_sync_s(wide) == pytest.approx(weights / 2 / H100.scale_out_bytes_per_s)


def test_overlap_is_the_longer_of_two_pools() -> None:
    half = {"generation_gpus": 8, "layout": TrainLayout(gpus=8)}
    off = rl_step_s(rl_step(overlap="one_step_off", **half), DECODE, TRAIN, RL)
    sync = rl_step_s(rl_step(**half), DECODE, TRAIN, RL)
    assert off.generation <= sync.generation  # GPUs of its own leave the engine more memory
    longer = max(float(off.generation), float(sync.scoring + sync.training))
    assert float(off.step) == pytest.approx(longer + float(sync.fixed) + float(off.sync))
    assert float(sync.step) == pytest.approx(
        sum(float(getattr(sync, name)) for name in ("generation", "scoring", "training", "fixed", "sync"))
    )
    asynchronous = rl_step_s(rl_step(overlap="asynchronous", **half), DECODE, TRAIN, RL)
    assert float(asynchronous.step) <= float(off.step) <= float(sync.step)


def test_the_fastest_split_beats_every_other() -> None:
    step = rl_step(overlap="one_step_off", replica=Replica(gpus=2), layout=TrainLayout(gpus=2, tensor=2))
    best = fastest_split(step, DECODE, TRAIN, RL, gpus=16)
    assert best.generation_gpus + best.layout.gpus == 16
    seconds = [
        float(
            rl_step_s(
                replace(step, generation_gpus=16 - n, layout=replace(step.layout, gpus=n)), DECODE, TRAIN, RL
            ).step
        )
        for n in range(2, 16, 2)
    ]
    assert float(rl_step_s(best, DECODE, TRAIN, RL).step) == min(seconds)
    assert min(seconds) < 0.95 * max(seconds)
    with pytest.raises(UsageError, match="cannot be split"):
        fastest_split(step, DECODE, TRAIN, RL, gpus=3)
    with pytest.raises(UsageError, match="synchronous"):
        fastest_split(replace(step, overlap="synchronous"), DECODE, TRAIN, RL, gpus=16)


def test_more_gpus_gain_almost_nothing_once_the_longest_sample_rules() -> None:
    """Published: doubling the GPUs of a small batch of long rollouts barely shortens the step."""
    few, many = (
        rl_step_s(rl_step(generation_gpus=n, layout=TrainLayout(gpus=n), samples=64), DECODE, TRAIN, RL)
        for n in (32, 64)
    )
    assert float(few.step) < 1.3 * float(many.step)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replica(gpus=0), "must be positive"),
        (lambda: Replica(gpus=8, attention_replicas=3), "multiple"),
        (lambda: Replica(precision="int4"), "int4"),
        (lambda: Replica(cache_precision="fp4"), "cache precision is 'fp4'"),
        (lambda: Speculation(drafted=2, tokens_per_step=3.5), "tokens_per_step <= 1"),
        (lambda: Speculation(drafted=0, tokens_per_step=1.0), "drafts 0"),
        (lambda: TrainLayout(gpus=8, precision="int8"), "int8"),
        (lambda: Lengths(mean=10, maximum=5), "mean <= maximum"),
        (lambda: Lengths(mean=float("nan"), maximum=5), "nan"),
        (lambda: TrainLayout(gpus=8, tensor=3), "multiple"),
        (lambda: TrainLayout(gpus=8, tensor=0), "at least 1"),
        (lambda: rl_step(overlap="sometimes"), "sometimes"),
        (lambda: rl_step(samples=0), "positive"),
        (lambda: train_work(QWEN, H100, TrainLayout(gpus=1), sequences=0, mean_length=10), "positive"),
    ],
)
def test_nonsense_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_a_model_that_cannot_be_served_says_by_how_much() -> None:
    with pytest.raises(InfeasibleError, match=r"lacks [\d,]+ GB per GPU"):
        cache_slots(model("deepseek-ai/DeepSeek-V3"), H100, Replica(gpus=8), context=1000)


def test_an_engine_beside_a_trainer_has_less_room_for_its_cache() -> None:
    """Qwen3-32B on one GB200: at .6 of the memory the cache of 128 answers does not fit at once."""
    large, card = model("Qwen3-32B"), gpu("GB200")

    def seconds(share: float) -> float:
        return float(
            generation_s(
                large, card, Replica(), DECODE, samples_per_replica=128, prompt_length=200, memory_share=share,
                lengths=Lengths(mean=3253, maximum=4096),
            )
        )  # fmt: skip

    assert seconds(0.6) > 1.2 * seconds(0.9)
    # A share that would not hold one sequence is raised to what is usable: people raise it too.
    assert cache_slots(large, H100, Replica(), context=100, memory_share=0.6) == cache_slots(
        large, H100, Replica(), context=100
    )
