"""Level 1: an answer token by token under the student, its start and every teacher. Forward passes alone.

Leaves out: who is to blame (`trainer.trace.verdict`), training again (`trainer.trace.effects`).

Axes: B rows, M rows kept, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mopdsim.base.errors import NotFoundError, UsageError, did_you_mean
from trainer.batch.batch import Batch, join, rows_for, select
from trainer.batch.evaluate import sampled
from trainer.batch.meter import Meter
from trainer.batch.rollout import generate, turns
from trainer.batch.score import Bank, logprobs, score
from trainer.batch.written import replayed
from trainer.model.loading import check_device, load_policy
from trainer.model.policy import Policy
from trainer.stages.preflight import shared_ids
from trainer.tasks import Item, task
from trainer.trace.subject import Subject
from trainer.trace.verdict import Array, Verdict, judge


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer. logprobs: of each token by stage name (student, start, teachers), in nats. paid: whether the domain's
    verifier gives it something; None where it was not asked (the prompt is nobody's item)."""

    prompt: str
    domain: str
    answer: str
    tokens: tuple[str, ...]
    logprobs: Mapping[str, tuple[float, ...]]
    paid: bool | None = None

    def ratios(self, subject: Subject) -> Array:
        """ratio_UX: of each token, log-prob under the student and every teacher less that under the start."""
        start = self.logprobs[subject.start]
        names = (subject.student, *subject.teachers)
        return np.array([self.logprobs[name] for name in names]).T - np.array(start)[:, None]


def verdict(subject: Subject, answers: Sequence[Answer]) -> Verdict:
    """Who is to blame for one answer or several. A reward that was mixed in counts where it may have paid."""
    names = (subject.student, subject.start, *subject.teachers)
    logprob_UX = np.array([[sum(answer.logprobs[name]) for name in names] for answer in answers])
    paid_U = [answer.paid is not False for answer in answers] if subject.rewarded else None
    return judge(subject.teachers, logprob_UX, paid_U=paid_U)


class Models:
    """A run's models, loaded when needed, and what they give to answers."""

    def __init__(self, subject: Subject, *, device: str | None = None) -> None:
        """device: the run's where None. UsageError where a model reads other tokens than the student; NotFoundError
        where weights in the store are damaged."""
        self.subject, settings = subject, subject.settings
        self.loading: dict[str, Any] = {
            "device": device or settings.device,
            "dtype": settings.dtype,
            "chat": settings,
            "read_only": True,
        }
        check_device(self.loading["device"])
        torch.set_num_threads(settings.threads)
        places = subject.places
        self.student = self._load(subject.student, places.pop(subject.student)).frozen()
        self.bank = Bank(places, lambda name: self._load(name, places[name]))
        self.others = tuple(places)

    def _load(self, name: str, place: Path) -> Policy:
        try:
            return load_policy(place, **self.loading)
        except NotFoundError as error:
            if not place.is_relative_to(self.subject.store.root):
                raise
            run = self.subject.run
            raise NotFoundError(
                f"{run}: the weights of {name} are damaged: make them again with `mopd trace {run} --rebuild` ({error})"
            ) from error

    def read(self, batch: Batch) -> list[Answer]:
        """Each row of the batch under every model."""
        scores = {self.subject.student: self.logprobs(self.subject.student, self.student, batch)}
        for name in self.others:
            with self.bank.open(name) as reader:
                scores[name] = self.logprobs(name, reader, batch)
        said = turns(self.student, batch.rollouts)
        tokenizer, trained_BT = self.student.tokenizer, batch.rollouts.trained_BT
        domains = [name for name, span in batch.spans.items() for _ in range(span.start, span.stop)]
        return [
            Answer(
                prompt=batch.items[row // batch.group].prompt,
                domain=domains[row],
                answer="\n".join(said[row]),
                tokens=tuple(
                    tokenizer.batch_decode(
                        [[x] for x in batch.rollouts.response_BT[row][trained_BT[row]].tolist()]
                    )
                ),
                logprobs={name: score_M[row] for name, score_M in scores.items()},
                paid=_paid(batch.items[row // batch.group], domains[row], said[row], self.student),
            )
            for row in range(len(trained_BT))
        ]

    def logprobs(self, name: str, reader: Policy, batch: Batch) -> list[tuple[float, ...]]:
        """Log-prob of each sampled token of each row, at the run's temperature, over the ids that both models have."""
        settings, valid_V = self.subject.settings, shared_ids(self.student, name, reader)
        every = torch.arange(len(batch.rollouts.response_BT), device=self.student.device)
        read = rows_for(reader, self.student, batch, every)
        scored = score(reader, read, micro_batch_rows=settings.micro_batch_rows)
        found_BT = logprobs(scored, read, temperature=settings.temperature, valid_V=valid_V)
        trained_BT = batch.rollouts.trained_BT
        return [tuple(row_T[kept_T].tolist()) for row_T, kept_T in zip(found_BT, trained_BT, strict=True)]

    def under(self, weights: Path) -> Callable[[Batch], list[float]]:
        """What another student gives to each row's answer: its log-prob in nats."""
        name, reader = weights.parent.name, load_policy(weights, **self.loading).frozen()
        return lambda batch: [sum(row) for row in self.logprobs(name, reader, batch)]

    def asked(self, prompt: str, answer: str | None, *, domain: str) -> Batch:
        """A prompt with this answer, or with the student's own likeliest. UsageError where it outgrows the model."""
        item = Item(domain=domain, prompt=prompt, answer="")
        most = max(task(name).max_new_tokens for name in self.subject.recipe.domains)
        ids = self.student.chat.prompts([prompt])
        length = most if answer is None else len(self.student.chat.turns([answer])[0])
        if len(ids[0]) + length > self.student.max_positions:
            raise UsageError(
                f"prompt {prompt[:40]!r}: its {len(ids[0])} tokens and {length} of the answer are more than the "
                f"model's {self.student.max_positions} positions: shorten it"
            )
        if answer is not None:
            return replayed(self.student, {}, [item], [(answer,)], domains=[domain], truncated=[False])
        rollouts = generate(
            self.student, ids, rollouts_per_prompt=1, max_new_tokens=most, temperature=0.0, seed=0
        )
        return Batch(
            items=(item,),
            rollouts=rollouts,
            reward_B=torch.zeros(1, device=self.student.device),
            spans={domain: slice(0, 1)},
        )

    def failures(self, domain: str, count: int) -> Batch:
        """The first test prompts that the student's likeliest answers get less than full marks for, `count` at most.

        UsageError where there is none.
        """
        items, parts, found = self.subject.settings.test_items, list[Batch](), 0
        for batch in self._likeliest(self.student, domain):
            failed_B = batch.reward_B < 1.0
            failed_B &= failed_B.cumsum(0) <= count - found
            if part := select(batch, failed_B) if failed_B.any() else None:
                parts.append(part)
                found += len(part.items)
        if not parts:
            raise UsageError(
                f"domain {domain!r}: the student's likeliest answers to all {items} test prompts are right, so there "
                "is no failure to trace: give --prompt and --answer"
            )
        return join(self.student, parts)

    def tested(self, name: str, domain: str) -> Batch:
        """A model's likeliest answers to all test prompts of a domain."""
        with self._open(name) as reader:
            return join(self.student, self._likeliest(reader, domain))

    def right(self, batch: Batch) -> Batch | None:
        """The items' own answers in place of those given; None where an item has none."""
        (domain,) = batch.spans
        said = [(item.answer,) for item in batch.items]
        if not all(answer for (answer,) in said):
            return None
        count = len(said)
        return replayed(
            self.student, {}, batch.items, said, domains=[domain] * count, truncated=[False] * count
        )

    def _open(self, name: str) -> AbstractContextManager[Policy]:
        return nullcontext(self.student) if name == self.subject.student else self.bank.open(name)

    def _likeliest(self, reader: Policy, domain: str) -> list[Batch]:
        items = self.subject.settings.test_items
        return sampled(reader, domain, task(domain), "test", items, temperature=0.0, meter=Meter())


def _paid(item: Item, domain: str, said: list[str], student: Policy) -> bool | None:
    if not item.answer and not item.data:
        return None
    return task(domain).grade(item, [student.chat.answer(turn) for turn in said]) > 0


def check_domain(subject: Subject, domain: str) -> None:
    """UsageError where the run has no such domain."""
    if domain not in subject.recipe.domains:
        raise UsageError(
            f"--domain {domain}: not one of the run's{did_you_mean(domain, subject.recipe.domains)}"
        )
