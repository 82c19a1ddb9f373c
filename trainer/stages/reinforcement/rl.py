"""Reinforcement learning from verifiers or reward models, one turn or several: sample, judge, step on the advantages.

Algorithms differ in what they make of a judged batch (`trainer.stages.reinforcement.grpo`,
`trainer.stages.reinforcement.ppo`) and in nothing else.
"""

from __future__ import annotations

from torch import Tensor

from mopdsim.base.errors import UsageError
from mopdsim.recipes.recipe import Rl
from trainer.batch.bank import Bank
from trainer.batch.batch import Batch, draw, minibatches, sample
from trainer.batch.diagnose import accumulate
from trainer.batch.meter import TRAINING_PASSES
from trainer.batch.update import accumulate_gradients
from trainer.batch.written import demonstrated
from trainer.losses.losses import Loss, cross_entropy, token_weights
from trainer.stages import samples
from trainer.stages.judge import Judges
from trainer.stages.loop import Hooks, Job, Metrics, Report, StepOf, Trainee, train
from trainer.stages.reinforcement import grpo, ppo
from trainer.stages.reinforcement.surrogate import Signal

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

    def make_step(trainee: Trainee) -> StepOf:
        return lambda trainee: _step(trainee, stage, bank, judges)

    return train(job, make_step, report, hooks=ppo.HOOKS if stage.algorithm == "ppo" else Hooks())


def _step(trainee: Trainee, stage: Rl, bank: Bank | None, judges: Judges) -> Metrics:
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
    judged = judges.judged(batch, meter)
    signal_of = ppo.signal if stage.algorithm == "ppo" else grpo.signal
    signal = signal_of(trainee, stage, bank, judged)
    metrics = _describe(trainee, stage, batch, judged, signal)
    if samples.due(trainee):
        samples.keep_rewarded(trainee, stage, batch, judged, signal.advantage_BT)
    parts = minibatches(judged, signal.kept_U, stage.updates_per_batch)
    for number, (part, row_M) in enumerate(parts):
        diagnosed = number == 0 and trainee.step % job.settings.diagnose_every == 0
        metrics |= _update(trainee, stage, signal, part, row_M, diagnosed=diagnosed)
    if bank is not None:
        _count_scored(trainee, [part for part, _ in parts])
    return {**metrics, "prompts": counts, "truncated": truncated, "updates": len(parts)}


def _update(
    trainee: Trainee, stage: Rl, signal: Signal, batch: Batch, row_M: Tensor, *, diagnosed: bool
) -> Metrics:
    """One optimiser step on some rows."""
    policy, settings, rollouts, meter = trainee.policy, trainee.job.settings, batch.rollouts, trainee.meter
    tokens = int(rollouts.trained_BT.sum())
    loss_of = signal.loss_of(batch, row_M)
    with meter.phase("training", policy.device):
        loss, sums, report = accumulate(
            policy,
            rollouts,
            batch.spans,
            loss_of,
            by_domain=diagnosed,
            temperature=settings.temperature,
            of_states=signal.of_states,
            micro_batch_rows=settings.micro_batch_rows,
        )
        mixed, found = _mix(trainee, stage, batch, row_M) if stage.demonstration_mix else (0.0, {})
        applied = trainee.apply(loss + mixed, batch)
    meter.count("training", policy, rollouts, passes=TRAINING_PASSES)
    for name, span in batch.spans.items():
        meter.count_tokens("trained", name, int(rollouts.trained_BT[span].sum()))
    metrics = {
        name.removesuffix("_sum").removesuffix("_count"): value / tokens for name, value in sums.items()
    }
    return {**applied, **metrics, **found, **report()}


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

    loss, sums = accumulate_gradients(
        trainee.policy, rollouts, loss_of, micro_batch_rows=trainee.job.settings.micro_batch_rows
    )
    trainee.meter.count("training", trainee.policy, rollouts, passes=TRAINING_PASSES)
    for name, span in shown.spans.items():
        trainee.meter.count_tokens("trained", name, int(rollouts.trained_BT[span].sum()))
    return loss, {"demonstration_nll": sums["nll_sum"] / int(rollouts.trained_BT.sum())}


def _count_scored(trainee: Trainee, parts: list[Batch]) -> None:
    for part in parts:
        for name, span in part.spans.items():
            trainee.meter.count_tokens("scored", name, int(part.rollouts.trained_BT[span].sum()))


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
        trainee.meter.count_tokens("generated", name, tokens)
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
