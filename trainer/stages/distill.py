"""Distillation from one or many teachers: the student (or its teachers) samples, each prompt's own teachers score.

One step: draw prompts of every domain, route them, sample, let each teacher score its rows (`trainer.batch.score`),
step on the weighted sum of divergences (`trainer.stages.targets`). Leaves out: the divergences themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from mopdsim.base.errors import UsageError
from mopdsim.recipes.stage import Distill
from trainer.batch.batch import Batch, graded_by_score, join, passing, rows_for, spread, with_prompts_of
from trainer.batch.update import Sums, means
from trainer.losses import balance
from trainer.losses.losses import group_advantages, token_weights
from trainer.model import processes
from trainer.model.loading import whole_sha256
from trainer.model.policy import Policy
from trainer.stages import ledger, samples
from trainer.stages.loop import Hooks, Job, Metrics, Report, Trainee, train
from trainer.stages.preflight import preflight, prompts_of, shared_ids
from trainer.stages.targets import (
    Route,
    Scores,
    Target,
    loss_function,
    routes,
    rows_by_teacher,
    sampling_routes,
    teacher_loss,
)

ALGORITHM_VERSION = 2  # 2: several samples of a prompt off-policy read it once
LEAST_DISPERSION = 1e-6
Valid = Mapping[str, Tensor | None]


def run(job: Job, stage: Distill, report: Report) -> Metrics:
    """Multi-teacher distillation, on-policy or off-policy."""
    valid: dict[str, Tensor | None] = {}

    def begin(trainee: Trainee) -> None:
        report(trainee.note("checks its teachers"))
        valid.update(_check_teachers(trainee, stage))

    def finish(trainee: Trainee) -> None:
        if trainee.amounts.ledger:
            ledger.write(trainee)

    hooks = Hooks(begin=begin, finish=finish)
    return train(job, lambda trainee: _step(trainee, stage, valid), report, hooks=hooks)


def _check_teachers(trainee: Trainee, stage: Distill) -> dict[str, Tensor | None]:
    """Preflight with the stage's own loss before the first step; returns each teacher's mask of shared ids.

    A teacher whose weights equal the student's or another teacher's cannot give another gradient: it is said on
    stderr (its own training changed nothing, or it is meant so) and left out of that comparison. A stage that is
    drawn as another has such teachers on purpose, and says nothing.
    """
    names = stage.teacher_names
    if trainee.step == 0:
        weights = {whole_sha256(trainee.job.weights[stage.init]): f"the student's start ({stage.init})"}
        distinct = []
        for name in names:
            twin = weights.setdefault(whole_sha256(trainee.job.weights[name]), name)
            if twin == name:
                distinct.append(name)
            elif trainee.job.drawn_as is None:
                print(
                    f"warning: stage {stage.name!r}: teacher {name!r} has the weights of {twin}",
                    file=sys.stderr,
                )
        teachers = {name: partial(trainee.bank.open, name) for name in distinct}
        trainee.memory["preflight"] = preflight(
            trainee.policy, teachers, prompts_of(trainee.job), loss=teacher_loss(stage)
        )
    valid = {}
    for name in names:
        with trainee.bank.open(name) as teacher:
            valid[name] = shared_ids(trainee.policy, name, teacher)
        if valid[name] is not None and stage.extrapolation != 1:
            raise UsageError(
                f"stage {stage.name!r}: extrapolation = {stage.extrapolation} needs heads of one width, and teacher "
                f"{name!r} has another than the student: set extrapolation = 1 or use teachers of the student's size"
            )
    return valid


def _step(trainee: Trainee, stage: Distill, valid: Valid) -> Metrics:
    batch, routed = (
        _student_samples(trainee, stage) if stage.on_policy else _teacher_samples(trainee, stage, valid)
    )
    if batch is None:
        return {"skipped": "no teacher sample passed the verifier"}
    scores, reference = _score(trainee, stage, batch, routed, valid)
    if samples.due(trainee):
        samples.keep_taught(trainee, stage, batch, routed, valid, scores)
    target = Target(
        stage=stage,
        rollouts=batch.rollouts,
        weight_BT=_weights(trainee, stage, batch),
        advantage_B=group_advantages(batch.reward_B, batch.group)[0] if stage.reward_mix else None,
        temperature=trainee.job.settings.temperature,
        routes=routed,
        scores=scores,
        reference=reference,
    )
    kept: dict[str, Any] = {}
    if trainee.amounts.ledger:
        kept = {"parts": ledger.parts_of(target, batch), "enter": partial(ledger.enter, trainee)}
    applied, sums = trainee.update(batch, loss_function(target), temperature=target.temperature, **kept)
    prompts = {name: (span.stop - span.start) // batch.group for name, span in batch.spans.items()}
    return {**applied, "prompts": prompts, **_describe(trainee, target, batch, sums)}


def _student_samples(trainee: Trainee, stage: Distill) -> tuple[Batch, list[Route]]:
    """On-policy: the student answers; every route's teachers will score."""
    asked = trainee.ask(stage.domains)
    batch = trainee.sample(asked)
    trainee.check_truncation(batch)
    counts = {name: count for name, count in asked.counts.items() if count}
    return batch, routes(stage, counts, seed=trainee.job.seed("route", trainee.step))


def _teacher_samples(trainee: Trainee, stage: Distill, valid: Valid) -> tuple[Batch | None, list[Route]]:
    """Off-policy: each route's teacher answers its own rendering of the prompts, and the student reads its own; with
    `correct_only` what the verifier fails is not trained. Ids that are padding of a teacher's head are not drawn, for
    the student may have no place for them."""
    asked, seed = trainee.ask(stage.domains), trainee.job.seed("route", trainee.step)
    parts: list[tuple[Route, Batch]] = []
    for number, route in enumerate(sampling_routes(stage, asked.counts, seed=seed)):
        (name,) = route.teachers
        with trainee.bank.open(name) as teacher:
            part = trainee.sample(
                asked[route.prompts],
                teacher,
                seed=(trainee.step, number),
                grader=graded_by_score,
                forbidden_F=_padding(valid[name], teacher),
            )
        part = replace(part, rollouts=with_prompts_of(part.rollouts, trainee.policy, part.items))
        if stage.correct_only:
            part = passing(part, part.reward_B >= 1.0)
        if part.items:
            parts.append((route, part))
    if not parts:
        return None, []
    edges = [0, *accumulate(len(part.items) for _, part in parts)]
    moved = [
        replace(route, prompts=slice(*ends)) for (route, _), ends in zip(parts, pairwise(edges), strict=True)
    ]
    return join(trainee.policy, [part for _, part in parts]), moved


def _padding(valid_V: Tensor | None, teacher: Policy) -> Tensor | None:
    """The ids of the teacher's head that no token has; None where its head is as wide as the student's."""
    if valid_V is None:
        return None
    shared = set(valid_V.nonzero().squeeze(1).tolist())
    unused = [number for number in range(teacher.vocab_size) if number not in shared]
    return torch.tensor(unused, device=teacher.device, dtype=torch.long)


def _score(
    trainee: Trainee, stage: Distill, batch: Batch, routed: Sequence[Route], valid: Valid
) -> tuple[dict[str, Scores], Scores | None]:
    """By teacher its last hidden states on its own rows; those of the extrapolation's reference on all."""
    if stage.loss == "sample_nll":
        return {}, None
    scores = {}
    for name, row_M in rows_by_teacher(routed, batch.group).items():
        scores[name] = _scores_of(trainee, name, batch, row_M, valid[name])
        for route in routed:
            if name in route.teachers:
                tokens = int(batch.rollouts.trained_BT[route.rows(batch.group)].sum())
                trainee.meter.count_tokens("scored", route.domain, tokens)
    if stage.extrapolation == 1:
        return scores, None
    return scores, _scores_of(trainee, stage.init, batch, torch.arange(len(batch.reward_B)), None)


def _scores_of(trainee: Trainee, name: str, batch: Batch, row_M: Tensor, valid_V: Tensor | None) -> Scores:
    """A model's scores of some rows, of which each of several processes reads its own."""
    mine = processes.share_of(len(batch.reward_B), batch.group)
    own = slice(int((row_M < mine.start).sum()), int((row_M < mine.stop).sum()))
    place_B = torch.zeros(len(batch.reward_B), dtype=torch.long)
    place_B[row_M] = torch.arange(len(row_M))
    device = trainee.policy.device
    with trainee.bank.open(name) as scorer:
        read = rows_for(scorer, trainee.policy, batch, row_M.to(device))
        scored = trainee.score(name, read, rows=own)
    return Scores(place_B=place_B.to(device), read=read, scored=scored, valid_V=valid_V)


def _weights(trainee: Trainee, stage: Distill, batch: Batch) -> Tensor:
    """weight_BT: the normaliser times the balance of the domains."""
    trained_BT = batch.rollouts.trained_BT
    names = list(batch.spans)
    means = trainee.memory.get("means", {})
    tokens = {
        name: trainee.average(f"tokens/{name}", float(trained_BT[batch.spans[name]].sum())) for name in names
    }
    if stage.balance == "token_share":
        weight_D = balance.token_share([max(tokens[name], 1.0) for name in names])
    elif stage.balance == "remaining_gap":
        weight_D = balance.remaining_gap([means.get(f"kl/{name}", 1.0) for name in names])
    elif stage.balance == "dispersion":
        weight_D = balance.dispersion([means.get(f"dispersion/{name}", 1.0) for name in names])
    else:
        weight_D = balance.none(len(names))
    row_weight_B = spread(batch.spans, weight_D.tolist())
    return token_weights(trained_BT, stage.normalizer, row_weight_B.to(trained_BT.device))


def _describe(trainee: Trainee, target: Target, batch: Batch, sums: Sums) -> Metrics:
    """Per domain and per teacher: reverse KL a token; lengths; token share; effective share (weight x dispersion). Of
    rewards and lengths, means over the rows that are trained.

    teacher_kl is in the order of the stage's teachers (None: no row in this batch): a stage that several recipes share
    does not know their names.
    """
    trained_B = batch.rollouts.trained_BT.sum(1)
    whole, kept_B = max(float(trained_B.sum()), 1.0), trained_B > 0
    domains: dict[str, dict[str, float]] = {}
    for name, span in batch.spans.items():
        tokens = int(trained_B[span].sum())
        row = {
            "reward": float(batch.reward_B[span][kept_B[span]].mean()),
            "length": tokens / int(kept_B[span].sum()),
            "token_share": tokens / whole,
            **{
                key.removesuffix("_sum"): float(value) / max(tokens, 1)
                for key, value in sums.domains.get(name, {}).items()
            },
        }
        if "kl" in row:
            variance = max(row["log_ratio_square"] - row["kl"] ** 2, 0.0)
            row["dispersion"] = max(variance**0.5, LEAST_DISPERSION)
            trainee.average(f"kl/{name}", row["kl"])
            trainee.average(f"dispersion/{name}", row["dispersion"])
        domains[name] = row
    shares_D = balance.effective_share(
        [float(target.weight_BT[span].sum()) for span in batch.spans.values()],
        [row.get("dispersion", 1.0) for row in domains.values()],
    )
    for row, share in zip(domains.values(), shares_D.tolist(), strict=True):
        row["effective_share"] = share
    scored = [sums.teachers.get(name) for name in target.stage.teacher_names]
    found = {
        "domains": domains,
        "teacher_kl": [row["kl_sum"] / row["tokens"] if row else None for row in scored],
        "reward": float(batch.reward_B[kept_B].mean()),
        "truncated": float(batch.rollouts.truncated_B[kept_B].float().mean()),
        **means(sums.whole, whole),
    }
    if target.stage.reward_mix:
        found["zero_signal"] = float(group_advantages(batch.reward_B, batch.group)[1].float().mean())
    return found
