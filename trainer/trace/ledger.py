"""Level 2: what each teacher did to an answer, by the ledger that its distillation kept.

The ledger holds each teacher's move of the student's weights (`trainer.stages.ledger`). Its effect on an answer is
the gradient of the student's log-prob times the move: the difference between half a NUDGE of the move more and half a
NUDGE less, over NUDGE: on one side alone, curvature was up to a fifth of it, and float32 rounds by about .01 nats. A
whole move taken back agreed less with level 3 (studies/LOG.md, 2026-11-29), since other moves lean on it. Level 3
differs in two ways: it puts the start's targets in the teacher's place, and it lets the other teachers answer the
changed student.
"""

from __future__ import annotations

from itertools import product

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
    names = [name for name in found if name != subject.start]
    value: dict[tuple[str, int], list[float]] = {}
    for name, sign in product(names, (1, -1)):
        student = load_policy(place, **models.loading)
        parameters = dict(student.model.named_parameters())
        with torch.no_grad():
            for parameter, move in found[name].items():
                parameters[parameter].add_(move.to(parameters[parameter].device), alpha=sign * NUDGE / 2)
        gives = models.values(subject.student, student)
        against = gives(rival) if rival is not None else [0.0] * len(batch.items)
        value[name, sign] = [own - other for own, other in zip(gives(batch), against, strict=True)]
    return [
        {name: (value[name, 1][row] - value[name, -1][row]) / NUDGE for name in names}
        for row in range(len(batch.items))
    ]
