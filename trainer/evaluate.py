"""Scores on fixed prompts: pass rate per domain with its standard error, lengths, truncation, entropy, KL.

The prompts are the same for every model and stage, and so are the random numbers that pick the tokens, which makes
differences between models sharper than their levels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.batch import Batch, sample
from trainer.losses import reverse_kl
from trainer.meter import Meter
from trainer.policy import Policy
from trainer.rollout import Rollouts
from trainer.tasks import Split, Task
from trainer.update import hidden_states

ROWS = 512  # sampled side by side
SEED = 20_260_101  # of the tokens, the same for every model


def evaluate(
    policy: Policy,
    tasks: Mapping[str, Task],
    *,
    split: Split,
    items: int,
    temperature: float,
    references: Mapping[str, Policy],
    meter: Meter,
) -> dict[str, dict[str, float]]:
    """By domain: pass_rate, se (binomial), n, length (sampled tokens), truncated (share), entropy (nats a token,
    estimated on the samples) and kl_NAME: KL(policy || reference NAME) in nats a token over the full vocabulary."""
    return {
        name: _evaluate_one(policy, name, task, split, items, temperature, references, meter)
        for name, task in tasks.items()
    }


def _evaluate_one(
    policy: Policy,
    name: str,
    task: Task,
    split: Split,
    items: int,
    temperature: float,
    references: Mapping[str, Policy],
    meter: Meter,
) -> dict[str, float]:
    prompts = task.fixed(split, items)
    sums: dict[str, float] = {"pass": 0.0, "length": 0.0, "truncated": 0.0, "logprob": 0.0}
    sums |= {f"kl_{reference}": 0.0 for reference in references}
    with meter.phase("evaluation", policy.device):
        for start in range(0, items, ROWS):
            chunk = prompts[start : start + ROWS]
            batch = sample(
                policy,
                {name: task},
                chunk,
                domains=[name] * len(chunk),
                rollouts_per_prompt=1,
                temperature=temperature,
                seed=SEED + start,
                grader=lambda task, item, said: task.grade(item, said),
            )
            _add(sums, policy, batch, temperature, references, meter)
    rate, tokens = sums["pass"] / items, max(sums["length"], 1.0)
    return {
        "pass_rate": rate,
        "se": (rate * (1 - rate) / items) ** 0.5,
        "n": items,
        "length": sums["length"] / items,
        "truncated": sums["truncated"] / items,
        "entropy": -sums["logprob"] / tokens,
        **{key: value / tokens for key, value in sums.items() if key.startswith("kl_")},
    }


def _add(
    sums: dict[str, float],
    policy: Policy,
    batch: Batch,
    temperature: float,
    references: Mapping[str, Policy],
    meter: Meter,
) -> None:
    rollouts = batch.rollouts
    meter.count("evaluation", policy, rollouts, passes=1 + (1 + len(references)) * bool(references))
    sums["pass"] += float(batch.reward_B.sum())
    sums["length"] += float(rollouts.trained_BT.sum())
    sums["truncated"] += float(rollouts.truncated_B.sum())
    sums["logprob"] += float(rollouts.logprob_BT.sum())
    for name, value in kl_sums(policy, references, rollouts, temperature=temperature).items():
        sums[f"kl_{name}"] += value


@torch.no_grad()
def kl_sums(
    policy: Policy, references: Mapping[str, Policy], rollouts: Rollouts, *, temperature: float
) -> dict[str, float]:
    """Sum over trained tokens of KL(policy || reference), full vocabulary, for each reference."""
    if not references:
        return {}
    index_N = rollouts.trained_BT.flatten().nonzero().squeeze(1)
    own_NV = _logits_at(policy, rollouts, index_N, temperature)
    weights_N = torch.ones(len(index_N), device=own_NV.device)
    return {
        name: float(reverse_kl(own_NV, _logits_at(reference, rollouts, index_N, temperature), weights_N)[0])
        for name, reference in references.items()
    }


def _logits_at(policy: Policy, rollouts: Rollouts, index_N: Tensor, temperature: float) -> Tensor:
    return policy.logits(hidden_states(policy, rollouts).flatten(0, 1)[index_N]) / temperature
