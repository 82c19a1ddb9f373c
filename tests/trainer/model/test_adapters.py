"""Adapters beside a base: the numbers of peft, gradients of autograd, one base in memory for all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import LEAN, VOCAB, policy, prompts
from torch import Tensor

from mopdsim.base.errors import NotFoundError, UsageError
from trainer.batch.rollout import left_pad
from trainer.files import checkpoint
from trainer.model import loading
from trainer.model.adapters import adapted, attach_new
from trainer.model.lean import Lean
from trainer.model.loading import load_policy, save_policy, whole_sha256
from trainer.model.merging import average, merge_directories
from trainer.model.policy import Policy
from trainer.model.tiny import init_model

RANK, LENGTH = 3, 5


def with_adapter(of: Policy, *, seed: int = 0) -> Policy:
    """A new adapter that already says something."""
    attach_new(of.model, RANK, seed=seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in adapted(of.model).values():
            part.lora_B.copy_(torch.randn(part.lora_B.shape, generator=noise) * 0.3)
    return of


def rows(of: Policy) -> tuple[Tensor, Tensor, Tensor]:
    prompt_UP, mask_UP = left_pad(prompts(3), of)
    return prompt_UP, mask_UP, torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(5))


def by_module(of: Policy, prompt_UP: Tensor, mask_UP: Tensor, response_UT: Tensor) -> Tensor:
    whole = [
        of.model(input_ids=torch.cat([p[m], r])[None]).logits[0, int(m.sum()) - 1 : -1]
        for p, m, r in zip(prompt_UP, mask_UP, response_UT, strict=True)
    ]
    return torch.stack(whole)


@pytest.mark.parametrize("architecture", LEAN)
def test_the_lean_path_knows_adapters(architecture: str) -> None:
    of = with_adapter(policy(architecture))
    assert isinstance(of.backbone, Lean)
    batch = rows(of)
    logits, truth = of.logits(of.hidden(*batch)), by_module(of, *batch)
    torch.testing.assert_close(logits, truth, rtol=1e-4, atol=1e-4)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    trained = list(of.parameters())
    assert len(trained) == 2 * 2 * 7  # A and B of seven maps in each of two layers, and nothing else
    for one, other in zip(
        torch.autograd.grad((logits * weight).sum(), trained),
        torch.autograd.grad((truth * weight).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    decoder = of.decoder(batch[0], batch[1], group=1, max_new_tokens=LENGTH)
    with torch.no_grad():
        for t in range(LENGTH):
            torch.testing.assert_close(of.logits(decoder.hidden_BD), truth[:, t], rtol=1e-3, atol=1e-3)
            decoder.step(batch[2][:, t])


def test_a_new_adapter_changes_nothing() -> None:
    of = policy("llama")
    batch = rows(of)
    before = of.logits(of.hidden(*batch))
    attach_new(of.model, RANK, seed=1)
    torch.testing.assert_close(of.logits(of.hidden(*batch)), before, rtol=0, atol=1e-6)


def test_gpt2_has_nothing_to_adapt() -> None:
    with pytest.raises(UsageError, match=r"adapter_rank = 3: GPT2LMHeadModel has no linear layers"):
        attach_new(policy("gpt2").model, RANK, seed=0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    init_model(tmp_path / "base", hidden=32, layers=2)
    return tmp_path / "base"


def made(base: Path, place: Path, *, seed: int) -> Path:
    of = with_adapter(load_policy(base), seed=seed)
    of.frozen_base(base)
    save_policy(of, place)
    return place


def spoken(of: Policy) -> Tensor:
    tokens = torch.tensor([[7, 30, 60, 8]])
    with torch.no_grad():
        return of.logits(of.hidden(tokens[:, :2], tokens[:, :2] > 0, tokens[:, 2:]))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_saved_as_peft_reads_it(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    place = made(base, tmp_path / "a", seed=1)
    assert not list(place.glob("model*.safetensors"))
    theirs = peft.PeftModel.from_pretrained(load_policy(base).model, place)
    tokens = torch.tensor([[7, 30, 60, 8]])
    ours = load_policy(place)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_of_one_base_share_its_weights(base: Path, tmp_path: Path, dtype: str) -> None:
    places = [made(base, tmp_path / str(seed), seed=seed) for seed in range(3)]
    held = [load_policy(place, dtype=dtype).frozen() for place in places]
    first, *others = (
        {p.data_ptr() for n, p in of.model.named_parameters() if "lora" not in n} for of in held
    )
    assert all(other == first for other in others)
    assert len({tuple(spoken(of).flatten().tolist()) for of in held}) == 3
    alone = load_policy(places[0], dtype=dtype, merged=True)
    torch.testing.assert_close(
        spoken(alone), spoken(held[0]), rtol=0, atol=1e-4 if dtype == "float32" else 0.1
    )
    del held, first, others
    assert not loading._bases  # nothing keeps a base that nobody uses


def test_merged_adapters_are_the_merged_weights(base: Path, tmp_path: Path) -> None:
    places = [made(base, tmp_path / str(seed), seed=seed) for seed in range(2)]
    merge_directories(average([1, 3]), base, places, tmp_path / "merged")
    merged = load_policy(tmp_path / "merged").model.state_dict()
    parts = [load_policy(place, merged=True).model.state_dict() for place in places]
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (parts[0][name] + 3 * parts[1][name]) / 4, rtol=1e-5, atol=1e-6)


def test_a_new_adapter_stands_for_its_base_and_a_trained_one_does_not(base: Path, tmp_path: Path) -> None:
    of = load_policy(base)
    attach_new(of.model, RANK, seed=1)
    of.frozen_base(base)
    save_policy(of, tmp_path / "new")
    assert whole_sha256(tmp_path / "new") == whole_sha256(base)
    assert whole_sha256(made(base, tmp_path / "trained", seed=1)) != whole_sha256(base)


def test_a_base_that_is_gone_or_another_is_named(base: Path, tmp_path: Path) -> None:
    place = made(base, tmp_path / "a", seed=1)
    shutil.rmtree(base)
    with pytest.raises(NotFoundError, match=r"its base .*base' is not there: put it back"):
        load_policy(place)
    init_model(base, hidden=64, layers=2)
    with pytest.raises(UsageError, match="made for another base"):
        load_policy(place)
    config: dict[str, Any] = json.loads((place / "adapter_config.json").read_text())
    assert config["r"] == RANK and config["lora_alpha"] == 2 * RANK


def test_a_checkpoint_of_an_adapter_holds_the_adapter(tmp_path: Path) -> None:
    def start(seed: int) -> tuple[Policy, torch.optim.Optimizer]:
        of = with_adapter(policy("llama"), seed=seed)
        return of, torch.optim.AdamW(of.parameters())

    (one, optimizer), (other, fresh) = start(0), start(1)
    checkpoint.save(tmp_path, step=3, model=one.model, optimizer=optimizer, state={})
    assert checkpoint.load_latest(tmp_path, model=other.model, optimizer=fresh) == {"step": 3}
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (tmp_path / "step_00000003/model.safetensors").stat().st_size < 4 * sum(
        p.numel() for p in one.parameters()
    ) + 9000
