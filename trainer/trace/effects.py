"""What each teacher did to an answer, in nats: the student's log-prob less that of students distilled otherwise.

Left out one at a time, v(all) - v(all but j): what the answer owes to teacher j alone. Shapley's values average that
over all orders in which teachers could be taken away (Shapley 1953), so that teachers who say the same share what both
did, and all values add up to v(all) - v(none). v: log-prob of the answer under the student of these teachers, less that
of the better answer where one is given. Leaves out: the distillations (`trainer.trace.counterfactual`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial

from mopdsim.base.errors import UsageError
from trainer.batch.batch import Batch
from trainer.runs.plan import Node
from trainer.runs.progress import Progress
from trainer.trace.counterfactual import distil, estimate, without
from trainer.trace.evidence import Models
from trainer.trace.subject import Subject
from trainer.trace.verdict import REWARD

MOST = 4  # teachers of which all subsets are distilled

Left = frozenset[str]  # what is left out: teachers, or the reward


def one_at_a_time(subject: Subject) -> list[Left]:
    """Each teacher, and the reward where it is mixed in."""
    return [frozenset([name]) for name in (*subject.teachers, *([REWARD] if subject.rewarded else []))]


def every_subset(subject: Subject) -> list[Left]:
    """All sets of teachers but the empty one. UsageError above MOST teachers."""
    count = len(subject.teachers)
    if count > MOST:
        raise UsageError(
            f"--shapley: {count} teachers need {2**count - 1} distillations, and {MOST} teachers are the most: use "
            "--confirm, which leaves them out one at a time"
        )
    return [frozenset(left) for size in range(1, count + 1) for left in combinations(subject.teachers, size)]


def shapley(teachers: Sequence[str], value: Mapping[Left, float]) -> dict[str, float]:
    """Each teacher's value. value: of every set that may be left out, the empty one too."""
    count = len(teachers)
    found = {}
    for name in teachers:
        others = [other for other in teachers if other != name]
        found[name] = sum(
            factorial(size)
            * factorial(count - 1 - size)
            / factorial(count)
            * (value[frozenset(left)] - value[frozenset(left) | {name}])
            for size in range(count)
            for left in combinations(others, size)
        )
    return found


def effects(
    models: Models,
    batch: Batch,
    rival: Batch | None,
    *,
    all_subsets: bool,
    progress: Progress,
    resume: str,
) -> list[dict[str, float]]:
    """Of each row's answer, by teacher (and "reward" where left out one at a time): its effect in nats.

    rival: the better answers, as many rows. Says first how long the distillations take. resume: the command
    that goes on after a stop.
    """
    subject = models.subject
    chosen = every_subset(subject) if all_subsets else one_at_a_time(subject)
    planned = subject.plan()
    nodes: dict[Left, tuple[Node, ...]] = {
        left: without(subject, planned, left - {REWARD}, reward=REWARD not in left) for left in chosen
    }
    count, seconds = estimate(subject, nodes.values())
    progress.say(
        f"{count} stages to run, about {seconds:.0f} s of one worker; the store holds the others"
        if count
        else "the store holds every distillation"
    )
    places = {
        frozenset[str](): subject.places[subject.student],
        **distil(subject, nodes, progress, resume=resume),
    }
    value_of: dict[Left, list[float]] = {}
    for left, weights in places.items():
        gives: Callable[[Batch], list[float]] = models.under(weights)
        against = gives(rival) if rival is not None else [0.0] * len(batch.items)
        value_of[left] = [value - other for value, other in zip(gives(batch), against, strict=True)]
    rows = [{left: values[row] for left, values in value_of.items()} for row in range(len(batch.items))]
    if all_subsets:
        return [shapley(subject.teachers, row) for row in rows]
    return [{name: row[frozenset()] - row[left] for left in chosen for name in left} for row in rows]
