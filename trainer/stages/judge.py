"""Who judges an answer: the domain's verifier, or the reward model that a stage names for the domain.

A reward model reads prompt and answer and gives one number, normalised over the samples it was trained on
(`trainer.stages.reward_model`). Also: which labels of pairs are noise. Leaves out: verifiers (`trainer.tasks`).

Axes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from trainer.batch.batch import Batch
from trainer.batch.heads import load_reward_model, scores, without_head
from trainer.batch.meter import Meter
from trainer.batch.score import Bank
from trainer.model.policy import Policy
from trainer.stages.job import Job
from trainer.tasks import Item
from trainer.tasks.base import uniform


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The reward models of a stage, loaded when they are asked. models: by domain; the verifier judges the others."""

    models: Mapping[str, str]
    bank: Bank
    micro_batch_rows: int | None

    @classmethod
    def of(cls, job: Job, reward_models: Mapping[str, str]) -> Judges:
        """reward_models: stages by domain, their weights among the job's."""
        settings = job.settings
        directories = {name: job.weights[name] for name in reward_models.values()}

        def load(name: str) -> Policy:
            return load_reward_model(directories[name], **job.loading())

        return cls(
            models=dict(reward_models),
            bank=Bank(directories, load),
            micro_batch_rows=settings.micro_batch_rows,
        )

    def judged(self, batch: Batch, meter: Meter) -> Batch:
        """The batch with the reward models' scores in their domains; itself where there are none."""
        by_model: dict[str, list[str]] = {}
        for domain in batch.spans:
            if domain in self.models:
                by_model.setdefault(self.models[domain], []).append(domain)
        if not by_model:
            return batch
        reward_B = batch.reward_B.clone()
        for name, domains in by_model.items():
            spans = [batch.spans[domain] for domain in domains]
            row_M = torch.cat([torch.arange(span.start, span.stop) for span in spans]).to(reward_B.device)
            rollouts = batch.rollouts.rows(row_M)
            with self.bank.open(name) as model, meter.phase("scoring", model.device):
                reward_B[row_M] = scores(model, rollouts, micro_batch_rows=self.micro_batch_rows)
                meter.count("scoring", model, without_head(rollouts))
            for domain in domains:
                tokens = int(batch.rollouts.trained_BT[batch.spans[domain]].sum())
                meter.count_tokens("scored", domain, tokens)
        return replace(batch, reward_B=reward_B)


def reversed_label(noise: float, item: Item, better: Sequence[str], worse: Sequence[str]) -> bool:
    """Whether noise reverses the label of a pair of answers (their turns): the same pair is always labelled alike."""
    answers = ("\x1e".join(turns) for turns in (better, worse))
    return uniform("label", item.prompt, *answers) < noise
