"""Direct preference optimisation (DPO, 2305.18290) on the best and the worst of several answers to a prompt.

With h = log pi - log pi_ref of a whole response, c chosen and r rejected, over P pairs

    loss = mean_P -log sigmoid(margin) + likelihood_weight * NLL(c, token mean),     margin = beta (h_c - h_r).

A response's tokens meet inside the sigmoid, so this is no sum over positions; its gradient is one all the same,

    - mean_P beta sigmoid(-margin) (grad log pi(c) - grad log pi(r)) + ...,

so a first pass without gradient finds the margins, and the second, in pieces as every other loop's, takes the log-probs
times these fixed weights. Leaves out: who judges (`trainer.stages.reward_model`).

Axes: U prompts, P pairs, B = 2 P rows (chosen, rejected, chosen, ...), T response length, N trained positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mopdsim.recipes.stage import Preference
from trainer.batch.batch import Batch, Prompts, part_of
from trainer.batch.rollout import Rollouts, turns
from trainer.batch.score import Bank, kl_sum, logprobs, score
from trainer.losses.losses import Loss, token_logprob
from trainer.model.policy import Policy
from trainer.stages.job import Job
from trainer.stages.loop import Metrics, Report, Trainee, train
from trainer.stages.reward_model import check_patience, reversed_label

ALGORITHM_VERSION = 1


def run(job: Job, stage: Preference, report: Report) -> Metrics:
    """Sample, judge, pair, step."""
    return train(job, lambda trainee: _step(trainee, stage), report)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two rows a pair, the one labelled better first. reversed_P: noise has turned the judge's verdict."""

    batch: Batch
    reversed_P: Tensor


def pairs_of(batch: Batch, score_B: Tensor, said: Sequence[Sequence[str]], *, noise: float) -> Pairs | None:
    """The best and the worst answer (of equals the first) of each prompt whose answers' scores differ."""
    score, group = score_B.tolist(), batch.group
    rows: list[int] = []
    turned = []
    for place, item in enumerate(batch.items):
        own = range(place * group, (place + 1) * group)
        best, worst = max(own, key=lambda row: score[row]), min(own, key=lambda row: score[row])
        if score[best] == score[worst] or said[best] == said[worst]:
            continue
        turned.append(reversed_label(noise, item, said[best], said[worst]))
        rows += [worst, best] if turned[-1] else [best, worst]
    if not rows:
        return None
    row_B = torch.tensor(rows, device=batch.reward_B.device)
    return Pairs(batch=part_of(batch, row_B, group=2), reversed_P=torch.tensor(turned))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probs of whole responses under the policy and its reference; kl_sum: KL(policy || reference) over the
    vocabulary, summed over the trained positions."""

    own_B: Tensor
    reference_B: Tensor
    kl_sum: float

    def margins(self, beta: float) -> Tensor:
        """margin_P"""
        ratio_B = self.own_B - self.reference_B
        return beta * (ratio_B[0::2] - ratio_B[1::2])


@torch.no_grad()
def scores_of(
    policy: Policy,
    bank: Bank,
    reference: str,
    rollouts: Rollouts,
    *,
    temperature: float,
    micro_batch_rows: int | None = None,
) -> Scores:
    """Both models read the responses, at the temperature they were sampled at."""
    other = bank.score(reference, rollouts, micro_batch_rows=micro_batch_rows)
    own = score(policy, rollouts, micro_batch_rows=micro_batch_rows)
    own_B, reference_B = (logprobs(each, rollouts, temperature=temperature).sum(1) for each in (own, other))
    kl = kl_sum(own, other, rollouts, temperature=temperature)
    return Scores(own_B=own_B, reference_B=reference_B, kl_sum=kl)


def weights_of(margin_P: Tensor, rollouts: Rollouts, *, beta: float, likelihood_weight: float) -> Tensor:
    """weight_BT: what a trained token's log-prob is multiplied with, so that the sum has the loss's gradient."""
    push_P = beta * torch.sigmoid(-margin_P) / len(margin_P)
    weight_B = torch.stack([-push_P, push_P], 1).flatten()
    weight_BT = weight_B[:, None] * rollouts.trained_BT
    chosen_PT = rollouts.trained_BT[0::2]
    weight_BT[0::2] -= likelihood_weight * chosen_PT / chosen_PT.sum()
    return weight_BT


def _step(trainee: Trainee, stage: Preference) -> Metrics:
    policy, settings, meter = trainee.policy, trainee.job.settings, trainee.meter
    asked, batch = _answers(trainee, stage)
    truncated = trainee.check_truncation(batch)
    judged = trainee.judged(batch)
    pairs = pairs_of(batch, judged.reward_B, turns(policy, batch.rollouts), noise=stage.noise)
    ever = trainee.memory["paired"] = trainee.memory.get("paired", False) or pairs is not None
    check_patience(trainee, found=ever)  # a policy that has come to answer alike is no failure
    answers = {"prompts": asked.counts, "truncated": truncated, "reward": float(batch.reward_B.mean())}
    if pairs is None:
        return {**answers, "pairs": 0, "domains": _of_answers(stage, batch, judged)}
    rollouts = pairs.batch.rollouts
    temperature, rows = settings.temperature, settings.micro_batch_rows
    with meter.phase("scoring", policy.device):
        scores = scores_of(
            policy, trainee.bank, stage.init, rollouts, temperature=temperature, micro_batch_rows=rows
        )
    meter.count("scoring", policy, rollouts, passes=2)
    margin_P = scores.margins(stage.beta)
    weight_BT = weights_of(margin_P, rollouts, beta=stage.beta, likelihood_weight=stage.likelihood_weight)
    weight_M, token_M = weight_BT.flatten(), rollouts.response_BT.flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        logprob_N, entropy_N = token_logprob(logits_NV, token_M[index_N])
        return (weight_M[index_N] * logprob_N).sum(), {"entropy_sum": entropy_N.sum()}

    nll = -float(scores.own_B[0::2].sum() / rollouts.trained_BT[0::2].sum())
    loss = float(softplus(-margin_P).mean()) + stage.likelihood_weight * nll
    applied, sums = trainee.update(pairs.batch, loss_of, loss=loss, temperature=temperature)
    trainee.count_tokens("scored", pairs.batch)
    domains = _of_answers(stage, batch, judged)
    for name, row in _of_pairs(pairs.batch, margin_P, weight_BT).items():
        domains[name] |= row
    tokens = int(rollouts.trained_BT.sum())
    return {
        **applied,
        **answers,
        "pairs": len(margin_P),
        "accuracy": float((margin_P > 0).float().mean()),
        "margin": float(margin_P.mean()),
        "reversed": float(pairs.reversed_P.float().mean()),
        "nll": nll,
        "kl": scores.kl_sum / tokens,
        "entropy": sums.whole["entropy_sum"] / tokens,
        "chosen_logprob": float(scores.own_B[0::2].mean()),
        "rejected_logprob": float(scores.own_B[1::2].mean()),
        "domains": domains,
    }


def _answers(trainee: Trainee, stage: Preference) -> tuple[Prompts, Batch]:
    """Prompts and graded answers: the reference's, or on-policy the policy's own."""
    asked = trainee.ask(stage.domains)
    if stage.on_policy:
        return asked, trainee.sample(asked)
    with trainee.bank.open(stage.init) as reference:
        return asked, trainee.sample(asked, reference)


def _of_answers(stage: Preference, batch: Batch, judged: Batch) -> dict[str, Metrics]:
    """By domain: the verifier's mean reward of all answers, the reward model's where there is one; their length."""
    rows: dict[str, Metrics] = {}
    for name, span in batch.spans.items():
        rows[name] = {
            "reward": float(batch.reward_B[span].mean()),
            "length": float(batch.rollouts.trained_BT[span].sum(1).float().mean()),
            "pairs": 0,
        }
        if name in stage.reward_models:
            rows[name]["judged_reward"] = float(judged.reward_B[span].mean())
    return rows


def _of_pairs(batch: Batch, margin_P: Tensor, weight_BT: Tensor) -> Mapping[str, Metrics]:
    """By domain: accuracy and mean of the margins, the verifier's mean reward of both sides, share of the tokens and of
    the gradient (its weights)."""
    trained_B, mass_B = batch.rollouts.trained_BT.sum(1), weight_BT.abs().sum(1)
    rows = {}
    for name, span in batch.spans.items():
        own_P = margin_P[span.start // 2 : span.stop // 2]
        reward_B, tokens = batch.reward_B[span], int(trained_B[span].sum())
        rows[name] = {
            "pairs": len(own_P),
            "accuracy": float((own_P > 0).float().mean()),
            "margin": float(own_P.mean()),
            "chosen_reward": float(reward_B[0::2].mean()),
            "rejected_reward": float(reward_B[1::2].mean()),
            "token_share": tokens / float(trained_B.sum()),
            "effective_share": float(mass_B[span].sum() / mass_B.sum()),
        }
    return rows
