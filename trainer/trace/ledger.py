"""Level 2: what each teacher did to an answer, by the ledger that its distillation kept.

The ledger holds each teacher's move of the student's weights (`trainer.stages.ledger`). Its effect on an answer is the
gradient of the student's log-prob times the move: what taking NUDGE of the move back costs, over NUDGE. A whole move
taken back agreed less with level 3 (studies/LOG.md, 2026-11-29), since other moves lean on it. Level 3 differs in two
ways: it puts the start's targets in the teacher's place, and it lets the other teachers answer the changed student.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import LEDGER
from mopdsim.recipes.recipe import Merge
from trainer.batch.batch import Batch
from trainer.batch.routing import teacher_names
from trainer.model.loading import load_policy
from trainer.trace.evidence import Models
from trainer.trace.subject import Subject

NUDGE = 0.001  # of a move
Moves = dict[str, dict[str, Tensor]]  # by teacher (or "reward") and parameter


def moves(subject: Subject) -> Moves:
    """Of all distillations of the student together. NotFoundError where one kept no ledger."""
    found: Moves = {}
    for stage in subject.stages:
        if isinstance(stage, Merge):
            raise UsageError(
                f"{subject.run}: {stage.name!r} merges weights and keeps no ledger: --confirm takes seconds there"
            )
        path = subject.store.directory(subject.summary["stages"][stage.name]["key"]) / LEDGER
        if not path.is_file():
            raise NotFoundError(
                f"{subject.run}: stage {stage.name!r} kept no ledger: run the recipe with --set "
                f"amounts_of.{stage.name}.ledger=true, or use --confirm"
            )
        names = dict(zip(map(str, range(len(teacher_names(stage)))), teacher_names(stage), strict=True))
        for key, tensor in load_file(path).items():
            place, _, parameter = key.partition("/")
            own = found.setdefault(names.get(place, place), {})
            own[parameter] = own[parameter] + tensor if parameter in own else tensor
    return found


def effects(models: Models, batch: Batch, rival: Batch | None) -> list[dict[str, float]]:
    """Of each row's answer, by teacher (and "reward" where one was mixed in): its effect in nats.

    rival: the better answers, as many rows.
    """
    subject = models.subject
    found = moves(subject)
    place = subject.places[subject.student]
    value: dict[str, list[float]] = {}
    for name in ("", *(name for name in found if name != subject.start)):
        student = load_policy(place, **models.loading)
        parameters = dict(student.model.named_parameters())
        with torch.no_grad():
            for parameter, move in found.get(name, {}).items():
                parameters[parameter].sub_(move.to(parameters[parameter].device), alpha=NUDGE)
        gives = models.values(subject.student, student)
        against = gives(rival) if rival is not None else [0.0] * len(batch.items)
        value[name] = [own - other for own, other in zip(gives(batch), against, strict=True)]
    own = value.pop("")
    return [
        {name: (own[row] - values[row]) / NUDGE for name, values in value.items()}
        for row in range(len(batch.items))
    ]
