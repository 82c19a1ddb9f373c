"""Supervised fine-tuning on the domains' demonstrations."""

from __future__ import annotations

from torch import Tensor

from mopdsim.recipe import Sft
from trainer.batch import demonstrated, draw
from trainer.diagnose import accumulate
from trainer.loop import Job, Metrics, Report, StepOf, Trainee, train
from trainer.losses import Loss, cross_entropy, token_weights
from trainer.meter import TRAINING_PASSES

ALGORITHM_VERSION = 1


def run(job: Job, stage: Sft, report: Report) -> Metrics:
    """Token-mean cross entropy on fresh demonstrations every step; observations are not trained."""

    def make_step(trainee: Trainee) -> StepOf:
        return lambda trainee: _step(trainee, stage)

    return train(job, make_step, report)


def _step(trainee: Trainee, stage: Sft) -> Metrics:
    job, policy = trainee.job, trainee.policy
    counts, start = trainee.allocate(stage.domains, trainee.amounts.prompts_per_step)
    items = draw(trainee.tasks, counts, start, split="train", seed=job.settings.seed)
    domains = [name for name, count in counts.items() for _ in range(count)]
    batch = demonstrated(policy, trainee.tasks, items, domains=domains, seed=job.seed(trainee.step))
    rollouts = batch.rollouts
    target_N, weight_N = rollouts.response_BT.flatten(), token_weights(rollouts.trained_BT).flatten()

    def loss_of(logits_NV: Tensor, index_N: Tensor) -> Loss:
        return cross_entropy(logits_NV, target_N[index_N], weight_N[index_N])

    with trainee.meter.phase("training", policy.device):
        loss, sums, report = accumulate(
            policy,
            rollouts,
            batch.spans,
            loss_of,
            by_domain=trainee.step % job.settings.diagnose_every == 0,
            micro_batch_rows=job.settings.micro_batch_rows,
        )
        applied = trainee.apply(loss, batch)
    trainee.meter.count("training", policy, rollouts, passes=TRAINING_PASSES)
    whole = int(rollouts.trained_BT.sum())
    described = {}
    for name, span in batch.spans.items():
        tokens = int(rollouts.trained_BT[span].sum())
        trainee.meter.count_tokens("trained", name, tokens)
        share = tokens / whole  # of the gradient too: every token weighs alike
        length = tokens / (span.stop - span.start)
        described[name] = {"length": length, "token_share": share, "effective_share": share}
    return {
        **applied,
        "prompts": counts,
        "domains": described,
        "accuracy": sums["correct_count"] / whole,
        "entropy": sums["entropy_sum"] / whole,
        **report(),
    }
