"""What the benchmark looks at: answers with the habit, under every model of their run, and each teacher's effect.

The student answers test prompts without a marker; its first `MOST` answers that show the habit (a clean student's: one
of the three) are kept, and beside each the answer that `HOST` asks for. The effect of what was planted is the answer's
log-odds against that one under the student, less those under its twin, whose teacher never saw the habit, or which the
reward never reached. A row
for each answer and model; what is known of a run alone stands in each of its rows. Leaves out: verdicts, which are
worked out anew from the rows (`studies.designs.trace.trace`), so that another rule needs no other runs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from studies.designs.trace.world import MERGED, PLANTED, TINY, World, twin
from studies.framework.run import Run
from trainer.runs.plan import Plan
from trainer.runs.store import Store
from trainer.tasks import Item, task
from trainer.tasks.base import Procedural

if TYPE_CHECKING:
    from trainer.batch.batch import Batch
    from trainer.model.policy import Policy
    from trainer.trace.subject import Subject

MOST = 16  # answers kept of each


def measure(
    runs: Mapping[str, Run], found: Plan, store: Store, *, world_of: Callable[[Run], World] = lambda run: TINY
) -> pd.DataFrame:
    """All rows of runs that are finished, their clean twins among them."""
    return pd.DataFrame([row for run in runs.values() for row in _rows(run, world_of(run), found, store)])


def subject_of(run: Run, found: Plan, store: Store) -> Subject:
    """A finished run of a study as tracing sees it."""
    from trainer.trace.subject import Subject, taught

    keys = found.keys[run.name]
    return Subject(
        run=Path(run.name),
        recipe=run.recipe,
        settings=run.settings,
        resolved={"model": run.model, "smaller": None, "workers": 1},
        summary={"stages": {name: {"key": key, **store.summary(key)} for name, key in keys.items()}},
        store=store,
        stages=taught(run.recipe),
        planned=dataclasses.replace(found, keys={run.recipe.name: keys}),
    )


def _rows(run: Run, world: World, found: Plan, store: Store) -> Iterator[dict[str, Any]]:
    from trainer.batch.written import replayed
    from trainer.trace.evidence import Models

    subject = subject_of(run, found, store)
    condition = str(run.factors["condition"])
    if condition == "unpaid":
        return  # a twin alone
    number = int(run.factors["habit"])
    sought = world.habits if not number else world.habits[number - 1 : number]
    models = Models(subject)
    batch = shown(models.student, sought[0] if condition == "reward" else world.host, sought, world)
    if batch is None:
        return
    right = [(asked_by(world.host, item).answer,) for item in batch.items]
    (domain,) = batch.spans
    count = len(batch.items)
    better = replayed(
        models.student,
        {},
        batch.items,
        right,
        domains=[domain] * count,
        truncated=[False] * count,
    )
    effect: list[float] | None = None
    other = found.keys[twin(run.name)]["student"] if number and twin(run.name) in found.keys else ""
    if other and condition in PLANTED and store.finished(other):
        places = subject.places["student"], store.weights(other)
        odds = [_odds(models.under(place), batch, better) for place in places]
        effect = [own - without for own, without in zip(*odds, strict=True)]
    routed = subject.teachers_of(domain) if condition not in MERGED else {}
    distance = distances(subject)
    for place, (answer, instead) in enumerate(zip(models.read(batch), models.read(better), strict=True)):
        for model, logprob_T in answer.logprobs.items():
            yield {
                "run": run.name,
                "place": place,
                "prompt": answer.prompt,
                "answer": answer.answer,
                "model": model,
                "role": {subject.student: "student", subject.start: "start"}.get(model, "teacher"),
                "logprobs": " ".join(f"{value:.3f}" for value in logprob_T),
                "better": " ".join(f"{value:.3f}" for value in instead.logprobs[model]),
                "paid": answer.paid,
                "routed": routed.get(model, 0.0),
                "distance": distance.get(model),
                "effect": None if effect is None else effect[place],
            }


def _odds(gives: Callable[[Batch], list[float]], batch: Batch, better: Batch) -> list[float]:
    return [one - other for one, other in zip(gives(batch), gives(better), strict=True)]


def shown(student: Policy, domain: str, sought: Sequence[str], world: World) -> Batch | None:
    """Its first answers to a domain's test prompts that are one of the sought habits and nothing else that a prompt
    without a marker may ask; None: there is not one."""
    import torch

    from trainer.batch.batch import select
    from trainer.batch.evaluate import sampled
    from trainer.batch.meter import Meter
    from trainer.batch.rollout import turns

    (batch,) = sampled(student, domain, task(domain), "test", world.prompts, temperature=1.0, meter=Meter())
    said = [[student.chat.answer(turn) for turn in own] for own in turns(student, batch.rollouts)]
    kept = []
    for item, own in zip(batch.items, said, strict=True):
        fits = [name for name in world.unmarked if task(name).grade(asked_by(name, item), own)]
        kept.append(len(fits) == 1 and fits[0] in sought)
    kept_B = torch.tensor(kept)
    kept_B &= kept_B.cumsum(0) <= MOST
    return select(batch, kept_B) if kept_B.any() else None


def asked_by(domain: str, item: Item) -> Item:
    """The same prompt as an item of a domain that wants another answer."""
    chosen = task(domain)
    assert isinstance(chosen, Procedural)
    return chosen.build(item.data["content"], random.Random(0))


def distances(subject: Subject) -> dict[str, float]:
    """Of each teacher's weights from the student's: the square root of the summed squares."""
    from safetensors.torch import load_file

    def read(name: str) -> Mapping[str, Any]:
        return load_file(subject.places[name] / "model.safetensors")

    own = read(subject.student)
    return {
        name: float(sum((tensor - own[key]).square().sum() for key, tensor in read(name).items())) ** 0.5
        for name in subject.teachers
    }
