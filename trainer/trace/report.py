"""The report on a run: over all test prompts, which teacher taught what, which habits came from where, who does harm.

  matrix  by domain, the mean share of every cause in the student's likeliest answers (`trainer.trace.verdict`)
  lift    by teacher and domain, mean over prompts of log T(right answer) - log start(right answer), in nats
  habits  what the student shows more or less often than the start: openings, endings, pieces, their length.
          Its source is the teacher that differs most in the same direction, by half as much at least, or nobody

A teacher does harm on a domain where all of its lift's interval is below 0 and its share in the student's failures is
LEAST_SHARE at least. For each harm `trainer.trace.change` has a recipe without it. All of it is evidence, read off
forward passes and the models' own answers; proof is `trainer.trace.effects`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.batch.batch import Batch, select
from trainer.batch.rollout import turns
from trainer.trace.evidence import Models, verdict
from trainer.trace.subject import Subject
from trainer.trace.verdict import Array, Share, mean_interval

LEAST_SHARE = 0.1  # of a teacher in a domain's failures, below which it does no harm there
LEAST_CHANGE = 0.1  # between the student's and the start's rate of a habit
SURE = 3.0  # standard errors of that difference
MOST = 3  # habits of a domain
PIECES = (2, 3)  # letters or words of an n-gram
LENGTH = "length in letters"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """Something that answers show. rates: of answers (or the mean length), by stage name. source: a teacher or None."""

    domain: str
    what: str
    rates: Mapping[str, float]
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Harm:
    """lift: the teacher's on the domain, in nats. share: in the student's failures there."""

    teacher: str
    domain: str
    lift: Share
    share: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """scores: of likeliest answers, by stage name and domain. matrix: by domain and cause. lift: by teacher and domain,
    where the domain's items have answers."""

    scores: Mapping[str, Mapping[str, float]]
    matrix: Mapping[str, Mapping[str, Share]]
    lift: Mapping[str, Mapping[str, Share]]
    habits: tuple[Habit, ...]
    harms: tuple[Harm, ...]


def report(models: Models) -> Report:
    """Every domain of the run. Answers of all models to all test prompts, and forward passes over the student's."""
    subject = models.subject
    names = (subject.student, subject.start, *subject.teachers)
    scores: dict[str, dict[str, float]] = {name: {} for name in names}
    matrix: dict[str, Mapping[str, Share]] = {}
    lift: dict[str, dict[str, Share]] = {name: {} for name in subject.teachers}
    habits: list[Habit] = []
    harms: list[Harm] = []
    for domain in subject.recipe.domains:
        tested = {name: models.tested(name, domain) for name in names}
        for name, batch in tested.items():
            scores[name][domain] = float(batch.reward_B.mean())
        own = tested[subject.student]
        matrix[domain] = _shares(models, own)
        habits += habits_of(domain, subject, {name: _said(models, batch) for name, batch in tested.items()})
        right = models.right(own)
        if right is None:
            continue
        failed_B = own.reward_B < 1.0
        blamed = _shares(models, select(own, failed_B)) if failed_B.any() else {}
        for name, lift_U in _lifts(models, right).items():
            lift[name][domain] = mean_interval(lift_U)
            share = blamed[name].share if name in blamed else 0.0
            if lift[name][domain].high < 0 and share >= LEAST_SHARE:
                harms.append(Harm(teacher=name, domain=domain, lift=lift[name][domain], share=share))
    return Report(
        scores=scores,
        matrix=matrix,
        lift=lift,
        habits=tuple(habits),
        harms=tuple(sorted(harms, key=lambda harm: harm.lift.share)),
    )


def _shares(models: Models, batch: Batch) -> Mapping[str, Share]:
    """Mean shares over a batch's answers."""
    return verdict(models.subject, models.read(batch)).shares


def _lifts(models: Models, right: Batch) -> dict[str, Array]:
    """lift_U of each teacher on the right answers."""
    ratio_UX = np.array([answer.ratios(models.subject).sum(0) for answer in models.read(right)])
    return {name: ratio_UX[:, place] for place, name in enumerate(models.subject.teachers, start=1)}


def _said(models: Models, batch: Batch) -> list[str]:
    return ["\n".join(said) for said in turns(models.student, batch.rollouts)]


def habits_of(domain: str, subject: Subject, said: Mapping[str, Sequence[str]]) -> list[Habit]:
    """The domain's habits, the most changed first. said: every model's answers to the same prompts, by stage name."""
    rates = {name: _rates(texts) for name, texts in said.items()}
    count = len(said[subject.student])
    own, before = rates[subject.student], rates[subject.start]
    found: list[tuple[float, Habit]] = []
    for what in own.keys() | before.keys():
        s, z = own[what], before[what]
        error = ((s * (1 - s) + z * (1 - z)) / count) ** 0.5
        if abs(s - z) >= max(LEAST_CHANGE, SURE * error):
            found.append((abs(s - z), _habit(domain, what, subject, {n: r[what] for n, r in rates.items()})))
    found.sort(key=lambda pair: (-pair[0], pair[1].what))
    length_U = {name: np.array([len(text) for text in texts], dtype=float) for name, texts in said.items()}
    moved_U = length_U[subject.student] - length_U[subject.start]
    if abs(moved_U.mean()) > SURE * moved_U.std() / count**0.5:
        means = {name: float(own_U.mean()) for name, own_U in length_U.items()}
        found.insert(0, (0.0, _habit(domain, LENGTH, subject, means)))
    return [habit for _, habit in found[:MOST]]


def _habit(domain: str, what: str, subject: Subject, rates: Mapping[str, float]) -> Habit:
    moved = rates[subject.student] - rates[subject.start]
    pulls = {name: (rates[name] - rates[subject.start]) * np.sign(moved) for name in subject.teachers}
    first = max(pulls, key=lambda name: pulls[name])
    source = first if pulls[first] >= abs(moved) / 2 else None
    return Habit(domain=domain, what=what, rates=dict(rates), source=source)


def _rates(texts: Sequence[str]) -> defaultdict[str, float]:
    """Of each feature, the share of texts that show it; 0 of any other."""
    shown = Counter(what for text in texts for what in features(text))
    return defaultdict(float, {what: count / len(texts) for what, count in shown.items()})


def features(text: str) -> set[str]:
    """What one answer shows: an opening, an ending, pieces of two or three units. A unit is a word, or a letter where
    there is one word alone."""
    words = text.split()
    units, glue = (words, " ") if len(words) > 1 else (list(text.strip()), "")
    if not units:
        return {"says nothing"}
    pieces = {
        f"says {glue.join(units[place : place + size])!r}"
        for size in PIECES
        for place in range(len(units) - size + 1)
    }
    return {f"opens with {units[0]!r}", f"ends with {units[-1]!r}", *pieces}
