"""Level 2: what each teacher did to an answer, by the ledger that its distillation kept.

The ledger holds each teacher's move of the student's weights (`trainer.stages.ledger`). Its effect on an answer is
the gradient of the student's log-prob times the move. A difference of two nudged students is not exact enough: float32
rounds it by up to a tenth of a nat, and bfloat16 loses the nudge altogether. A whole move taken back agreed less with
level 3 (studies/LOG.md, 2026-11-29), since other moves lean on it. Level 3 differs in two ways: it puts the start's
targets in the teacher's place, and it lets the other teachers answer the changed student.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.base.run_directory import LEDGER
from mopdsim.recipes.stage import Merge
from trainer.batch.batch import Batch
from trainer.batch.rollout import Rollouts
from trainer.batch.update import accumulate_gradients
from trainer.losses.losses import token_logprob
from trainer.model.loading import load_policy
from trainer.trace.evidence import Models
from trainer.trace.subject import Subject

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
        if not path.is_file() and stage.adapter_rank is not None:
            raise NotFoundError(
                f"{subject.run}: stage {stage.name!r} trained an adapter, and a ledger is kept of whole weights alone: "
                "use --confirm"
            )
        if not path.is_file():
            raise NotFoundError(
                f"{subject.run}: stage {stage.name!r} kept no ledger: run the recipe with --set "
                f"amounts_of.{stage.name}.ledger=true, or use --confirm"
            )
        names = dict(zip(map(str, range(len(stage.teacher_names))), stage.teacher_names, strict=True))
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
    student = load_policy(subject.places[subject.student], **models.loading)
    parameters = [parameter for parameter in student.model.named_parameters() if parameter[1].requires_grad]

    def gradients(rollouts: Rollouts) -> list[Tensor]:
        """Of the answer's log-prob, by parameter."""
        token_M = rollouts.response_BT.flatten()

        def of_logits(logits_NV: Tensor, index_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return token_logprob(logits_NV, token_M[index_N])[0].sum(), {}

        student.model.zero_grad()
        accumulate_gradients(student, rollouts, of_logits, temperature=subject.settings.temperature)
        return [torch.zeros_like(p) if p.grad is None else p.grad for _, p in parameters]

    def odds(row: slice) -> list[Tensor]:
        own = gradients(batch.rollouts.rows(row))
        if rival is None:
            return own
        return [one - other for one, other in zip(own, gradients(rival.rollouts.rows(row)), strict=True)]

    effect: list[dict[str, float]] = []
    for row in range(len(batch.items)):
        gradient = odds(slice(row, row + 1))
        effect.append(
            {
                name: sum(
                    float((g * move[key].to(g.device)).sum())
                    for (key, _), g in zip(parameters, gradient, strict=True)
                    if key in move
                )
                for name, move in found.items()
                if name != subject.start
            }
        )
    return effect
