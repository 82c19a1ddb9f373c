"""Scores on fixed prompts: sampled, greedy and best of eight, with standard errors, lengths, truncation, entropy, KL.

The prompts are the same for every model and stage, and so are the random numbers that pick the tokens, which makes
differences between models sharper than their levels. A score is the mean of what the verifier gives, partial credit
included; `full` counts full marks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb

import torch

from trainer.batch.batch import Batch, graded_by_score, sample
from trainer.batch.meter import Meter
from trainer.batch.score import Opened, kl_sum, score
from trainer.model.policy import Policy
from trainer.tasks import Split, Task

ROWS = 512  # sampled side by side
SEED = 20_260_101  # of the tokens, the same for every model
BEST_OF = 8  # samples of pass@8


def evaluate(
    policy: Policy,
    tasks: Mapping[str, Task],
    *,
    split: Split,
    items: int,
    temperature: float,
    references: Mapping[str, Opened],
    meter: Meter,
    samples_per_prompt: int = 1,
    greedy_items: int = 0,
    micro_batch_rows: int | None = None,
    report: Callable[[str], None] = lambda where: None,
) -> dict[str, dict[str, float]]:
    """By domain, of `samples_per_prompt` answers to each of `items` prompts: pass_rate (mean score), its se over
    prompts, n (prompts), full (share with full marks), length (sampled tokens), truncated (share), entropy (nats a
    token, estimated on the samples) and kl_NAME: KL(policy || reference NAME) in nats a token over the full vocabulary,
    on each prompt's first answer. From 8 answers on pass_8: the chance that the best of eight has full marks. With
    `greedy_items`: greedy (mean score of the likeliest answers to so many prompts), greedy_se, greedy_n, greedy_length.

    Each reference is opened once and let go before the next. report: is told what comes next.
    """
    with meter.phase("evaluation", policy.device):
        batches = {
            name: sampled(
                policy,
                name,
                task,
                split,
                items,
                temperature=temperature,
                meter=meter,
                rollouts_per_prompt=samples_per_prompt,
                report=report,
            )
            for name, task in tasks.items()
        }
        rows = {name: _described(own) for name, own in batches.items()}
        for name, task in tasks.items() if greedy_items else ():
            likeliest = sampled(
                policy, name, task, split, greedy_items, temperature=0.0, meter=meter, report=report
            )
            found = _described(likeliest)
            rows[name] |= {
                "greedy": found["pass_rate"],
                "greedy_se": found["se"],
                "greedy_n": greedy_items,
                "greedy_length": found["length"],
            }
        for reference, opened in references.items():
            with opened() as scorer:
                for name, own in batches.items():
                    report(f"{split}: {name}, KL to {reference}")
                    total = tokens = 0.0
                    for batch in own:
                        first = batch.rollouts.rows(slice(None, None, batch.group))
                        own_scored, other = (
                            score(reader, first, micro_batch_rows=micro_batch_rows)
                            for reader in (policy, scorer)
                        )
                        total += kl_sum(own_scored, other, first, temperature=temperature)
                        tokens += int(first.trained_BT.sum())
                        meter.count("evaluation", policy, first, passes=2)
                    rows[name][f"kl_{reference}"] = total / max(tokens, 1)
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
    report: Callable[[str], None] = lambda where: None,
) -> list[Batch]:
    """A domain's fixed prompts answered and graded, some rows at a time."""
    prompts = task.fixed(split, items)
    batches = []
    together = max(1, ROWS // rollouts_per_prompt)
    for start in range(0, items, together):
        report(f"{split}: {name}, prompt {start} of {items}")
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


def error_of_mean(mean: float, square: float, count: float) -> float:
    """The standard error of the mean of so many scores; square: the mean of their squares."""
    return float((max(square - mean**2, 0.0) / count) ** 0.5)


def _described(batches: Sequence[Batch]) -> dict[str, float]:
    """The figures of one domain's batches, all with as many answers to a prompt."""
    group = batches[0].group
    score_UG = torch.cat([batch.reward_B.view(-1, group) for batch in batches])
    passed_UG = score_UG >= 1.0
    score_U, prompts, rows = score_UG.mean(1), len(score_UG), score_UG.numel()
    rate, square = float(score_U.sum()) / prompts, float(score_U.square().sum()) / prompts
    found = {
        "pass_rate": rate,
        "se": error_of_mean(rate, square, prompts),
        "n": prompts,
        "full": float(passed_UG.sum()) / rows,
        "length": _tokens(batches) / rows,
        "truncated": sum(float(batch.rollouts.truncated_B.sum()) for batch in batches) / rows,
        "entropy": -sum(float(batch.rollouts.logprob_BT.sum()) for batch in batches)
        / max(_tokens(batches), 1),
    }
    if group >= BEST_OF:
        missed = [
            comb(group - passed, BEST_OF) / comb(group, BEST_OF) for passed in passed_UG.sum(1).tolist()
        ]
        found["pass_8"] = 1 - sum(missed) / prompts
    return found


def _tokens(batches: Sequence[Batch]) -> int:
    return sum(int(batch.rollouts.trained_BT.sum()) for batch in batches)
