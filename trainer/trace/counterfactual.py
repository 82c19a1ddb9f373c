"""Level 3: the student distilled again with one teacher's targets replaced by the start model's, all else equal.

Prompts, routing, steps and random numbers are the run's own: a counterfactual stage draws the numbers of the stage it
stands for (`Job.drawn_as`) and reads the start's weights where it would read the teacher's. It is a stage of the run's
store like any other, so a second question finds it there, and what was interrupted goes on. Teachers themselves are
never trained again. Leaves out: what the students then say (`trainer.trace.evidence`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mopdsim.recipes.recipe import Distill
from trainer.runs.execute import execute
from trainer.runs.plan import Node, Plan
from trainer.runs.progress import Progress
from trainer.runs.store import key_of
from trainer.trace.subject import Subject

K = TypeVar("K")


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
        found.append(Node(job=job, made_from=made_from, needs=tuple(node.key for node in found), label=label))
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
