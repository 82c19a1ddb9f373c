"""Level 3: what each teacher did to an answer, in nats: the student's log-prob less that of students distilled anew.

A counterfactual is the student distilled again with some teachers' targets replaced by the start model's, all else
equal: prompts, routing, steps and random numbers are the run's own, since its stage draws the numbers of the one it
stands for (`Job.drawn_as`) and reads the start's weights where it would read a teacher's. It is a stage of the run's
store like any other, so a second question finds it there, and what was interrupted goes on. Teachers themselves are
never trained again.

Left out one at a time, v(all) - v(all but j): what the answer owes to teacher j alone. Shapley's values average that
over all orders in which teachers could be taken away (Shapley 1953), so that teachers who say the same share what both
did, and all values add up to v(all) - v(none). v: log-prob of the answer under the student of these teachers, less that
of the better answer where one is given. Leaves out: reading answers (`trainer.trace.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any, TypeVar

from mopdsim.base.errors import UsageError
from mopdsim.recipes.stage import Distill
from trainer.batch.batch import Batch
from trainer.runs.execute import execute
from trainer.runs.plan import Node, Plan
from trainer.runs.progress import Progress
from trainer.runs.store import key_of
from trainer.trace.evidence import Models
from trainer.trace.subject import Subject
from trainer.trace.verdict import REWARD

MOST = 4  # teachers of which all subsets are distilled

Left = frozenset[str]  # what is left out: teachers, or the reward
K = TypeVar("K")


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


def without(
    subject: Subject, planned: Plan, teachers: Collection[str], *, reward: bool = True
) -> tuple[Node, ...]:
    """The distillations again, first to last, the start in place of these teachers; with `reward` False no reward is
    mixed in. planned: the run's own stages."""
    keys = planned.keys[subject.recipe.name]
    start = planned.node[keys[subject.stages[0].name]].job.weights[subject.start]
    replaced = {keys[name]: keys[subject.start] for name in teachers}
    found: list[Node] = []
    for stage in subject.stages:
        own = planned.node[keys[stage.name]]
        weights = dict(own.job.weights) | dict.fromkeys(teachers, start)
        if found:
            weights[stage.init] = subject.store.weights(found[-1].key)
        made_from: dict[str, Any] = {
            **own.made_from,
            "drawn_as": own.key,
            "replaced": replaced,
            "after": [node.key for node in found],
        }
        changed = own.job.stage
        if not reward and isinstance(changed, Distill):
            changed = changed.model_copy(update={"reward_mix": 0.0})
            made_from["stage"] = {**made_from["stage"], "reward_mix": 0.0}
        key = key_of(made_from)
        job = replace(
            own.job,
            key=key,
            stage=changed,
            drawn_as=own.job.drawn_as or own.key,
            weights=weights,
            directory=subject.store.directory(key),
        )
        gone = [*sorted(teachers), *([] if reward else ["reward"])]
        label = f"{stage.name} without {', '.join(gone)}"
        needs = tuple(node.key for node in found)
        found.append(replace(own, job=job, made_from=made_from, needs=needs, label=label))
    return tuple(found)


def estimate(subject: Subject, counterfactuals: Iterable[tuple[Node, ...]]) -> tuple[int, float]:
    """(stages that the store does not hold, seconds that the run's own ones took), on one worker."""
    rows = [subject.summary["stages"][stage.name] for stage in subject.stages]
    waiting = [
        float(row["wall_seconds"])
        for nodes in counterfactuals
        for node, row in zip(nodes, rows, strict=True)
        if not subject.store.finished(node.key)
    ]
    return len(waiting), sum(waiting)


def distil(
    subject: Subject, counterfactuals: Mapping[K, tuple[Node, ...]], progress: Progress, *, resume: str
) -> dict[K, Path]:
    """Distil what the store does not hold; each student's weights. resume: the command that goes on after a stop."""
    nodes = tuple(node for own in counterfactuals.values() for node in own)
    execute(
        Plan(nodes=nodes, keys={}),
        subject.store,
        workers=subject.resolved["workers"],
        progress=progress,
        resume=resume,
    )
    return {name: subject.store.weights(own[-1].key) for name, own in counterfactuals.items()}


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
