"""Reinforcement learning from verifiers or reward models, one turn or several: sample, judge, step on the advantages.

GRPO (2402.03300, with the choices of DAPO) and PPO, as InstructGPT ran it (2203.02155, 1909.08593), differ in what they
make of a judged batch (`Signal`) and in nothing else. In GRPO the baseline of an answer is the mean of its prompt's
other answers. PPO has a value head, GAE, and the KL as a penalty of each token's reward: a token earns -kl_coefficient
(log pi - log pi_ref), the last one the judge's reward too; pi_ref is the model that the stage starts from. The value is
a head on the policy's own states, dropped before the weights are saved. Leaves out: the formulas
(`trainer.losses.losses`, `trainer.losses.feedback`).

Axes: U prompts, B rows, T response tokens, N positions (flat index b * T + t), M rows of a part, D hidden width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mopdsim.recipes.stage import Rl
from trainer.batch.batch import Batch, minibatches, spread
from trainer.batch.heads import add_head, drop_head, scalars, values
from trainer.batch.meter import TRAINING_PASSES
from trainer.batch.objective import Objective, Penalty, likelihood, surrogate
from trainer.batch.rollout import Rollouts
from trainer.batch.score import logprobs
from trainer.batch.update import LossOf, accumulate_share, means
from trainer.batch.written import demonstrated
from trainer.losses.feedback import adapted, advantages_over_time, clipped_value, explained_variance, whitened
from trainer.losses.losses import Loss, group_advantages, token_weights
from trainer.model import processes
from trainer.stages import samples
from trainer.stages.loop import PLAIN, Hooks, Job, Metrics, Report, Trainee, train

ALGORITHM_VERSION = 2
LEAST_SIGNAL = 0.05  # of q (1 - q) in the curriculum, so that no domain is given up
SILENT_STEPS = 10  # without signal in a domain, after which it is said
SOLVED = 0.95  # mean reward of a domain from which on no signal is no loss
WITH_VALUE = Hooks(prepare=add_head, finish=lambda trainee: drop_head(trainee.policy))


def run(job: Job, stage: Rl, report: Report) -> Metrics:
    """Sample answers, judge them, step on the clipped policy gradient of their advantages."""
    hooks = WITH_VALUE if stage.algorithm == "ppo" else PLAIN
    summary = train(job, lambda trainee: _step(trainee, stage), report, hooks=hooks)
    if processes.leads() and not any(summary["tokens"].get("trained", {}).values()):
        print(
            f"warning: stage {stage.name!r} learnt nothing: in none of its {summary['steps']} steps had a prompt "
            "answers of different rewards: raise rollouts_per_prompt, start from a model that is right more (or less) "
            "often, or take easier domains",
            file=sys.stderr,
        )
    return summary


def _step(trainee: Trainee, stage: Rl) -> Metrics:
    asked = trainee.ask(_curriculum(trainee, stage))
    batch = trainee.sample(asked)
    truncated = trainee.check_truncation(batch)
    judged = trainee.judged(batch)
    signal_of = value_signal if stage.algorithm == "ppo" else group_signal
    signal = signal_of(trainee, stage, judged)
    _say_lost(trainee, judged, signal)
    metrics = _describe(trainee, stage, batch, judged, signal)
    if samples.due(trainee):
        samples.keep_rewarded(trainee, stage, batch, judged, signal.advantage_BT)
    parts = minibatches(judged, signal.kept_U, stage.updates_per_batch)
    for number, (part, row_M) in enumerate(parts):
        metrics |= _update(trainee, stage, signal, part, row_M, diagnosed=number == 0)
        if stage.kl_coefficient:
            trainee.count_tokens("scored", part)
    return {**metrics, "prompts": asked.counts, "truncated": truncated, "updates": len(parts)}


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a judged batch teaches.

    kept_U: the prompts that are learnt from. loss_of: the loss of some of the rows, given that part and its row_M; it
    reads states in place of logits where `of_states`. by_domain: more to log of a domain.
    """

    advantage_BT: Tensor
    kept_U: Tensor
    loss_of: Callable[[Batch, Tensor], LossOf]
    of_states: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    by_domain: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def group_signal(trainee: Trainee, stage: Rl, batch: Batch) -> Signal:
    """GRPO's: group advantages of the judged rewards; the KL is a term of the loss."""
    advantage_B, zero_signal_U = group_advantages(
        batch.reward_B,
        batch.group,
        stage.advantage_scale,
        batch.domain_ids().to(batch.reward_B.device),
    )
    advantage_B = advantage_B * reward_weight(batch, stage)
    advantage_BT = advantage_B[:, None].expand(batch.rollouts.response_BT.shape)

    def loss_of(part: Batch, row_M: Tensor) -> LossOf:
        penalty = None
        if stage.kl_coefficient:
            penalty = Penalty(
                reference=trainee.score(stage.init, part.rollouts),
                temperature=trainee.job.settings.temperature,
                coefficient=stage.kl_coefficient,
            )
        return _policy_loss(stage, part.rollouts, advantage_BT[row_M], penalty)

    by_domain = {
        name: {"zero_signal": float(zero_signal_U[prompts].float().mean())}
        for name, span in batch.spans.items()
        for prompts in [slice(span.start // batch.group, span.stop // batch.group)]
    }
    return Signal(
        advantage_BT=advantage_BT,
        kept_U=~zero_signal_U if stage.zero_signal == "drop" else torch.ones_like(zero_signal_U),
        loss_of=loss_of,
        metrics={"zero_signal": float(zero_signal_U.float().mean())},
        by_domain=by_domain,
    )


def _say_lost(trainee: Trainee, batch: Batch, signal: Signal) -> None:
    """A word on stderr, once a domain, where GRPO has long had no signal in it though it is not solved."""
    silent: dict[str, int] = trainee.memory.setdefault("silent", {})
    for name, row in signal.by_domain.items():
        reward = float(batch.reward_B[batch.spans[name]].mean())
        without = row.get("zero_signal") == 1 and reward < SOLVED
        silent[name] = silent.get(name, 0) + 1 if without else 0
        if silent[name] == SILENT_STEPS and processes.leads():
            print(
                f"warning: stage {trainee.job.name!r}: for {SILENT_STEPS} steps all answers to each prompt of {name!r} "
                f"had one reward (mean {reward:.2f}), so that it is not learnt any more: lower learning_rate, raise "
                "rollouts_per_prompt or temperature, or set a kl_coefficient",
                file=sys.stderr,
            )


def value_signal(trainee: Trainee, stage: Rl, batch: Batch) -> Signal:
    """PPO's: advantages of the judged rewards and the KL penalty over the values at sampling, whitened together."""
    policy, meter, rollouts = trainee.policy, trainee.meter, batch.rollouts
    with meter.phase("scoring", policy.device):
        value_BT = values(policy, rollouts, micro_batch_rows=trainee.job.settings.micro_batch_rows)
    meter.count("scoring", policy, rollouts, head=False)
    reward_BT = at_the_end(batch.reward_B, rollouts.trained_BT)
    metrics: dict[str, float] = {}
    kl_of: dict[str, dict[str, float]] = {}
    if stage.kl_coefficient:
        reference = trainee.score(stage.init, rollouts)
        ratio_BT = rollouts.logprob_BT - logprobs(
            reference, rollouts, temperature=trainee.job.settings.temperature
        )
        coefficient = trainee.memory.get("kl_coefficient", stage.kl_coefficient)
        kl = _mean(ratio_BT, rollouts)
        reward_BT = reward_BT - coefficient * ratio_BT
        metrics |= {"reference_kl": kl, "kl_coefficient": coefficient}
        kl_of = {
            name: {"reference_kl": _mean(ratio_BT[span], rollouts.rows(span))}
            for name, span in batch.spans.items()
        }
        if stage.kl_target is not None:
            trainee.memory["kl_coefficient"] = adapted(coefficient, kl, stage.kl_target)
    advantage_BT, return_BT = advantages_over_time(
        reward_BT, value_BT, rollouts.trained_BT, discount=stage.discount, gae_lambda=stage.gae_lambda
    )
    metrics |= {
        "explained_variance": explained_variance(value_BT, return_BT, rollouts.trained_BT),
        "return": _mean(return_BT, rollouts),
    }
    advantage_BT = whitened(advantage_BT, rollouts.trained_BT) * reward_weight(batch, stage)[:, None]

    def loss_of(part: Batch, row_M: Tensor) -> LossOf:
        return _with_value(
            trainee, stage, part.rollouts, advantage_BT[row_M], value_BT[row_M], return_BT[row_M]
        )

    return Signal(
        advantage_BT=advantage_BT,
        kept_U=torch.ones(len(batch.items), dtype=torch.bool, device=policy.device),
        loss_of=loss_of,
        of_states=True,
        metrics=metrics,
        by_domain=kl_of,
    )


def at_the_end(reward_B: Tensor, trained_BT: Tensor) -> Tensor:
    """reward_BT: each row's reward at its last trained token, 0 elsewhere."""
    last_BT = trained_BT & (trained_BT.flip(1).cumsum(1).flip(1) == 1)
    return reward_B[:, None] * last_BT


def _mean(x_BT: Tensor, rollouts: Rollouts) -> float:
    return float(x_BT[rollouts.trained_BT].mean())


def _policy_loss(
    stage: Rl, rollouts: Rollouts, advantage_BT: Tensor, penalty: Penalty | None = None
) -> Objective:
    """By the stage's own clip and normaliser."""
    weight_BT = token_weights(rollouts.trained_BT, stage.normalizer)
    clip = {"clip_low": stage.clip_low, "clip_high": stage.clip_high}
    return surrogate(rollouts, advantage_BT, weight_BT, **clip, penalty=penalty)


def _with_value(
    trainee: Trainee, stage: Rl, rollouts: Rollouts, advantage_BT: Tensor, value_BT: Tensor, return_BT: Tensor
) -> LossOf:
    """The policy's loss and the value's, of the states that both read."""
    policy, temperature = trainee.policy, trainee.job.settings.temperature
    policy_loss = _policy_loss(stage, rollouts, advantage_BT)
    old_M, return_M = value_BT.flatten(), return_BT.flatten()
    weight_M = token_weights(rollouts.trained_BT, stage.normalizer).flatten()

    def loss_of(hidden_ND: Tensor, index_N: Tensor) -> Loss:
        loss, metrics = policy_loss(policy.logits(hidden_ND, temperature=temperature), index_N)
        value_loss, more = clipped_value(
            scalars(policy, hidden_ND),
            old_M[index_N],
            return_M[index_N],
            weight_M[index_N],
            clip=stage.value_clip,
        )
        return loss + stage.value_coefficient * value_loss, {**metrics, **more}

    return loss_of


def reward_weight(batch: Batch, stage: Rl) -> Tensor:
    """weight_B: the factor of each row's domain on its advantages."""
    weights = [stage.reward_weights.get(name, 1.0) for name in batch.spans]
    return spread(batch.spans, weights).to(batch.reward_B)


def _update(
    trainee: Trainee, stage: Rl, signal: Signal, part: Batch, row_M: Tensor, *, diagnosed: bool
) -> Metrics:
    """One optimiser step on some rows."""
    found: Metrics = {}

    def also() -> float:
        mixed, more = _mix(trainee, stage, part, row_M) if stage.demonstration_mix else (0.0, {})
        found.update(more)
        return mixed

    applied, sums = trainee.update(
        part,
        signal.loss_of(part, row_M),
        diagnosed=diagnosed,
        also=also,
        temperature=trainee.job.settings.temperature,
        of_states=signal.of_states,
    )
    return {**applied, **means(sums.whole, int(part.rollouts.trained_BT.sum())), **found}


def _mix(trainee: Trainee, stage: Rl, batch: Batch, row_M: Tensor) -> tuple[float, Metrics]:
    """Add the gradient of the token-mean cross entropy on one demonstration of each of the batch's prompts."""
    domains = [
        name for name, span in batch.spans.items() for _ in range((span.stop - span.start) // batch.group)
    ]
    seed = trainee.job.seed("demonstrations", trainee.step, int(row_M[0]))
    shown = demonstrated(trainee.policy, trainee.tasks, batch.items, domains=domains, seed=seed)
    rollouts = shown.rollouts
    weight_BT = stage.demonstration_mix * token_weights(rollouts.trained_BT)
    loss, sums, _ = accumulate_share(
        trainee.policy,
        rollouts,
        likelihood(rollouts, weight_BT),
        micro_batch_rows=trainee.job.settings.micro_batch_rows,
    )
    trainee.meter.count("training", trainee.policy, rollouts, passes=TRAINING_PASSES)
    trainee.count_tokens("trained", shown)
    return loss, {"demonstration_nll": sums.whole["nll_sum"] / int(rollouts.trained_BT.sum())}


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


def _describe(trainee: Trainee, stage: Rl, batch: Batch, judged: Batch, signal: Signal) -> Metrics:
    """Per domain: the verifier's reward and, where it judges, the reward model's; length; share of the tokens, and of
    the gradient (weight x |A|); what the algorithm adds."""
    trained_BT = batch.rollouts.trained_BT
    trained_B = trained_BT.sum(1)
    mass_B = (token_weights(trained_BT, stage.normalizer) * signal.advantage_BT.abs()).sum(1)
    domains = {}
    for name, span in batch.spans.items():
        tokens = int(trained_B[span].sum())
        reward = float(batch.reward_B[span].mean())
        trainee.average(f"pass_rate/{name}", reward / trainee.tasks[name].reward_scale)
        row = {
            "reward": reward,
            "length": tokens / (span.stop - span.start),
            "token_share": tokens / max(float(trained_B.sum()), 1.0),
            "effective_share": float(mass_B[span].sum()) / max(float(mass_B.sum()), 1e-12),
            **signal.by_domain.get(name, {}),
        }
        if name in stage.reward_models:
            row["judged_reward"] = float(judged.reward_B[span].mean())
        domains[name] = row
    found = {"domains": domains, "reward": float(batch.reward_B.mean()), **signal.metrics}
    return found | ({"judged_reward": float(judged.reward_B.mean())} if stage.reward_models else {})
