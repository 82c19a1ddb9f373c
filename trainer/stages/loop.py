"""What every training loop shares: start or resume, schedule, optimiser step, evaluation, metrics, checkpoints.

A loop (`trainer.stages.sft`, `trainer.stages.reinforcement.rl`, `trainer.stages.distill`) is one function of a
`Trainee` and a step number; `train` calls it until the amounts are spent. All randomness is derived from (stage key,
step), so that a resumed run equals an unbroken one bit for bit. Leaves out: stage keys and who runs when
(`trainer.runs.store`, `trainer.run`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save_file

from mopdsim.base.errors import DivergenceError, MopdError
from mopdsim.recipes.amounts import Amounts
from trainer.batch.bank import Bank
from trainer.batch.batch import Batch, allocate
from trainer.batch.evaluate import evaluate
from trainer.batch.meter import Meter, peak_memory_bytes
from trainer.files import checkpoint
from trainer.files.atomic import explained
from trainer.files.log import Log
from trainer.model.loading import save_policy
from trainer.model.policy import Policy
from trainer.stages.job import Job
from trainer.tasks import Split, Task

Metrics = dict[str, Any]
Report = Callable[[float], None]
TRUNCATION_WINDOW = 10
BETAS = (0.9, 0.95)  # of AdamW


@dataclass(kw_only=True)
class Trainee:
    """The policy in training and all that a checkpoint holds besides its weights."""

    job: Job
    amounts: Amounts
    policy: Policy
    optimizer: torch.optim.Optimizer
    meter: Meter
    tasks: dict[str, Task]
    step: int = 0
    cursors: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    def allocate(self, shares: Mapping[str, float], count: int) -> tuple[dict[str, int], dict[str, int]]:
        """`trainer.batch.batch.allocate` with what the checkpoint holds."""
        return allocate(shares, count, owed=self.memory.setdefault("owed", {}), cursors=self.cursors)

    def average(self, name: str, value: float, *, keep: float = 0.9) -> float:
        """A running mean kept in the checkpoint; the first value starts it."""
        means = self.memory.setdefault("means", {})
        means[name] = keep * means[name] + (1 - keep) * value if name in means else value
        return float(means[name])

    def progress(self) -> float:
        """Share of the stage that is done."""
        return progress(self.amounts, self.step, self.meter)

    def finished(self) -> bool:
        return self.progress() >= 1

    def learning_rate(self) -> float:
        """Linear warm-up over steps, then a cosine to the final fraction over the stage's progress."""
        amounts = self.amounts
        low = amounts.final_learning_rate_fraction
        decay = low + (1 - low) * (1 + math.cos(math.pi * min(self.progress(), 1.0))) / 2
        warmup = min(amounts.warmup_steps, amounts.steps // 5)
        return amounts.learning_rate * decay * min(1.0, (self.step + 1) / max(warmup, 1))

    def apply(self, loss: float, batch: Batch) -> Metrics:
        """One optimiser step on param.grad. DivergenceError, the batch on disk, on a non-finite loss or gradient."""
        rate = self.learning_rate()
        parameters = list(self.policy.parameters())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.amounts.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(loss, norm, batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "grad_norm": norm, "learning_rate": rate}

    def _diverged(self, loss: float, norm: float, batch: Batch) -> None:
        rollouts = batch.rollouts
        dump = self.job.directory / "diverged.safetensors"
        tensors = {
            name: value.contiguous().cpu() for name, value in vars(rollouts).items() if name != "group"
        }
        with explained(dump):
            save_file({**tensors, "reward_B": batch.reward_B.cpu()}, dump, metadata={"step": str(self.step)})
        raise DivergenceError(
            f"stage {self.job.name!r}, step {self.step}: loss {loss}, gradient norm {norm}: must be finite; "
            f"the last good checkpoint is kept and the batch is in {dump}; lower learning_rate "
            f"({self.amounts.learning_rate}) and run again"
        )

    def check_truncation(self, batch: Batch) -> float:
        """The share of samples cut off in this batch; MopdError when its mean over the last steps passes the limit."""
        share = float(batch.rollouts.truncated_B.float().mean())
        recent = [*self.memory.get("truncated", []), share][-TRUNCATION_WINDOW:]
        self.memory["truncated"] = recent
        limit = self.job.settings.max_truncation
        if len(recent) == TRUNCATION_WINDOW and sum(recent) / TRUNCATION_WINDOW > limit:
            raise MopdError(
                f"stage {self.job.name!r}, step {self.step}: {sum(recent) / TRUNCATION_WINDOW:.0%} of the samples "
                f"were cut off over {TRUNCATION_WINDOW} steps (limit {limit:.0%}): raise the domains' max_new_tokens, "
                "or check that the model's end-of-sequence token is the one its chat template closes a turn with"
            )
        return share


StepOf = Callable[[Trainee], Metrics]
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Where a kind of stage differs from the others.

    prepare: before the optimiser is made and a checkpoint loaded. finish: before the last scores and the saving of
    weights. score: a split's rows by domain, in place of pass rates of the policy's samples.
    """

    prepare: Callable[[Policy], None] = lambda policy: None
    finish: Callable[[Trainee], None] = lambda trainee: None
    score: Callable[[Trainee, Split], Rows] | None = None


def progress(amounts: Amounts, step: int, meter: Meter) -> float:
    """Share of a stage that is done: of its steps or, with a FLOPs ceiling, of those if it is nearer."""
    steps, ceiling = step / amounts.steps, amounts.max_flops
    return steps if ceiling is None else max(steps, meter.spent / ceiling)


def train(
    job: Job, make_step: Callable[[Trainee], StepOf], report: Report, *, hooks: Hooks | None = None
) -> Metrics:
    """Run the stage's loop from its start or its newest checkpoint; save weights; return the summary."""
    hooks = hooks or Hooks()
    trainee = _start(job, hooks.prepare)
    step_of = make_step(trainee)
    settings = job.settings
    against = references(job)
    checkpoints = job.directory / "checkpoints"
    with Log(job.directory / "metrics.jsonl", keep=trainee.memory.pop("log_bytes", 0)) as log:

        def scored(split: Split) -> Rows:
            policy, tasks, meter = trainee.policy, trainee.tasks, trainee.meter
            if hooks.score is None:
                return score(
                    job, policy, tasks, split, step=trainee.step, against=against, meter=meter, log=log
                )
            before = dict(meter.seconds)
            rows = hooks.score(trainee, split)
            spent = {"seconds": meter.since(before)}
            log.write({"kind": "evaluation", "step": trainee.step, "split": split, "domains": rows, **spent})
            return rows

        while not trainee.finished():
            if trainee.step % settings.evaluate_every == 0:
                scored("validation")
            before = dict(trainee.meter.seconds)
            metrics = step_of(trainee)
            spent = {"flops": trainee.meter.spent, "seconds": trainee.meter.since(before)}
            log.write({"kind": "step", "step": trainee.step, **metrics, **spent})
            trainee.step += 1
            if trainee.step % settings.checkpoint_every == 0 and not trainee.finished():
                state = {
                    "cursors": trainee.cursors,
                    "memory": {**trainee.memory, "log_bytes": log.size()},
                    "meter": trainee.meter.state(),
                }
                checkpoint.save(
                    checkpoints,
                    step=trainee.step,
                    model=trainee.policy.model,
                    optimizer=trainee.optimizer,
                    state=state,
                )
            report(trainee.progress())
        hooks.finish(trainee)
        scores = scored("test")
    save_policy(trainee.policy, job.directory / "weights")
    summary = {"steps": trainee.step, "domains": scores, **spent_summary(trainee.meter, job)}
    return summary | ({"preflight": trainee.memory["preflight"]} if "preflight" in trainee.memory else {})


def spent_summary(meter: Meter, job: Job) -> Metrics:
    """The meter and the peak memory, for a stage's summary."""
    return {**meter.state(), "peak_memory_bytes": peak_memory_bytes(torch.device(job.settings.device))}


def _start(job: Job, prepare: Callable[[Policy], None]) -> Trainee:
    if job.amounts is None:
        raise ValueError(f"stage {job.name!r} has no amounts")
    meter = Meter()
    policy = job.load(job.init)
    prepare(policy)
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=job.amounts.learning_rate,
        weight_decay=job.amounts.weight_decay,
        betas=BETAS,
        fused=True,
    )
    state = (
        checkpoint.load_latest(job.directory / "checkpoints", model=policy.model, optimizer=optimizer) or {}
    )
    return Trainee(
        job=job,
        amounts=job.amounts,
        policy=policy,
        optimizer=optimizer,
        meter=meter.after(state.get("meter", {})),
        tasks=job.tasks(),
        step=state.get("step", 0),
        cursors=state.get("cursors", {}),
        memory=state.get("memory", {}),
    )


def references(job: Job) -> Mapping[str, Policy]:
    """What KL is measured against, loaded when needed: "start", the stage's root, and its "parent"."""
    names = {"start": job.root} | ({"parent": job.init} if job.init != job.root else {})
    directories = {name: job.weights[stage] for name, stage in names.items()}
    return Bank(directories, lambda name: job.load(names[name])).mapping(list(names))


def score(
    job: Job,
    policy: Policy,
    tasks: Mapping[str, Task],
    split: Split,
    *,
    step: int,
    against: Mapping[str, Policy],
    meter: Meter,
    log: Log,
) -> dict[str, dict[str, float]]:
    """Scores of all domains and probes on a split's fixed prompts, also logged. A parent may be the start."""
    settings, before = job.settings, dict(meter.seconds)
    domains = evaluate(
        policy,
        tasks,
        split=split,
        items=settings.test_items if split == "test" else settings.validation_items,
        temperature=settings.temperature,
        references=against,
        meter=meter,
        micro_batch_rows=settings.micro_batch_rows,
    )
    for row in domains.values():
        if "kl_start" in row:
            row.setdefault("kl_parent", row["kl_start"])
    spent = {"seconds": meter.since(before)}
    log.write({"kind": "evaluation", "step": step, "split": split, "domains": domains, **spent})
    return domains
