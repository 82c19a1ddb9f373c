"""Reward models: a scalar head and its trunk, trained on comparisons of one model's answers (2203.02155, section 3.5).

The model that the stage starts from answers each prompt several times, and stays as it was; the verifier compares, with
label noise; all comparisons of a prompt are one element of the batch. In the end scores are shifted and scaled so that
fresh answers have mean 0 and standard deviation 1. Leaves out: the loss (`trainer.losses.feedback`), verifiers
(`trainer.tasks`).

Axes: U prompts, B rows, P pairs, N rows of a piece, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from mopdsim.base.errors import MopdError
from mopdsim.recipes.stage import NORMALISING_ANSWERS, RewardModel
from trainer.batch.batch import Batch, minibatches
from trainer.batch.evaluate import sampled
from trainer.batch.heads import (
    add_head,
    endings,
    head_of,
    scalars,
    scores,
)
from trainer.batch.rollout import turns
from trainer.batch.update import LossOf, Named, Sums
from trainer.losses.feedback import bradley_terry
from trainer.stages.loop import Hooks, Job, Metrics, Report, Rows, Trainee, train
from trainer.tasks import Item, Split
from trainer.tasks.base import uniform

ALGORITHM_VERSION = 1
PATIENCE = 10  # steps in a row without a pair
TEST_ANSWERS = 4  # of each prompt that accuracy is measured on
LEAST_SPREAD = 1e-6  # of scores that can be normalised


def run(job: Job, stage: RewardModel, report: Report) -> Metrics:
    """Train on fresh comparisons every step; the summary's domains have accuracy, se, n and correlation."""
    hooks = Hooks(
        prepare=add_head,
        finish=lambda trainee: _normalise(trainee, stage),
        score=lambda trainee, split, say: _score(trainee, stage, split, say),
    )
    return train(job, lambda trainee: _step(trainee, stage), report, hooks=hooks)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of a batch that are compared, the one labelled better first. Weights: every prompt alike, 1 in all."""

    better_P: Tensor
    worse_P: Tensor
    weight_P: Tensor


def pairs_of(batch: Batch, said: Sequence[Sequence[str]], *, noise: float) -> Pairs:
    """All comparisons of answers to one prompt whose rewards differ; every prompt of the batch has one at least."""
    better, worse, weight = [], [], []
    reward, group = batch.reward_B.tolist(), batch.group
    for place, item in enumerate(batch.items):
        rows = range(place * group, (place + 1) * group)
        found = [
            (a, b) if reward[a] > reward[b] else (b, a)
            for a, b in combinations(rows, 2)
            if reward[a] != reward[b]
        ]
        for high, low in found:
            turned = reversed_label(noise, item, said[high], said[low])
            better.append(low if turned else high)
            worse.append(high if turned else low)
            weight.append(1 / (len(found) * len(batch.items)))
    device = batch.reward_B.device
    return Pairs(
        better_P=torch.tensor(better, device=device),
        worse_P=torch.tensor(worse, device=device),
        weight_P=torch.tensor(weight, device=device),
    )


def _step(trainee: Trainee, stage: RewardModel) -> Metrics:
    asked = trainee.ask(stage.domains)
    with trainee.bank.open(stage.init) as sampler:
        batch = trainee.sample(asked, sampler)
    reward_UK = batch.reward_B.view(-1, batch.group)
    compared_U = reward_UK.amax(1) > reward_UK.amin(1)
    found: Metrics = {
        "prompts": asked.counts,
        "skipped": int((~compared_U).sum()),
        "reward": float(reward_UK.mean()),
    }
    parts = minibatches(batch, compared_U, 1)
    check_patience(trainee, found=bool(parts))
    if not parts:
        return {**found, "pairs": 0}
    ((part, _),) = parts
    pairs = pairs_of(part, turns(trainee.policy, part.rollouts), noise=stage.noise)
    applied, sums = trainee.update(
        part,
        _loss_of(trainee, part, pairs),
        rollouts=endings(part.rollouts),
        head=False,
        of_states=True,
        chunk_positions=len(part.reward_B),  # a prompt's answers are never parted
    )
    return {**applied, **found, **_describe(batch, part, sums)}


def check_patience(trainee: Trainee, *, found: bool) -> None:
    """MopdError when no prompt of `PATIENCE` steps in a row had answers of different rewards."""
    idle = 0 if found else trainee.memory.get("without_pairs", 0) + 1
    trainee.memory["without_pairs"] = idle
    if idle == PATIENCE:
        raise _without_pairs(trainee)


def _without_pairs(trainee: Trainee) -> MopdError:
    """What to say after as many steps in a row as the checkpoint counts."""
    return MopdError(
        f"stage {trainee.job.name!r}: no prompt of {trainee.memory['without_pairs']} steps in a row had answers of "
        "different rewards: raise rollouts_per_prompt, start from a model that is right more (or less) often, or take "
        "easier domains"
    )


def _loss_of(trainee: Trainee, batch: Batch, pairs: Pairs) -> LossOf:
    """The loss of states that have read a row."""
    width = batch.rollouts.response_BT.shape[1] + 1

    def loss_of(hidden_ND: Tensor, index_N: Tensor) -> tuple[Tensor, Sums]:
        score_N = scalars(trainee.policy, hidden_ND)
        row_N = index_N // width
        total = score_N.sum() * 0
        found: dict[str, Named] = {}
        for name, span in batch.spans.items():
            first, last = max(span.start, int(row_N[0])), min(span.stop, int(row_N[-1]) + 1)
            own = ((pairs.better_P >= first) & (pairs.better_P < last)).nonzero().squeeze(1)
            if not len(own):
                continue
            better_P, worse_P = (score_N[rows[own] - row_N[0]] for rows in (pairs.better_P, pairs.worse_P))
            loss, sums = bradley_terry(better_P, worse_P, pairs.weight_P[own])
            total = total + loss
            found[name] = {**sums, "pairs": float(len(own))}
        return total, Sums(domains=found)

    return loss_of


def _describe(batch: Batch, part: Batch, sums: Sums) -> Metrics:
    """Accuracy on the pairs as labelled, their number and the gap of their scores, by domain and in all."""
    domains = {}
    for name, span in batch.spans.items():
        own = sums.domains.get(name, {})
        pairs = own.get("pairs", 0.0)
        kept = part.spans.get(name, slice(0, 0))
        row = {
            "reward": float(batch.reward_B[span].mean()),
            "pairs": int(pairs),
            "skipped": ((span.stop - span.start) - (kept.stop - kept.start)) // batch.group,
        }
        if pairs:
            row["accuracy"] = own["correct_count"] / pairs
            row["gap"] = own["gap_sum"] / pairs
        domains[name] = row
    whole = {
        key: sum(sums.domains.get(name, {}).get(key, 0.0) for name in domains)
        for key in ("pairs", "correct_count", "gap_sum")
    }
    return {
        "domains": domains,
        "pairs": int(whole["pairs"]),
        "accuracy": whole["correct_count"] / whole["pairs"],
        "gap": whole["gap_sum"] / whole["pairs"],
    }


def _normalise(trainee: Trainee, stage: RewardModel) -> None:
    """Fold into the head what gives fresh answers scores of mean 0 and standard deviation 1. MopdError where it gives
    all of them one score."""
    if trainee.memory["without_pairs"] >= trainee.step:
        raise _without_pairs(trainee)
    prompts = max(1, NORMALISING_ANSWERS // trainee.amounts.rollouts_per_prompt)
    with trainee.bank.open(stage.init) as sampler:
        batch = trainee.sample(trainee.ask(stage.domains, prompts), sampler, seed=("normalise",))
    with trainee.meter.phase("scoring", trainee.policy.device):
        score_B = scores(
            trainee.policy, batch.rollouts, micro_batch_rows=trainee.job.settings.micro_batch_rows
        )
    trainee.meter.count("scoring", trainee.policy, batch.rollouts, head=False)
    mean, spread = float(score_B.mean()), float(score_B.std(correction=0))
    if not spread > LEAST_SPREAD:
        raise MopdError(
            f"stage {stage.name!r}: the reward model scores all answers alike (standard deviation {spread:.1g}): "
            f"raise its steps ({trainee.amounts.steps}) or learning_rate ({trainee.amounts.learning_rate})"
        )
    head = head_of(trainee.policy)
    with torch.no_grad():
        head.bias.sub_(mean).div_(spread)
        head.weight.div_(spread)


def _score(trainee: Trainee, stage: RewardModel, split: Split, say: Callable[[str], None]) -> Rows:
    """Against the true verifier, on the split's fixed prompts: `accuracy` of comparisons (each prompt alike), its se, n
    (prompts with a comparison), and the `correlation` of score and grade over all answers; None where there is none."""
    job, policy, meter = trainee.job, trainee.policy, trainee.meter
    settings, rows = job.settings, {}
    say(split)
    for name in stage.domains:
        with trainee.bank.open(stage.init) as sampler, meter.phase("evaluation", policy.device):
            batches = sampled(
                sampler,
                name,
                trainee.tasks[name],
                split,
                settings.test_items if split == "test" else settings.validation_items,
                temperature=settings.temperature,
                meter=meter,
                rollouts_per_prompt=TEST_ANSWERS,
            )
            found = [
                scores(policy, own.rollouts, micro_batch_rows=settings.micro_batch_rows) for own in batches
            ]
            for own in batches:
                meter.count("evaluation", policy, own.rollouts, head=False)
        rows[name] = agreement(torch.cat(found), torch.cat([own.reward_B for own in batches]), TEST_ANSWERS)
    return rows


def agreement(score_B: Tensor, grade_B: Tensor, group: int) -> dict[str, float | None]:
    """How scores agree with grades; rows of a prompt are consecutive. Ties of scores count half."""
    score_UK, grade_UK = score_B.double().view(-1, group), grade_B.double().view(-1, group)
    score_UKK = score_UK[:, :, None] - score_UK[:, None]
    above_UKK = grade_UK[:, :, None] > grade_UK[:, None]
    right_UKK = (score_UKK > 0).double() + 0.5 * (score_UKK == 0)
    count_U = above_UKK.sum((1, 2))
    share_U = ((right_UKK * above_UKK).sum((1, 2)) / count_U)[count_U > 0]
    n = len(share_U)
    varied = float(score_B.std(correction=0)) > 0 and float(grade_B.std(correction=0)) > 0
    return {
        "accuracy": float(share_U.mean()) if n else None,
        "se": float(share_U.std(correction=0)) / n**0.5 if n else None,
        "n": n,
        "correlation": float(torch.corrcoef(torch.stack([score_B, grade_B]))[0, 1]) if varied else None,
    }


def reversed_label(noise: float, item: Item, better: Sequence[str], worse: Sequence[str]) -> bool:
    """Whether noise reverses the label of a pair of answers (their turns): the same pair is always labelled alike."""
    answers = ("\x1e".join(turns) for turns in (better, worse))
    return uniform("label", item.prompt, *answers) < noise
