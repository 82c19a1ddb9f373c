"""Reinforcement learning from verifiers or reward models, one turn or several: sample, judge, step on the advantages.

GRPO (2402.03300, with the choices of DAPO) and PPO (`trainer.stages.ppo`) differ in what they make of a judged batch
and in nothing else. In GRPO the baseline of an answer is the mean of its prompt's other answers.

Axes: U prompts, B rows, T response tokens, N positions, M rows of a part.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from mopdsim.recipes.recipe import Rl
from trainer.batch.batch import Batch, minibatches
from trainer.batch.meter import TRAINING_PASSES
from trainer.batch.score import Bank
from trainer.batch.sums import means
from trainer.batch.update import LossOf, accumulate_share
from trainer.batch.written import demonstrated
from trainer.losses.losses import Loss, cross_entropy, group_advantages, token_weights
from trainer.model import processes
from trainer.stages import ppo, samples
from trainer.stages.loop import PLAIN, Job, Metrics, Report, Trainee, train
from trainer.stages.ppo import Signal, reward_weight, surrogate
from trainer.stages.reward_model import Judges

ALGORITHM_VERSION = 2
LEAST_SIGNAL = 0.05  # of q (1 - q) in the curriculum, so that no domain is given up


def run(job: Job, stage: Rl, report: Report) -> Metrics:
    """Sample answers, judge them, step on the clipped policy gradient of their advantages."""
    if stage.algorithm == "grpo" and job.amounts is not None and job.amounts.rollouts_per_prompt < 2:
        raise UsageError(
            f"stage {stage.name!r}: rollouts_per_prompt = {job.amounts.rollouts_per_prompt}: a group baseline "
            "needs at least 2; raise it in [amounts_of]"
        )
    judges = Judges.of(job, stage.reward_models)
    bank = Bank({stage.init: job.weights[stage.init]}, job.load) if stage.kl_coefficient else None

    hooks = ppo.HOOKS if stage.algorithm == "ppo" else PLAIN
    summary = train(job, lambda trainee: _step(trainee, stage, bank, judges), report, hooks=hooks)
    if processes.leads() and not any(summary["tokens"].get("trained", {}).values()):
        print(
            f"warning: stage {stage.name!r} learnt nothing: in none of its {summary['steps']} steps had a prompt "
            "answers of different rewards: raise rollouts_per_prompt, start from a model that is right more (or less) "
            "often, or take easier domains",
            file=sys.stderr,
        )
    return summary


def _step(trainee: Trainee, stage: Rl, bank: Bank | None, judges: Judges) -> Metrics:
    asked = trainee.ask(_curriculum(trainee, stage))
    batch = trainee.sample(asked)
    truncated = trainee.check_truncation(batch)
    judged = judges.judged(batch, trainee.meter)
    signal_of = ppo.signal if stage.algorithm == "ppo" else group_signal
    signal = signal_of(trainee, stage, bank, judged)
    metrics = _describe(trainee, stage, batch, judged, signal)
    if samples.due(trainee):
        samples.keep_rewarded(trainee, stage, batch, judged, signal.advantage_BT)
    parts = minibatches(judged, signal.kept_U, stage.updates_per_batch)
    for number, (part, row_M) in enumerate(parts):
        metrics |= _update(trainee, stage, signal, part, row_M, diagnosed=number == 0)
        if bank is not None:
            trainee.count_tokens("scored", part)
    return {**metrics, "prompts": asked.counts, "truncated": truncated, "updates": len(parts)}


def group_signal(trainee: Trainee, stage: Rl, bank: Bank | None, batch: Batch) -> Signal:
    """Group advantages of the judged rewards; the KL is a term of the loss."""
    advantage_B, zero_signal_U = group_advantages(
        batch.reward_B,
        batch.group,
        stage.advantage_scale,
        batch.domain_ids().to(batch.reward_B.device),
    )
    advantage_B = advantage_B * reward_weight(batch, stage)
    advantage_BT = advantage_B[:, None].expand(batch.rollouts.response_BT.shape)

    def loss_of(part: Batch, row_M: Tensor) -> LossOf:
        reference = None if bank is None else trainee.score(bank, stage.init, part.rollouts)
        temperature = trainee.job.settings.temperature
        return surrogate(
            stage, part.rollouts, advantage_BT[row_M], reference=reference, temperature=temperature
        )

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
    target_M = rollouts.response_BT.flatten()
    weight_M = stage.demonstration_mix * token_weights(rollouts.trained_BT).flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        return cross_entropy(logits_NV, target_M[index_N], weight_M[index_N])

    loss, sums, _ = accumulate_share(
        trainee.policy, rollouts, loss_of, micro_batch_rows=trainee.job.settings.micro_batch_rows
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
