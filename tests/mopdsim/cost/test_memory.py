"""Memory against published rules, and layouts that are the smallest that fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost.generation import USABLE_MEMORY, Replica, generation_bytes, smallest_replica
from mopdsim.cost.training import (
    LORA_SHARE,
    TrainLayout,
    activation_bytes,
    fitting_training_layouts,
    train_memory,
)
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model

LLAMA = model("Llama-3.1-8B")
H100 = gpu("H100")


def test_eighteen_bytes_a_parameter_and_six_plus_twelve_over_dp() -> None:
    """Megatron-LM's distributed-optimizer table: 18 B, 6 + 12/d B per parameter; fully sharded 18/d."""
    n = LLAMA.total_parameters
    one_layer = 2 / LLAMA.layers  # gathered
    for layout, expected in (
        (TrainLayout(gpus=1), 18.0),
        (TrainLayout(gpus=4), 6 + 12 / 4),
        (TrainLayout(gpus=4, fully_sharded=True), 18 / 4 + one_layer),
        (TrainLayout(gpus=4, tensor=4), 18 / 4),
    ):
        memory = train_memory(LLAMA, layout, length=1024)
        assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(expected * n)


def test_activations_of_a_gpt_layer_agree_with_korthikanti() -> None:
    """arXiv 2205.05198: 34 bytes per token, layer and hidden unit with fused attention; no dropout here."""
    gpt3 = model("GPT-3 175B")
    per_unit = activation_bytes(gpt3, recompute=False) / (gpt3.hidden * gpt3.layers)
    assert per_unit == pytest.approx(34, rel=0.3)
    assert activation_bytes(gpt3, recompute=True) == 2 * gpt3.hidden * gpt3.layers


def test_fp8_narrows_weights_and_inputs_of_products_only() -> None:
    """One byte of weights instead of two; of 9 hidden + 3 widths a layer, all but 2 hidden are halved; gradients and
    optimizer state stay."""
    wide, narrow = (
        train_memory(LLAMA, TrainLayout(gpus=1, precision=p), length=1000) for p in ("bf16", "fp8")
    )
    assert narrow.weights == wide.weights / 2
    assert (narrow.gradients, narrow.optimizer) == (wide.gradients, wide.optimizer)
    kept = 1000 * 32 * (2 * 2 * 4096 + 7 * 4096 + 3 * 14_336)
    assert narrow.activations == kept
    assert wide.activations == 1000 * 32 * 2 * (9 * 4096 + 3 * 14_336)


def test_lora_keeps_the_state_of_its_adapters_only() -> None:
    n = LLAMA.total_parameters
    memory = train_memory(LLAMA, TrainLayout(gpus=1, lora=True), length=1000)
    assert memory.weights == 2 * n
    assert memory.gradients + memory.optimizer == pytest.approx(16 * LORA_SHARE * n)


def test_generation_memory_is_weights_and_cache() -> None:
    empty = generation_bytes(LLAMA, Replica(gpus=2), sequences=0, context=0)
    assert empty == LLAMA.total_parameters
    full = generation_bytes(LLAMA, Replica(gpus=2), sequences=10, context=1000)
    assert full - empty == pytest.approx(10 * 1000 * 131_072 / 2)
    narrow = Replica(gpus=2, precision="fp8", cache_precision="fp8")
    assert generation_bytes(LLAMA, narrow, sequences=10, context=1000) == pytest.approx(full / 2)


@pytest.mark.parametrize(
    ("name", "card", "precision", "expected"),
    [
        ("Llama-3.1-8B", "H100", "bf16", 1),
        ("Llama-3.1-70B", "H100", "bf16", 4),
        ("deepseek-ai/DeepSeek-V3", "H200", "fp8", 8),
        ("deepseek-ai/DeepSeek-V3", "H100", "bf16", 32),
    ],
)
def test_smallest_replicas_that_people_run(name: str, card: str, precision: str, expected: int) -> None:
    found = smallest_replica(model(name), gpu(card), context=8192, sequences=8, precision=precision)
    assert found.gpus == expected


@settings(max_examples=30)
@given(
    name=st.sampled_from(["Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B", "Llama-3.1-70B"]),
    gpus=st.sampled_from([8, 16, 64, 256]),
    length=st.sampled_from([1024, 8192, 32768]),
)
def test_the_layout_found_fits_and_uses_the_gpus(name: str, gpus: int, length: int) -> None:
    chosen = model(name)
    try:
        layout = fitting_training_layouts(chosen, H100, gpus, length=length).at(0)
    except InfeasibleError as error:
        assert "lacks" in str(error)
        return
    assert layout.gpus == gpus
    assert train_memory(chosen, layout, length=length).total <= USABLE_MEMORY * H100.memory_bytes
    assert (
        train_memory(chosen, layout, length=length, resident_models=1).total
        > train_memory(chosen, layout, length=length).total
    )


def test_what_cannot_fit_says_by_how_much() -> None:
    with pytest.raises(InfeasibleError, match=r"for training .*lacks [\d,]+ GB per GPU"):
        fitting_training_layouts(model("Llama-3.1-405B"), H100, 8, length=8192).at(0)
    with pytest.raises(InfeasibleError, match=r"for generation: it lacks [\d,]+ GB per GPU"):
        smallest_replica(model("Llama-3.1-405B"), gpu("A100-40GB"), context=8192, most_gpus=8)


def test_lora_fits_where_full_training_does_not() -> None:
    with pytest.raises(InfeasibleError):
        fitting_training_layouts(model("Qwen/Qwen3-32B"), H100, 4, length=4096).at(0)
    assert fitting_training_layouts(model("Qwen/Qwen3-32B"), H100, 4, length=4096, lora=True).at(0).gpus == 4


def test_experts_stay_within_the_fast_link_when_they_can() -> None:
    moe = model("Qwen/Qwen3-30B-A3B")
    layout = fitting_training_layouts(moe, H100, 64, length=4096).at(0)
    assert 1 < layout.expert * layout.tensor <= H100.scale_up_gpus
    assert not layout.recompute


def test_optimizer_state_of_experts_is_spread_over_their_copies_only() -> None:
    moe = model("Qwen/Qwen3-30B-A3B")
    one_copy = train_memory(moe, TrainLayout(gpus=8, expert=8), length=1)
    two_copies = train_memory(moe, TrainLayout(gpus=16, expert=8), length=1)
    saved = 12 * moe.routed_parameters / 8 / 2 + 12 * (moe.total_parameters - moe.routed_parameters) / 16
    assert one_copy.optimizer - two_copies.optimizer == pytest.approx(saved)
