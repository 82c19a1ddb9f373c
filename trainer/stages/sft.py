"""Supervised fine-tuning on the domains' demonstrations, and on answers that rejection sampling kept."""

from __future__ import annotations

from collections.abc import Mapping

from mopdsim.base.errors import MopdError
from mopdsim.recipes.stage import Sft
from trainer.batch.batch import Batch, draw
from trainer.batch.objective import likelihood
from trainer.batch.written import Kept, demonstrations, replayed
from trainer.losses.losses import token_weights
from trainer.stages.job import Job
from trainer.stages.loop import Metrics, Report, Trainee, train

ALGORITHM_VERSION = 1
KEPT = "kept:"  # before a domain's name: its kept answers, among the shares of examples


def run(job: Job, stage: Sft, report: Report) -> Metrics:
    """Token-mean cross entropy on fresh demonstrations and kept answers every step; observations are not trained."""

    kept = Kept([job.data[name] for name in stage.data], seed=job.seed)
    shares = shares_of(stage, kept)
    return train(job, lambda trainee: _step(trainee, shares, kept), report)


def shares_of(stage: Sft, kept: Kept) -> dict[str, float]:
    """The shares of examples: a domain's demonstrations by its name, its kept answers under KEPT + name.

    MopdError where a domain was sampled and nothing of it kept.
    """
    shares: dict[str, float] = {}
    for domain, share in stage.domains.items():
        if domain not in kept.samples:
            shares[domain] = share
            continue
        if not kept.samples[domain]:
            raise MopdError(
                f"stage {stage.name!r}: {', '.join(stage.data)} kept no answer of {domain!r}: sample more of it "
                "(steps or rollouts_per_prompt), start from a model that is right in it at times, set keep = 'best', "
                "or leave the domain to demonstrations"
            )
        if stage.data_share < 1:
            shares[domain] = share * (1 - stage.data_share)
        shares[KEPT + domain] = share * stage.data_share
    return shares


def _step(trainee: Trainee, shares: Mapping[str, float], kept: Kept) -> Metrics:
    counts, start = trainee.allocate(shares)
    batch = _examples(trainee, counts, start, kept)
    rollouts = batch.rollouts
    applied, sums = trainee.update(batch, likelihood(rollouts, token_weights(rollouts.trained_BT)))
    whole = int(rollouts.trained_BT.sum())
    described = {}
    for name, span in batch.spans.items():
        tokens = int(rollouts.trained_BT[span].sum())
        share = tokens / whole  # of the gradient too: every token weighs alike
        length = tokens / (span.stop - span.start)
        described[name] = {"length": length, "token_share": share, "effective_share": share}
    return {
        **applied,
        "prompts": {name: span.stop - span.start for name, span in batch.spans.items()},
        **_from_data(counts),
        "domains": described,
        "accuracy": sums.whole["correct_count"] / whole,
        "entropy": sums.whole["entropy_sum"] / whole,
    }


def _examples(trainee: Trainee, counts: Mapping[str, int], start: Mapping[str, int], kept: Kept) -> Batch:
    """This step's examples: of each domain its demonstrations, then its kept answers."""
    job, tasks, seed = trainee.job, trainee.tasks, trainee.job.settings.seed
    fresh = {name: count for name, count in counts.items() if not name.startswith(KEPT)}
    items = draw(tasks, fresh, start, split="train", seed=seed)
    names = [name for name, count in fresh.items() for _ in range(count)]
    said = demonstrations(tasks, items, domains=names, seed=job.seed(trainee.step))
    rows = [(name, item, turns, False) for name, item, turns in zip(names, items, said, strict=True)]
    for name, count in counts.items():
        if name not in fresh:
            domain = name.removeprefix(KEPT)
            for answer in kept.take(domain, start[name], count):
                item = answer.item(tasks[domain], seed=seed)
                rows.append((domain, item, answer.turns, answer.truncated))
    order = {name.removeprefix(KEPT): place for place, name in enumerate(counts)}
    rows.sort(key=lambda row: order[row[0]])
    domains, asked, answered, truncated = zip(*rows, strict=True)
    return replayed(trainee.policy, tasks, asked, answered, domains=domains, truncated=truncated)


def _from_data(counts: Mapping[str, int]) -> Metrics:
    """How many examples of each domain were kept answers, where a stage reads any."""
    found = {name.removeprefix(KEPT): count for name, count in counts.items() if name.startswith(KEPT)}
    return {"from_data": found} if found else {}
