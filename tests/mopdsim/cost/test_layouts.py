"""Layouts: what fits still fits on more GPUs, a grid says what single layouts say, and the best layout is never slower
on more GPUs nor faster for more work."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopdsim.base.errors import InfeasibleError
from mopdsim.cost import stage_seconds
from mopdsim.cost.constants import MECHANISMS
from mopdsim.cost.generation import Lengths
from mopdsim.cost.stage_cost import batch_of
from mopdsim.cost.stage_seconds import Machine
from mopdsim.cost.training import (
    LORA_SHARE,
    TrainConstants,
    TrainLayout,
    Update,
    fastest_layouts,
    fastest_scoring,
    fitting_training_layouts,
    scoring_bytes,
    stored_bytes,
    train_memory,
    train_step_s,
    train_work,
    training_constants,
    training_layouts,
)
from mopdsim.facts.domains import domain
from mopdsim.facts.hardware import gpu
from mopdsim.facts.model import model
from mopdsim.recipes.stage import Rl, default_amounts

H100 = gpu("H100")
NAMES = ("Qwen3-1.7B", "Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B", "Llama-3.1-70B", "Llama-3.1-405B")
UNKNOWN = MECHANISMS["unknown"]


def fits(name: str, gpus: int, length: int, *, offload: bool) -> bool:
    try:
        fitting_training_layouts(model(name), H100, gpus, length=length, offload=offload)
    except InfeasibleError:
        return False
    return True


@given(
    name=st.sampled_from(NAMES),
    gpus=st.integers(1, 300),
    more=st.integers(1, 300),
    length=st.sampled_from([512, 8192, 65536]),
    offload=st.booleans(),
)
def test_a_fit_is_never_lost_with_more_gpus(
    name: str, gpus: int, more: int, length: int, offload: bool
) -> None:
    if fits(name, gpus, length, offload=offload):
        assert fits(name, gpus + more, length, offload=offload)


def test_405b_fits_between_powers_of_two() -> None:
    for gpus in (128, 192, 200, 256):
        assert fitting_training_layouts(model("Llama-3.1-405B"), H100, gpus, length=8192).at(0).gpus <= gpus


def seconds(name: str, gpus: int, sequences: float, mean: float) -> float:
    lengths = Lengths(mean=mean, maximum=4 * mean, sigma=0.6)
    update = Update(sequences=sequences, lengths=lengths, packed_to=4 * mean)
    ((layout, *_),) = fastest_layouts(model(name), H100, gpus, [update])
    return float(train_step_s(update.work(model(name), H100, layout), training_constants(UNKNOWN)))


@given(
    name=st.sampled_from(NAMES[:4]),
    gpus=st.sampled_from([8, 16, 24, 32, 64, 96, 128]),
    times=st.sampled_from([2, 3, 4]),
    sequences=st.sampled_from([64.0, 512.0, 4096.0]),
    mean=st.sampled_from([300.0, 2000.0, 8000.0]),
)
def test_the_best_layout_is_no_slower_on_more_gpus_and_no_faster_for_more_work(
    name: str, gpus: int, times: int, sequences: float, mean: float
) -> None:
    try:
        before = seconds(name, gpus, sequences, mean)
    except InfeasibleError:
        return
    assert seconds(name, times * gpus, sequences, mean) <= before * (1 + 1e-9)
    assert seconds(name, gpus, times * sequences, mean) >= before * (1 - 1e-9)


@settings(max_examples=30)
@given(place=st.integers(0, 40), lora=st.booleans(), sequences=st.sampled_from([8.0, 640.0]))
def test_a_grid_says_what_its_layouts_say(place: int, lora: bool, sequences: float) -> None:
    shape = model("Qwen3-30B-A3B")
    grid = training_layouts(shape, H100, 48, lora=lora, offload=True)
    place = place % len(grid.gpus)
    one = grid.at(place)
    together = train_step_s(
        train_work(shape, H100, grid, sequences=sequences, mean_length=900.0), TrainConstants()
    )
    alone = train_step_s(
        train_work(shape, H100, one, sequences=sequences, mean_length=900.0), TrainConstants()
    )
    assert np.broadcast_to(together, grid.gpus.shape)[place] == pytest.approx(float(alone))
    need = train_memory(shape, grid, length=4096).total
    assert need[place] == pytest.approx(float(train_memory(shape, one, length=4096).total))


def test_the_optimizer_goes_to_the_host_only_where_nothing_else_fits() -> None:
    """Sky-T1 trained 32 B on eight H100 with the optimizer offloaded."""
    shape = model("Qwen2.5-32B")
    with pytest.raises(InfeasibleError):
        fitting_training_layouts(shape, H100, 8, length=16384)
    assert fitting_training_layouts(shape, H100, 8, length=16384, offload=True).offload.all()
    sharded = TrainLayout(gpus=8, fully_sharded=True)
    assert train_memory(shape, sharded, length=1).optimizer == pytest.approx(12 * shape.total_parameters / 8)
    assert train_memory(shape, replace(sharded, offload=True), length=1).optimizer == 0


def test_lora_holds_and_stores_its_adapters_alone() -> None:
    shape = model("Qwen3-8B")
    full, lora = (train_memory(shape, TrainLayout(gpus=8, lora=flag), length=1) for flag in (False, True))
    assert lora.optimizer == pytest.approx(LORA_SHARE * full.optimizer)
    assert lora.weights == full.weights
    assert stored_bytes(shape, lora=True) == pytest.approx(LORA_SHARE * stored_bytes(shape))


def test_a_model_that_scores_needs_no_optimizer() -> None:
    """32 B scores on two H100, where it would not be trained; without room for its weights it is refused."""
    shape = model("Qwen3-32B")
    layout, _ = fastest_scoring(shape, H100, 2, 64.0, 2000.0, 8192.0, "bf16")
    assert layout.gpus <= 2
    assert scoring_bytes(shape, layout, length=8192) < train_memory(shape, layout, length=8192).total / 3
    with pytest.raises(InfeasibleError, match=r"for scoring .* lacks"):
        fastest_scoring(model("Llama-3.1-405B"), H100, 8, 64.0, 2000.0, 8192.0, "bf16")


def test_padding_and_launches_make_short_sequences_dear() -> None:
    """A step of as many tokens in sequences ten times as short, unpacked, costs more; packed it does not."""
    shape, layout = model("Llama-3.2-1B"), TrainLayout(gpus=8, fully_sharded=True)

    def took(sequences: float, mean: float, packed_to: float) -> float:
        update = Update(
            sequences=sequences, lengths=Lengths(mean=mean, maximum=4096.0, sigma=0.5), packed_to=packed_to
        )
        return float(train_step_s(update.work(shape, H100, layout), training_constants(UNKNOWN)))

    assert took(1280, 200.0, 0.0) > 2 * took(128, 2000.0, 0.0)
    assert took(1280, 200.0, 4096.0) < 1.2 * took(128, 2000.0, 4096.0)


def test_steps_worked_out_side_by_side_are_those_worked_out_alone() -> None:
    names = ("math", "code", "swe", "chat")
    stages = [
        Rl(name=f"{one}_{other}", domains={one: 1.0, other: 2.0}) for one, other in combinations(names, 2)
    ]
    amounts = default_amounts("small", "rl")
    machine = Machine(model=model("Qwen3-30B-A3B"), gpu=H100)
    batches = [
        batch_of(stage, amounts, {name: domain(name) for name in stage.domains}, overlapped=False)
        for stage in stages
    ]
    stage_seconds.time_together(batches, machine, 64)
    together = [stage_seconds.step_seconds(batch, machine, 64) for batch in batches]
    stage_seconds.forget()
    for (seconds, words, memory), batch in zip(together, batches, strict=True):
        alone = stage_seconds.step_seconds(batch, machine, 64)
        assert alone == (pytest.approx(seconds, rel=1e-12), words, pytest.approx(memory, rel=1e-12))
