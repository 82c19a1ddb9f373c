"""SmolLM2-135M where its file is at hand: the lean path in bfloat16 against the module in float32, chat, adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.batch.rollout import generate, turns
from trainer.batch.score import kl_sum, logprobs, score
from trainer.files.settings import Settings
from trainer.model.lean import Lean
from trainer.model.loading import load_policy
from trainer.model.policy import Policy
from trainer.model.sources import about, cached_model
from trainer.stages import preflight

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
NAME = "smollm2-135m"
QUESTIONS = ["What is the capital of France?", "Say hello.", "Name a colour."]


@pytest.fixture(scope="module")
def place() -> Path:
    found = cached_model(NAME)
    if found is None:
        pytest.skip(f"{NAME} is not at hand: mopd train get-model {NAME}")
    return found


@pytest.fixture(scope="module")
def rough(place: Path) -> Policy:
    return load_policy(place, dtype="bfloat16", chat=Settings(system_prompt="none"))


def test_it_is_what_it_says_and_answers(place: Path, rough: Policy) -> None:
    assert about(place)["licence"] == "Apache-2.0"
    assert isinstance(rough.backbone, Lean) and rough.model.num_parameters() == 134_515_008
    (prompt,) = rough.chat.prompts(["Hi"])
    assert rough.tokenizer.decode(prompt) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    rollouts = generate(
        rough,
        rough.chat.prompts(QUESTIONS[:1]),
        rollouts_per_prompt=1,
        max_new_tokens=24,
        temperature=0,
        seed=0,
    )
    assert "Paris" in turns(rough, rollouts)[0][0]


def test_bfloat16_is_float32_within_its_rounding(place: Path, rough: Policy) -> None:
    exact = load_policy(place)
    rollouts = generate(
        rough,
        rough.chat.prompts(QUESTIONS),
        rollouts_per_prompt=2,
        max_new_tokens=16,
        temperature=1.0,
        seed=1,
    )
    tokens = int(rollouts.trained_BT.sum())
    mine = score(rough, rollouts)
    assert kl_sum(score(exact, rollouts), mine, rollouts, temperature=1.0) / tokens < 0.01
    gap_BT = logprobs(mine, rollouts, temperature=1.0) - rollouts.logprob_BT
    assert float(gap_BT.abs().sum()) / tokens < 0.05  # what was sampled is what is scored
    assert abs(float(torch.exp(gap_BT[rollouts.trained_BT]).mean()) - 1) < 0.02


def test_it_passes_what_is_checked_before_training(rough: Policy) -> None:
    assert abs(preflight.alone(rough, QUESTIONS)["self_kl"]) < preflight.SELF_KL_NATS[torch.bfloat16]
