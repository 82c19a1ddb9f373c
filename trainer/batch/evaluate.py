"""Scores on fixed prompts: pass rate per domain with its standard error, lengths, truncation, entropy, KL.

The prompts are the same for every model and stage, and so are the random numbers that pick the tokens, which makes
differences between models sharper than their levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.batch.batch import Batch, graded_by_score, sample
from trainer.batch.meter import Meter
from trainer.batch.score import kl_sum, score
from trainer.model.policy import Policy
from trainer.tasks import Split, Task

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
    micro_batch_rows: int | None = None,
) -> dict[str, dict[str, float]]:
    """By domain: pass_rate (mean score), its se, n, length (sampled tokens), truncated (share), entropy (nats a token,
    estimated on the samples) and kl_NAME: KL(policy || reference NAME) in nats a token over the full vocabulary.

    Each reference is looked up once, so `references` may load them on demand.
    """
    with meter.phase("evaluation", policy.device):
        batches = {
            name: sampled(policy, name, task, split, items, temperature=temperature, meter=meter)
            for name, task in tasks.items()
        }
        rows = {name: _described(own, items) for name, own in batches.items()}
        for reference in references:
            scorer = references[reference]
            for name, own in batches.items():
                total = 0.0
                for batch in own:
                    own_scored, other = (
                        score(reader, batch.rollouts, micro_batch_rows=micro_batch_rows)
                        for reader in (policy, scorer)
                    )
                    total += kl_sum(own_scored, other, batch.rollouts, temperature=temperature)
                    meter.count("evaluation", policy, batch.rollouts, passes=2)
                rows[name][f"kl_{reference}"] = total / max(_tokens(own), 1)
            del scorer
    return rows


def sampled(
    policy: Policy,
    name: str,
    task: Task,
    split: Split,
    items: int,
    *,
    temperature: float,
    meter: Meter,
    rollouts_per_prompt: int = 1,
) -> list[Batch]:
    """A domain's fixed prompts answered and graded, some rows at a time."""
    prompts = task.fixed(split, items)
    batches = []
    together = max(1, ROWS // rollouts_per_prompt)
    for start in range(0, items, together):
        chunk = prompts[start : start + together]
        batch = sample(
            policy,
            {name: task},
            chunk,
            domains=[name] * len(chunk),
            rollouts_per_prompt=rollouts_per_prompt,
            temperature=temperature,
            seed=SEED + start,
            grader=graded_by_score,
        )
        meter.count("evaluation", policy, batch.rollouts)
        batches.append(batch)
    return batches


def _described(batches: Sequence[Batch], items: int) -> dict[str, float]:
    rate = sum(float(batch.reward_B.sum()) for batch in batches) / items
    square = sum(float(batch.reward_B.square().sum()) for batch in batches) / items
    return {
        "pass_rate": rate,
        "se": (max(square - rate**2, 0.0) / items) ** 0.5,
        "n": items,
        "length": _tokens(batches) / items,
        "truncated": sum(float(batch.rollouts.truncated_B.sum()) for batch in batches) / items,
        "entropy": -sum(float(batch.rollouts.logprob_BT.sum()) for batch in batches)
        / max(_tokens(batches), 1),
    }


def _tokens(batches: Sequence[Batch]) -> int:
    return sum(int(batch.rollouts.trained_BT.sum()) for batch in batches)
