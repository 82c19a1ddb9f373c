"""Our losses give what the losses of TRL and verl give, value and gradient to 1e-6, on random batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.losses import losses

TOLERANCE = 1e-6
ROWS, TOKENS, HIDDEN, WORDS = 6, 9, 16, 40
BETAS = {"reverse_kl": 1.0, "forward_kl": 0.0, "jensen_shannon": 0.3}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", BETAS)
def test_divergences_are_those_of_trl(name: str, seed: int) -> None:
    pytest.importorskip("trl", reason="the extra `dev` brings trl")
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    draw = torch.Generator().manual_seed(seed)
    student, teacher, head_S, head_T = (
        torch.randn(*shape, generator=draw)
        for shape in ((ROWS, TOKENS, HIDDEN), (ROWS, TOKENS, HIDDEN), (WORDS, HIDDEN), (WORDS, HIDDEN))
    )
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=draw)
    mask = torch.arange(TOKENS) < lengths[:, None]
    weights = losses.token_weights(mask).flatten()

    def ours(hidden: torch.Tensor) -> torch.Tensor:
        logits = (hidden @ head_S.T).flatten(0, 1), (teacher @ head_T.T).flatten(0, 1)
        if name == "jensen_shannon":
            return losses.jensen_shannon(*logits, weights, beta=BETAS[name])[0]
        return getattr(losses, name)(*logits, weights)[0]

    def theirs(hidden: torch.Tensor) -> torch.Tensor:
        return _chunked_divergence_loss(
            hidden, teacher, head_S, head_T, mask, BETAS[name], num_items_in_batch=int(mask.sum())
        )[0]

    found = []
    for loss in (ours, theirs):
        leaf = student.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        assert leaf.grad is not None
        found.append((value.detach(), leaf.grad))
    (value, gradient), (other, other_gradient) = found
    assert float(gradient.abs().max()) > 1e-3
    torch.testing.assert_close(value, other, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(gradient, other_gradient, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_policy_losses_are_those_of_verl(verl: Path) -> None:
    script = Path(__file__).parents[2] / "support" / "verl_parity.py"
    environment = {**os.environ, "PYTHONPATH": f"{verl}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name.partition(", seed")[0] for name in found} == {
        "grpo, token mean", "grpo, sequence mean", "grpo, no scale", "sampled token", "forward kl",
    }  # fmt: skip
    for name, row in found.items():
        assert row["size"] > 1e-3, name
        assert max(row["value"], row["gradient"], row.get("advantage", 0.0)) < TOLERANCE, (name, row)
