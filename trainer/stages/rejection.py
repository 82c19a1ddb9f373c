"""Rejection sampling: a model answers prompts several times, a judge chooses, what is kept becomes a dataset.

Batch by batch, as a training loop goes step by step: prompts come from the training streams, all randomness from
(stage key, batch), and what was kept since the last checkpoint is written as a part of its own, so that a killed stage
ends with the bytes of an unbroken one. Leaves out: training on the data (`trainer.stages.sft`), its files
(`trainer.batch.dataset`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import RejectionSampling
from trainer.batch import dataset
from trainer.batch.batch import Batch, allocate, draw, sample
from trainer.batch.dataset import Sample
from trainer.batch.meter import Meter
from trainer.batch.rollout import turns
from trainer.files.atomic import atomic_directory, sweep, verified, write_json
from trainer.files.log import Log
from trainer.model.policy import Policy
from trainer.stages.job import Job
from trainer.stages.judge import Judges
from trainer.stages.loop import Metrics, Report, progress, spent_summary
from trainer.tasks import Task

ALGORITHM_VERSION = 1
FULL_MARKS = 1 - 1e-6  # of a verifier's scale, which single precision rounds


@dataclass(kw_only=True)
class Harvest:
    """What a checkpoint holds. totals: sums over the samples so far by domain; owed, cursors: of `allocate`."""

    step: int = 0
    cursors: dict[str, int] = field(default_factory=dict)
    owed: dict[str, float] = field(default_factory=dict)
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    log_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The stage at work."""

    job: Job
    stage: RejectionSampling
    amounts: Amounts
    policy: Policy
    judges: Judges
    tasks: dict[str, Task]
    meter: Meter


def run(job: Job, stage: RejectionSampling, report: Report) -> Metrics:
    """Sample, judge, keep; write the dataset; return what was kept and how good it is."""
    if job.amounts is None:
        raise ValueError(f"stage {job.name!r} has no amounts")
    meter = Meter()
    parts, harvest = _resumed(job.directory / "checkpoints", meter)
    at_work = Sampler(
        job=job,
        stage=stage,
        amounts=job.amounts,
        policy=job.load(stage.init),
        judges=Judges.of(job, stage.reward_models),
        tasks=job.tasks(),
        meter=meter,
    )
    lines: list[str] = []
    with Log(job.directory / "metrics.jsonl", keep=harvest.log_bytes) as log:
        while (done := progress(job.amounts, harvest.step, meter)) < 1:
            report(done)
            before = dict(meter.seconds)
            metrics, kept = _batch(at_work, harvest)
            lines += [chosen.line() for chosen in kept]
            seconds = {phase: value - before[phase] for phase, value in meter.seconds.items()}
            spent = {"flops": meter.spent, "seconds": seconds}
            log.write({"kind": "step", "step": harvest.step, **metrics, **spent})
            harvest.step += 1
            last = progress(job.amounts, harvest.step, meter) >= 1
            if last or harvest.step % job.settings.checkpoint_every == 0:
                harvest.log_bytes = log.size()
                parts.append(job.directory / "checkpoints" / f"step_{harvest.step:08d}")
                _save(parts[-1], lines, harvest, meter)
                lines = []
    dataset.write(job.directory / "data", [part / dataset.SAMPLES for part in parts], stage.domains)
    rows = {name: _described(sums) for name, sums in harvest.totals.items()}
    return {"steps": harvest.step, "domains": rows, **spent_summary(meter, job)}


def _resumed(folder: Path, meter: Meter) -> tuple[list[Path], Harvest]:
    """The complete parts that an earlier attempt wrote, in order, and the state stored with the last one."""
    sweep(folder)
    parts = sorted(folder.glob("step_*"))
    sound: list[Path] = []
    while len(sound) < len(parts) and verified(parts[len(sound)]):
        sound.append(parts[len(sound)])
    for part in parts[len(sound) :]:
        shutil.rmtree(part)
    if not sound:
        return [], Harvest()
    state = json.loads((sound[-1] / "state.json").read_text())
    meter.after(state.pop("meter"))
    return sound, Harvest(**state)


def _save(part: Path, lines: Sequence[str], harvest: Harvest, meter: Meter) -> None:
    """The answers since the last part, and where the stage stands."""
    with atomic_directory(part) as partial:
        (partial / dataset.SAMPLES).write_text("".join(lines), encoding="utf-8")
        write_json(partial / "state.json", {**vars(harvest), "meter": meter.state()})


def _batch(at_work: Sampler, harvest: Harvest) -> tuple[Metrics, list[Sample]]:
    """One batch of prompts answered and judged: its metrics, and what is kept."""
    job, stage, amounts, policy, meter = (
        at_work.job,
        at_work.stage,
        at_work.amounts,
        at_work.policy,
        at_work.meter,
    )
    counts, start = allocate(
        stage.domains, amounts.prompts_per_step, owed=harvest.owed, cursors=harvest.cursors
    )
    items = draw(at_work.tasks, counts, start, split="train", seed=job.settings.seed)
    with meter.phase("generation", policy.device):
        batch = sample(
            policy,
            at_work.tasks,
            items,
            domains=[name for name, count in counts.items() for _ in range(count)],
            rollouts_per_prompt=amounts.rollouts_per_prompt,
            temperature=job.settings.temperature,
            seed=job.seed(harvest.step),
        )
    meter.count("generation", policy, batch.rollouts)
    judged = at_work.judges.judged(batch, meter)
    said = turns(policy, batch.rollouts)
    rows: dict[str, dict[str, float]] = {}
    kept: list[Sample] = []
    for name, span in batch.spans.items():
        own, sums = _of_domain(at_work, batch, judged, said, name, start[name])
        kept += own
        total = harvest.totals.setdefault(name, dict.fromkeys(sums, 0.0))
        for key, value in sums.items():
            total[key] += value
        tokens = int(batch.rollouts.trained_BT[span].sum())
        meter.count_tokens("generated", name, tokens)
        rows[name] = {**_described(sums), "length": tokens / (span.stop - span.start)}
    truncated = float(batch.rollouts.truncated_B.float().mean())
    return {"domains": rows, "prompts": counts, "truncated": truncated}, kept


def _of_domain(
    at_work: Sampler, batch: Batch, judged: Batch, said: Sequence[list[str]], name: str, first: int
) -> tuple[list[Sample], dict[str, float]]:
    """The kept answers of one domain, and sums over its prompts and samples. first: place of its first prompt."""
    span, group, scale = batch.spans[name], batch.group, at_work.tasks[name].reward_scale
    reward = [value / scale for value in batch.reward_B[span].tolist()]
    score = judged.reward_B[span].tolist()
    own, cut = said[span], batch.rollouts.truncated_B[span].tolist()
    best = best_of(score, group)
    rows = best if at_work.stage.keep == "best" else passed(reward, own, group)
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
    if name in at_work.stage.reward_models:
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
        "se": (max(sums["best_square"] / prompts - best**2, 0.0) / prompts) ** 0.5,
        "n": round(prompts),
        "kept": round(sums["kept"]),
        "kept_share": sums["kept"] / samples,
    }
    if "judged" in sums:
        row |= {"judged": sums["judged"] / samples, "best_judged": sums["best_judged"] / prompts}
    return row
