"""Checkpoints: what is saved comes back bit for bit, and a damaged one is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import hurt, quota
from torch import nn

from mopdsim.base.errors import MopdError
from trainer.files import checkpoint


class Tied(nn.Module):
    """An embedding and a head that are one matrix, as in most small language models."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(3, 4, bias=False)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x_N3: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x_N3)))


def training(seed: int) -> tuple[Tied, torch.optim.AdamW]:
    model = Tied(seed)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def step(model: Tied, optimizer: torch.optim.AdamW, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    model(torch.randn(5, 3, generator=generator)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def weights(model: Tied) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def save(directory: Path, number: int, model: Tied, optimizer: torch.optim.AdamW, **state: Any) -> None:
    checkpoint.save(directory, step=number, model=model, optimizer=optimizer, state=state)


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = training(0)
    for number in range(3):
        step(model, optimizer, number)
    save(tmp_path, 3, model, optimizer, owed={"sort": 1 / 3})
    for number in range(3, 6):
        step(model, optimizer, number)

    other, its_optimizer = training(1)
    state = checkpoint.load_latest(tmp_path, model=other, optimizer=its_optimizer)
    assert state == {"owed": {"sort": 1 / 3}, "step": 3}
    assert other.head.weight is other.embed.weight
    for number in range(3, 6):
        step(other, its_optimizer, number)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, optimizer = training(0)
    save(tmp_path, 1, model, optimizer)
    assert set(load_file(tmp_path / "step_00000001" / "model.safetensors")) == {
        "embed.weight",
        "body.weight",
        "body.bias",
    }


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    model, optimizer = training(0)
    assert checkpoint.load_latest(tmp_path / "none", model=model, optimizer=optimizer) is None


def test_two_are_kept(tmp_path: Path) -> None:
    model, optimizer = training(0)
    for number in range(1, 5):
        step(model, optimizer, number)
        save(tmp_path, number, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000004"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_newest_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    model, optimizer = training(0)
    for number in (1, 2):
        step(model, optimizer, number)
        save(tmp_path, number, model, optimizer)
        if number == 1:
            first = weights(model)
    hurt(tmp_path / "step_00000002" / file, damage)
    other, its_optimizer = training(1)
    state = checkpoint.load_latest(tmp_path, model=other, optimizer=its_optimizer)
    assert state is not None and state["step"] == 1
    assert all(torch.equal(a, b) for a, b in zip(first, weights(other), strict=True))
    step(other, its_optimizer, 2)
    save(tmp_path, 2, other, its_optimizer)  # in the damaged one's place
    assert json.loads((tmp_path / "step_00000002" / "state.json").read_text())["step"] == 2
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


@pytest.mark.parametrize("size", [100, 700, 1500, 2200])  # weights that do not fit; states of an optimiser
def test_a_full_disk_keeps_the_one_before(tmp_path: Path, size: int) -> None:
    model, optimizer = training(0)
    step(model, optimizer, 1)
    save(tmp_path, 1, model, optimizer)
    before = weights(model)
    step(model, optimizer, 2)
    with quota(size), pytest.raises(MopdError, match=r"step_00000002: cannot be written"):
        save(tmp_path, 2, model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    other, its_optimizer = training(1)
    assert checkpoint.load_latest(tmp_path, model=other, optimizer=its_optimizer) is not None
    assert all(torch.equal(a, b) for a, b in zip(before, weights(other), strict=True))
