"""Rejection sampling: a model answers prompts several times, a judge chooses, what is kept becomes a dataset.

Batch by batch, as a training loop goes step by step: prompts come from the training streams, all randomness from
(stage key, batch), and what was kept since the last checkpoint is written as a part of its own, so that a killed stage
ends with the bytes of an unbroken one. Leaves out: training on the data (`trainer.stages.sft`), its files
(`trainer.batch.written`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopdsim.base.run_directory import CHECKPOINTS, DATA, METRICS
from mopdsim.recipes.stage import RejectionSampling
from trainer.batch import written
from trainer.batch.batch import Batch
from trainer.batch.evaluate import error_of_mean
from trainer.batch.meter import Meter
from trainer.batch.rollout import turns
from trainer.batch.written import Sample
from trainer.files.atomic import atomic_directory, sweep, verified, write_json
from trainer.files.checkpoint import Log
from trainer.model import processes
from trainer.stages.job import Job
from trainer.stages.loop import Metrics, Report, Trainee, trainee_of

ALGORITHM_VERSION = 1
FULL_MARKS = 1 - 1e-6  # of a verifier's scale, which single precision rounds


def run(job: Job, stage: RejectionSampling, report: Report) -> Metrics:
    """Sample, judge, keep; write the dataset; return what was kept and how good it is."""
    meter = Meter()
    parts, state = processes.agreed(_resumed(job.directory / CHECKPOINTS) if processes.leads() else ([], {}))
    trainee = trainee_of(job, job.load(stage.init), None, meter, state)
    lines: list[str] = []
    log_bytes, writes = trainee.memory.pop("log_bytes", 0), processes.leads()
    with Log(job.directory / METRICS, keep=log_bytes, writes=writes) as log:
        while not trainee.finished():
            metrics = trainee.take(lambda trainee: _step(trainee, stage, lines), log)
            scores = [row["score"] for row in metrics["domains"].values()]
            report(trainee.noted({"reward": sum(scores) / len(scores)}))
            if trainee.finished() or trainee.step % job.settings.checkpoint_every == 0:
                parts.append(job.directory / CHECKPOINTS / f"step_{trainee.step:08d}")
                if writes:
                    _save(parts[-1], lines, trainee.state(log_bytes=log.size()))
                lines.clear()
    if writes:
        written.write(job.directory / DATA, [part / written.SAMPLES for part in parts], stage.domains)
    return trainee.summary({name: _described(sums) for name, sums in trainee.memory["totals"].items()})


def _resumed(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The complete parts that an earlier attempt wrote, in order, and the state stored with the last one."""
    sweep(folder)
    parts = sorted(folder.glob("step_*"))
    sound: list[Path] = []
    while len(sound) < len(parts) and verified(parts[len(sound)]):
        sound.append(parts[len(sound)])
    for part in parts[len(sound) :]:
        shutil.rmtree(part)
    return sound, json.loads((sound[-1] / "state.json").read_text()) if sound else {}


def _save(part: Path, lines: Sequence[str], state: Mapping[str, Any]) -> None:
    """The answers since the last part, and where the stage stands."""
    with atomic_directory(part) as partial:
        (partial / written.SAMPLES).write_text("".join(lines), encoding="utf-8")
        write_json(partial / "state.json", state)


def _step(trainee: Trainee, stage: RejectionSampling, lines: list[str]) -> Metrics:
    """One batch of prompts answered and judged: its metrics; what is kept goes to the lines."""
    asked = trainee.ask(stage.domains)
    batch = trainee.sample(asked)
    judged = trainee.judged(batch)
    said = turns(trainee.policy, batch.rollouts)
    totals = trainee.memory.setdefault("totals", {})  # sums over the samples so far, by domain
    rows: dict[str, dict[str, float]] = {}
    for name, span in batch.spans.items():
        scale = trainee.tasks[name].reward_scale
        own, sums = _of_domain(stage, scale, batch, judged, said, name, asked.start[name])
        lines += [chosen.line() for chosen in own]
        total = totals.setdefault(name, dict.fromkeys(sums, 0.0))
        for key, value in sums.items():
            total[key] += value
        length = int(batch.rollouts.trained_BT[span].sum()) / (span.stop - span.start)
        rows[name] = {**_described(sums), "length": length}
    truncated = float(batch.rollouts.truncated_B.float().mean())
    return {"domains": rows, "prompts": asked.counts, "truncated": truncated}


def _of_domain(
    stage: RejectionSampling,
    scale: float,
    batch: Batch,
    judged: Batch,
    said: Sequence[list[str]],
    name: str,
    first: int,
) -> tuple[list[Sample], dict[str, float]]:
    """The kept answers of one domain, and sums over its prompts and samples. scale: of its full marks; first: the
    place of its first prompt."""
    span, group = batch.spans[name], batch.group
    reward = [value / scale for value in batch.reward_B[span].tolist()]
    score = judged.reward_B[span].tolist()
    own, cut = said[span], batch.rollouts.truncated_B[span].tolist()
    best = best_of(score, group)
    rows = best if stage.keep == "best" else passed(reward, own, group)
    samples = [
        Sample(
            domain=name,
            prompt=batch.items[(span.start + row) // group].prompt,
            turns=tuple(own[row]),
            score=score[row],
            index=first + row // group,
            truncated=cut[row],
        )
        for row in rows
    ]
    sums = {
        "prompts": len(best),
        "samples": len(own),
        "kept": len(rows),
        "score": sum(reward),
        "best_score": sum(reward[row] for row in best),
        "best_square": sum(reward[row] ** 2 for row in best),
    }
    if name in stage.reward_models:
        sums |= {"judged": sum(score), "best_judged": sum(score[row] for row in best)}
    return samples, sums


def best_of(score: Sequence[float], group: int) -> list[int]:
    """The row of each group's highest score, the first of equals."""
    return [
        max(range(start, start + group), key=lambda row: score[row]) for start in range(0, len(score), group)
    ]


def passed(reward: Sequence[float], said: Sequence[Sequence[str]], group: int) -> list[int]:
    """The rows of full marks, each answer once in its group."""
    found: dict[tuple[int, tuple[str, ...]], int] = {}
    for row, value in enumerate(reward):
        if value >= FULL_MARKS:
            found.setdefault((row // group, tuple(said[row])), row)
    return list(found.values())


def _described(sums: dict[str, float]) -> dict[str, Any]:
    """Means of one domain.

    score: the verifier's of all samples, in units of full marks; best_score (its se, n prompts): of the answers that
    the judge likes best; judged, best_judged: a reward model's own scores of the two. kept: how many; kept_share: of
    the samples.
    """
    prompts, samples = sums["prompts"], sums["samples"]
    best = sums["best_score"] / prompts
    row = {
        "score": sums["score"] / samples,
        "best_score": best,
        "se": error_of_mean(best, sums["best_square"] / prompts, prompts),
        "n": round(prompts),
        "kept": round(sums["kept"]),
        "kept_share": sums["kept"] / samples,
    }
    if "judged" in sums:
        row |= {"judged": sums["judged"] / samples, "best_judged": sums["best_judged"] / prompts}
    return row
