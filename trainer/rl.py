"""Reinforcement learning with verifiable rewards: GRPO with the choices of DAPO, one turn or several."""

from __future__ import annotations

import torch
from torch import Tensor

from mopdsim.errors import UsageError
from mopdsim.recipe import Rl
from trainer.bank import Bank
from trainer.batch import Batch, draw, sample, spread
from trainer.diagnose import accumulate
from trainer.loop import Job, Metrics, Report, StepOf, Trainee, train
from trainer.losses import Loss, group_advantages, policy_gradient, token_logprob, token_weights
from trainer.meter import TRAINING_PASSES
from trainer.rollout import Rollouts
from trainer.update import LossOf

ALGORITHM_VERSION = 1
LEAST_SIGNAL = 0.05  # of q (1 - q) in the curriculum, so that no domain is given up


def run(job: Job, stage: Rl, report: Report) -> Metrics:
    """Sample groups, grade them, step on the clipped policy gradient of their advantages."""
    if job.amounts is not None and job.amounts.rollouts_per_prompt < 2:
        raise UsageError(
            f"stage {stage.name!r}: rollouts_per_prompt = {job.amounts.rollouts_per_prompt}: a group baseline "
            "needs at least 2; raise it in [amounts_of]"
        )

    def make_step(trainee: Trainee) -> StepOf:
        bank = Bank({stage.init: job.weights[stage.init]}, job.load) if stage.kl_coefficient else None
        return lambda trainee: _step(trainee, stage, bank)

    return train(job, make_step, report)


def _step(trainee: Trainee, stage: Rl, bank: Bank | None) -> Metrics:
    job, policy, amounts, meter = trainee.job, trainee.policy, trainee.amounts, trainee.meter
    shares = _curriculum(trainee, stage)
    counts, start = trainee.allocate(shares, amounts.prompts_per_step)
    items = draw(trainee.tasks, counts, start, split="train", seed=job.settings.seed)
    with meter.phase("generation", policy.device):
        batch = sample(
            policy,
            trainee.tasks,
            items,
            domains=[name for name, count in counts.items() for _ in range(count)],
            rollouts_per_prompt=amounts.rollouts_per_prompt,
            temperature=job.settings.temperature,
            seed=job.seed(trainee.step),
        )
    meter.count("generation", policy, batch.rollouts)
    truncated = trainee.check_truncation(batch)
    advantage_B, zero_signal_U = advantages(batch, stage)
    metrics = _describe(trainee, batch, advantage_B, zero_signal_U, stage)
    kept_B = (
        ~zero_signal_U.repeat_interleave(batch.group)
        if stage.zero_signal == "drop"
        else torch.ones_like(advantage_B) > 0
    )
    parts = _minibatches(batch, kept_B, stage.updates_per_batch)
    for number, (part, row_M) in enumerate(parts):
        diagnosed = number == 0 and trainee.step % job.settings.diagnose_every == 0
        metrics |= _update(trainee, stage, bank, part, advantage_B[row_M], diagnosed=diagnosed)
    return {**metrics, "prompts": counts, "truncated": truncated, "updates": len(parts)}


def advantages(batch: Batch, stage: Rl) -> tuple[Tensor, Tensor]:
    """advantage_B with the domains' reward weights, and zero_signal_U: prompts whose rewards are all equal."""
    domain_B = batch.domain_ids().to(batch.reward_B.device)
    advantage_B, zero_signal_U = group_advantages(
        batch.reward_B, batch.group, stage.advantage_scale, domain_B
    )
    weights = [stage.reward_weights.get(name, 1.0) for name in batch.spans]
    return advantage_B * spread(batch.spans, weights).to(advantage_B), zero_signal_U


def _update(
    trainee: Trainee, stage: Rl, bank: Bank | None, batch: Batch, advantage_B: Tensor, *, diagnosed: bool
) -> Metrics:
    """One optimiser step on some rows."""
    policy, settings, rollouts, meter = trainee.policy, trainee.job.settings, batch.rollouts, trainee.meter
    tokens = int(rollouts.trained_BT.sum())
    loss_of = _loss_of(trainee, stage, bank, rollouts, advantage_B)
    with meter.phase("training", policy.device):
        loss, sums, report = accumulate(
            policy,
            rollouts,
            batch.spans,
            loss_of,
            by_domain=diagnosed,
            temperature=settings.temperature,
            micro_batch_rows=settings.micro_batch_rows,
        )
        applied = trainee.apply(loss, batch)
    meter.count("training", policy, rollouts, passes=TRAINING_PASSES)
    for name, span in batch.spans.items():
        own = int(rollouts.trained_BT[span].sum())
        meter.count_tokens("trained", name, own)
        if bank is not None:
            meter.count_tokens("scored", name, own)
    metrics = {
        name.removesuffix("_sum").removesuffix("_count"): value / tokens for name, value in sums.items()
    }
    return {**applied, **metrics, **report()}


def _loss_of(
    trainee: Trainee, stage: Rl, bank: Bank | None, rollouts: Rollouts, advantage_B: Tensor
) -> LossOf:
    temperature = trainee.job.settings.temperature
    width = rollouts.response_BT.shape[1]
    token_M, behaviour_M = rollouts.response_BT.flatten(), rollouts.logprob_BT.flatten()
    weight_M = token_weights(rollouts.trained_BT, stage.normalizer).flatten()
    scored = None
    if bank is not None:
        with trainee.meter.phase("scoring", trainee.policy.device):
            scored = bank.score(stage.init, rollouts, micro_batch_rows=trainee.job.settings.micro_batch_rows)
        trainee.meter.count("scoring", trainee.policy, rollouts)

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        logprob_N, entropy_N = token_logprob(logits_NV, token_M[index_N])
        reference_N = None
        if scored is not None:
            with torch.no_grad():
                reference_N, _ = token_logprob(
                    scored.logits(scored.hidden_MD[index_N]) / temperature, token_M[index_N]
                )
        loss, metrics = policy_gradient(
            logprob_N,
            behaviour_M[index_N],
            advantage_B[index_N // width],
            weight_M[index_N],
            clip_low=stage.clip_low,
            clip_high=stage.clip_high,
            reference_logprob_N=reference_N,
            kl_coefficient=stage.kl_coefficient,
        )
        return loss, {**metrics, "entropy_sum": entropy_N.sum()}

    return loss_of


def _minibatches(batch: Batch, kept_B: Tensor, count: int) -> list[tuple[Batch, Tensor]]:
    """The kept rows in `count` parts of whole groups, each ordered by domain; empty parts are left out."""
    prompt_U = kept_B[:: batch.group].nonzero().squeeze(1)
    parts = []
    for number in range(count):
        chosen = prompt_U[number::count]
        if not len(chosen):
            continue
        row_M = (chosen[:, None] * batch.group + torch.arange(batch.group, device=chosen.device)).flatten()
        edges = {
            name: (int((row_M < span.start).sum()), int((row_M < span.stop).sum()))
            for name, span in batch.spans.items()
        }
        part = Batch(
            items=tuple(batch.items[u] for u in chosen.tolist()),
            rollouts=batch.rollouts.rows(row_M),
            reward_B=batch.reward_B[row_M],
            spans={name: slice(a, b) for name, (a, b) in edges.items() if b > a},
        )
        parts.append((part, row_M))
    return parts


def _curriculum(trainee: Trainee, stage: Rl) -> dict[str, float]:
    """The shares of this step."""
    shares = dict(stage.domains)
    if stage.curriculum == "staged":
        entered = min(len(shares), 1 + int(2 * trainee.progress() * len(shares)))
        return {name: share for place, (name, share) in enumerate(shares.items()) if place < entered}
    if stage.curriculum == "signal":
        rates = {name: trainee.memory.get("means", {}).get(f"pass_rate/{name}", 0.5) for name in shares}
        return {
            name: share * max(LEAST_SIGNAL, rates[name] * (1 - rates[name])) for name, share in shares.items()
        }
    return shares


def _describe(
    trainee: Trainee, batch: Batch, advantage_B: Tensor, zero_signal_U: Tensor, stage: Rl
) -> Metrics:
    """Per domain: reward, length, share of zero-signal groups, of the tokens, and of the gradient (weight x |A|)."""
    trained_B = batch.rollouts.trained_BT.sum(1)
    mass_B = token_weights(batch.rollouts.trained_BT, stage.normalizer).sum(1) * advantage_B.abs()
    domains = {}
    for name, span in batch.spans.items():
        groups = slice(span.start // batch.group, span.stop // batch.group)
        tokens = int(trained_B[span].sum())
        trainee.meter.count_tokens("generated", name, tokens)
        reward = float(batch.reward_B[span].mean())
        trainee.average(f"pass_rate/{name}", reward / trainee.tasks[name].reward_scale)
        domains[name] = {
            "reward": reward,
            "length": tokens / (span.stop - span.start),
            "zero_signal": float(zero_signal_U[groups].float().mean()),
            "token_share": tokens / max(float(trained_B.sum()), 1.0),
            "effective_share": float(mass_B[span].sum()) / max(float(mass_B.sum()), 1e-12),
        }
    return {
        "domains": domains,
        "reward": float(batch.reward_B.mean()),
        "zero_signal": float(zero_signal_U.float().mean()),
    }
