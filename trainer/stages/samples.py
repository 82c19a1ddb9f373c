"""samples.jsonl: a few of a stage's samples, token by token, with what the student and every teacher give them.

A row is a sample of the batch that a step trains on, scored before the update. A stage keeps them at its start and at
each further tenth of its progress: TIMES steps, ROWS samples spread over the domains and one of each at least, TOKENS
tokens of a sample at most. Nothing here draws a random number, counts on the meter or touches a gradient: a stage's
results are the same without it.

  step, domain, prompt, answer, length (tokens in all), reward (the verifier's)
  tokens    texts of the first tokens; observed ones have null for every number
  student   log-prob of each token under the student
  teachers  the same of every teacher, in the order of the stage's teachers; own: the places of those it learns from
  advantage of each token, and judged_reward where a reward model judges (reinforcement learning)

Log-probs are at the sampling temperature. Leaves out: what is done with a sample (`trainer.stages.distill`,
`trainer.stages.rl`).

Axes: B rows of the batch, M rows kept, T response tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mopdsim.base.run_directory import SAMPLES
from mopdsim.recipes.stage import Distill, Rl
from trainer.batch.batch import Batch, rows_for
from trainer.batch.rollout import Rollouts
from trainer.batch.score import logprobs, score
from trainer.files.checkpoint import Log
from trainer.model import processes
from trainer.model.policy import Policy
from trainer.stages.loop import Trainee
from trainer.stages.targets import Route, Scores, rows_by_teacher

TIMES = 10
ROWS = 8
TOKENS = 256
LETTERS = 4000  # of a prompt
DIGITS = 4


def due(trainee: Trainee) -> bool:
    """Whether this step's samples are to be kept: at the start, and when a further tenth is done."""
    return trainee.progress() * TIMES >= trainee.memory.get("samples", {}).get("taken", 0)


def keep_taught(
    trainee: Trainee,
    stage: Distill,
    batch: Batch,
    routed: Sequence[Route],
    valid: Mapping[str, Tensor | None],
    scores: Mapping[str, Scores],
) -> None:
    """Samples of a distillation step, scored by the student and by every teacher, whoever it is that teaches them.

    What the step knows already is not worked out again: the log-probs of who sampled, and scores of teachers.
    """
    policy, names = trainee.policy, stage.teacher_names
    places = _places(batch)
    row_M = torch.tensor([row for _, row in places], device=policy.device)
    sampled_MT = batch.rollouts.logprob_BT[row_M, :TOKENS]
    student_MT = sampled_MT if stage.on_policy else _logprobs(trainee, policy, batch.rollouts.rows(row_M))
    taught, temperature = rows_by_teacher(routed, batch.group), trainee.job.settings.temperature
    teachers_MT = []
    for name in names:
        valid_V, logprob_MT = valid[name], sampled_MT.clone()
        own_M = torch.isin(row_M, taught.get(name, row_M[:0]).to(policy.device))
        if name in scores:
            logprob_MT[own_M] = scores[name].logprobs(row_M[own_M], temperature)[:, :TOKENS]
        elif stage.on_policy or valid_V is not None:
            # Its own rows are not its samples, or not over the ids that it shares.
            own_M = torch.zeros_like(own_M)
        if not own_M.all():
            with trainee.bank.open(name) as teacher:
                read = rows_for(teacher, policy, batch, row_M[~own_M])
                logprob_MT[~own_M] = _logprobs(trainee, teacher, read, valid_V=valid_V)
        teachers_MT.append(logprob_MT)
    rows = []
    for m, (domain, place) in enumerate(places):
        trained_T = batch.rollouts.trained_BT[place]
        own = next(r for r in routed if r.rows(batch.group).start <= place < r.rows(batch.group).stop)
        rows.append(
            {
                **_described(trainee, batch, domain, place),
                "student": _numbers(batch, place, student_MT[m], trained_T),
                "teachers": [_numbers(batch, place, score_MT[m], trained_T) for score_MT in teachers_MT],
                "own": [names.index(name) for name in own.teachers],
            }
        )
    _write(trainee, rows)


def keep_rewarded(trainee: Trainee, stage: Rl, batch: Batch, judged: Batch, advantage_BT: Tensor) -> None:
    """Samples of a reinforcement step with what the policy gave their tokens and what they were worth."""
    rollouts = batch.rollouts
    rows = []
    for domain, place in _places(batch):
        row = {
            **_described(trainee, batch, domain, place),
            "student": _numbers(batch, place, rollouts.logprob_BT[place], rollouts.trained_BT[place]),
            "advantage": _numbers(batch, place, advantage_BT[place], rollouts.trained_BT[place]),
        }
        if domain in stage.reward_models:
            row["judged_reward"] = float(judged.reward_B[place])
        rows.append(row)
    _write(trainee, rows)


def _places(batch: Batch) -> list[tuple[str, int]]:
    """The first rows of each domain that are trained."""
    each = max(1, ROWS // len(batch.spans))
    trained_B = batch.rollouts.trained_BT.any(1)
    found = [
        (name, trained_B[span].nonzero().squeeze(1)[:each] + span.start) for name, span in batch.spans.items()
    ]
    return [(name, row) for name, rows_M in found for row in rows_M.tolist()]


def _described(trainee: Trainee, batch: Batch, domain: str, place: int) -> dict[str, Any]:
    rollouts, tokenizer = batch.rollouts, trainee.policy.tokenizer
    ids = rollouts.response_BT[place][rollouts.present_BT[place]].tolist()
    return {
        "kind": "sample",
        "step": trainee.step,
        "domain": domain,
        "prompt": batch.items[place // batch.group].prompt[:LETTERS],
        "answer": tokenizer.decode(ids[:TOKENS]),
        "length": len(ids),
        "reward": float(batch.reward_B[place]),
        "tokens": tokenizer.batch_decode([[token] for token in ids[:TOKENS]]),
    }


def _numbers(batch: Batch, place: int, value_T: Tensor, trained_T: Tensor) -> list[float | None]:
    """A number for each token that is shown; None for what the policy did not sample."""
    count = min(TOKENS, int(batch.rollouts.present_BT[place].sum()))
    pairs = zip(value_T[:count].tolist(), trained_T[:count].tolist(), strict=True)
    return [round(value, DIGITS) if trained and math.isfinite(value) else None for value, trained in pairs]


def _logprobs(
    trainee: Trainee, model: Policy, rollouts: Rollouts, *, valid_V: Tensor | None = None
) -> Tensor:
    """logprob_MT of the first tokens, over the ids that student and teacher share; 0 where not trained."""
    settings = trainee.job.settings
    axes_MT = ("response_BT", "present_BT", "trained_BT", "logprob_BT")
    part = replace(rollouts, **{name: getattr(rollouts, name)[:, :TOKENS] for name in axes_MT})
    scored = score(model, part, micro_batch_rows=settings.micro_batch_rows)
    return logprobs(scored, part, temperature=settings.temperature, valid_V=valid_V)


def _write(trainee: Trainee, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the samples. Lines that a killed attempt wrote after its last checkpoint are removed first."""
    kept = trainee.memory.setdefault("samples", {"taken": 0, "bytes": 0})
    with Log(trainee.job.directory / SAMPLES, keep=kept["bytes"], writes=processes.leads()) as log:
        for row in rows:
            log.write(row)
        kept["bytes"] = log.size()
    kept["taken"] += 1
