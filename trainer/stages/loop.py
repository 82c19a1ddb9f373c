"""What every training loop shares: start or resume, schedule, optimiser step, evaluation, metrics, checkpoints.

A loop (`trainer.stages.sft`, `trainer.stages.rl`, `trainer.stages.distill` and the others) is one function of a
`Trainee`, which asks, samples, scores and steps for it; `train` calls it until the amounts are spent. All randomness is
derived from (stage key, step), so that a resumed run equals an unbroken one bit for bit. Leaves out: stage keys
(`trainer.runs.store`) and who runs when (`trainer.runs.execute`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mopdsim.base.errors import DivergenceError, MopdError
from mopdsim.base.run_directory import CHECKPOINTS, METRICS, WEIGHTS
from mopdsim.recipes.stage import Amounts
from trainer.batch.batch import Batch, Grader, Prompts, allocate, draw, graded_by_reward, sample
from trainer.batch.evaluate import evaluate
from trainer.batch.heads import scores
from trainer.batch.meter import TRAINING_PASSES, Meter, Use, peak_memory_bytes
from trainer.batch.rollout import Rollouts
from trainer.batch.score import Bank, Scored
from trainer.batch.update import LossOf, Part, Sums, accumulate_by_part, accumulate_share, comparable
from trainer.files import checkpoint
from trainer.files.atomic import explained
from trainer.files.checkpoint import Log
from trainer.model import processes
from trainer.model.adapters import attach_new
from trainer.model.loading import save_policy
from trainer.model.policy import Policy
from trainer.stages.job import Job, Note, Report
from trainer.tasks import Split, Task

Metrics = dict[str, Any]
Rows = dict[str, dict[str, Any]]  # by domain
TRUNCATION_WINDOW = 10
BETAS = (0.9, 0.95)  # of AdamW
KEEP = 0.9  # of a running mean, a step


@dataclass(kw_only=True)
class Trainee:
    """The policy in training, the other models that its stage reads, and what a checkpoint holds besides weights."""

    job: Job
    policy: Policy
    optimizer: torch.optim.Optimizer | None  # None: a stage that trains nothing
    meter: Meter
    tasks: dict[str, Task]
    bank: Bank
    step: int = 0
    cursors: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    taken_up: float = field(default_factory=time.perf_counter)
    tokens_before: int = 0

    def __post_init__(self) -> None:
        self.tokens_before = self.meter.throughput()

    @property
    def amounts(self) -> Amounts:
        """Of a stage that goes in steps."""
        assert self.job.amounts is not None
        return self.job.amounts

    def state(self, *, log_bytes: int) -> dict[str, Any]:
        """What a checkpoint holds besides tensors."""
        return {
            "step": self.step,
            "cursors": self.cursors,
            "memory": {**self.memory, "log_bytes": log_bytes},
            "meter": self.meter.state(),
        }

    def allocate(
        self, shares: Mapping[str, float], count: int | None = None
    ) -> tuple[dict[str, int], dict[str, int]]:
        """`trainer.batch.batch.allocate` with what the checkpoint holds; count: the step's prompts if not given."""
        count = self.amounts.prompts_per_step if count is None else count
        return allocate(shares, count, owed=self.memory.setdefault("owed", {}), cursors=self.cursors)

    def ask(self, shares: Mapping[str, float], count: int | None = None) -> Prompts:
        """The next prompts of the training streams, by shares."""
        counts, start = self.allocate(shares, count)
        items = draw(self.tasks, counts, start, split="train", seed=self.job.settings.seed)
        domains = [name for name, count in counts.items() for _ in range(count)]
        return Prompts(items=items, domains=domains, start=start)

    def sample(
        self,
        asked: Prompts,
        policy: Policy | None = None,
        *,
        seed: tuple[object, ...] | None = None,
        grader: Grader = graded_by_reward,
        forbidden_F: Tensor | None = None,
    ) -> Batch:
        """Graded answers of the policy in training, or of another; the ids `forbidden_F` are never drawn.

        seed: what of the stage the random numbers depend on; the step, where not given.
        """
        sampler = policy or self.policy
        with self.meter.phase("generation", sampler.device):
            batch = sample(
                sampler,
                self.tasks,
                asked.items,
                domains=asked.domains,
                rollouts_per_prompt=self.amounts.rollouts_per_prompt,
                temperature=self.job.settings.temperature,
                seed=self.job.seed(*(seed or (self.step,))),
                grader=grader,
                forbidden_F=forbidden_F,
            )
        self.meter.count("generation", sampler, batch.rollouts)
        self.count_tokens("generated", batch)
        return batch

    def score(self, name: str, rollouts: Rollouts, *, rows: slice | None = None) -> Scored:
        """What a model of the bank makes of rollouts, at a cost that the meter sees. rows: of this process."""
        with self.bank.open(name) as scorer, self.meter.phase("scoring", scorer.device):
            micro_batch_rows = self.job.settings.micro_batch_rows
            scored = self.bank.score(name, rollouts, micro_batch_rows=micro_batch_rows, rows=rows)
            self.meter.count("scoring", scorer, rollouts)
        return scored

    def judged(self, batch: Batch) -> Batch:
        """The batch with the scores of the stage's reward models in the domains that they judge."""
        reward_B, judges = batch.reward_B.clone(), self.job.judges
        for name in dict.fromkeys(judges[domain] for domain in batch.spans if domain in judges):
            spans = {domain: span for domain, span in batch.spans.items() if judges.get(domain) == name}
            row_M = torch.cat([torch.arange(span.start, span.stop) for span in spans.values()])
            row_M = row_M.to(reward_B.device)
            rollouts = batch.rollouts.rows(row_M)
            with self.bank.open(name) as model, self.meter.phase("scoring", model.device):
                micro_batch_rows = self.job.settings.micro_batch_rows
                reward_B[row_M] = scores(model, rollouts, micro_batch_rows=micro_batch_rows)
                self.meter.count("scoring", model, rollouts, head=False)
            for domain, span in spans.items():
                self.meter.count_tokens("scored", domain, int(batch.rollouts.trained_BT[span].sum()))
        return replace(batch, reward_B=reward_B)

    def count_tokens(self, use: Use, batch: Batch) -> None:
        """The batch's trained tokens, to their domains."""
        for name, span in batch.spans.items():
            self.meter.count_tokens(use, name, int(batch.rollouts.trained_BT[span].sum()))

    def update(
        self,
        batch: Batch,
        loss_of: LossOf,
        *,
        rollouts: Rollouts | None = None,
        head: bool = True,
        loss: float | None = None,
        diagnosed: bool = True,
        parts: Mapping[str, Part] | None = None,
        enter: Callable[[Mapping[str, list[Tensor]], Metrics], None] = lambda gradient, applied: None,
        also: Callable[[], float] = lambda: 0.0,
        **options: Any,
    ) -> tuple[Metrics, Sums]:
        """One optimiser step, the same in every process; what it did, and what the loss measured.

        rollouts: what the policy reads in place of the batch's own; head: whether through the language model's head.
        loss: the number to report where it is not the sum of `loss_of`. diagnosed: whether the domains' gradients may
        be taken apart, as is due every few steps. parts: the same loss as a sum, whose gradients `enter` is given after
        the step with what it reported; the domains' are then not taken apart. also: adds a gradient of another kind
        and returns its loss. options: of `trainer.batch.update.accumulate_gradients`.
        """
        policy, settings = self.policy, self.job.settings
        read = rollouts or batch.rollouts
        options |= {"micro_batch_rows": settings.micro_batch_rows}
        with self.meter.phase("training", policy.device):
            due = diagnosed and settings.diagnose_every and self.step % settings.diagnose_every == 0
            spans = batch.spans if due and self.can_compare(len(batch.spans)) else None
            gradient: dict[str, list[Tensor]] = {}
            report: Callable[[], dict[str, dict[str, float]]] = dict
            if parts is not None:
                found, sums, gradient = accumulate_by_part(policy, read, parts, **options)
            else:
                found, sums, report = accumulate_share(policy, read, loss_of, spans=spans, **options)
            found += also()
            processes.add_up_gradients(list(policy.parameters()))
            applied = self.apply(found if loss is None else loss, batch)
            enter(gradient, applied)
        self.meter.count("training", policy, read, passes=TRAINING_PASSES, head=head)
        self.count_tokens("trained", batch)
        return {**applied, **report()}, sums

    def can_compare(self, domains: int) -> bool:
        """`comparable`, and a word on stderr, once a stage, where it is not."""
        found = all(processes.gathered(comparable(self.policy, domains)))
        if not found and not self.memory.setdefault("uncompared", False):
            self.memory["uncompared"] = True
            print(
                f"warning: stage {self.job.name!r}: the gradients of its {domains} domains are not compared with one "
                "another: side by side they take more than a quarter of the memory; diagnose_every = 0 asks for none",
                file=sys.stderr,
            )
        return found

    def average(self, name: str, value: float) -> float:
        """A running mean kept in the checkpoint; the first value starts it."""
        means = self.memory.setdefault("means", {})
        means[name] = KEEP * means[name] + (1 - KEEP) * value if name in means else value
        return float(means[name])

    def progress(self) -> float:
        """Share of the stage that is done: of its steps or, with a FLOPs ceiling, of those if it is nearer."""
        steps, ceiling = self.step / self.amounts.steps, self.amounts.max_flops
        return steps if ceiling is None else max(steps, self.meter.spent / ceiling)

    def finished(self) -> bool:
        return self.progress() >= 1

    def note(self, text: str) -> Note:
        """Where the stage stands, for who watches."""
        done, amounts = min(1.0, self.progress()), self.amounts
        place = f" of {amounts.steps}" if amounts.max_flops is None else f", {done:.0%} done"
        return Note(done=done, text=f"step {self.step}{place}, {text}")

    def noted(self, metrics: Mapping[str, Any]) -> Note:
        """The same after a step: KL, reward or loss, and tokens a second since this process took the stage up."""
        seconds = time.perf_counter() - self.taken_up
        rate = (self.meter.throughput() - self.tokens_before) / max(seconds, 1e-9)
        kl = [row["kl"] for row in metrics.get("domains", {}).values() if "kl" in row]
        if kl:
            figure = f"KL {sum(kl) / len(kl):.3f}"
        else:
            name = "reward" if "reward" in metrics else "loss"
            figure = f"{name} {metrics[name]:.3f}" if name in metrics else "no update"
        return self.note(f"{figure}, {rate:,.0f} tokens/s")

    def learning_rate(self) -> float:
        """Linear warm-up over steps, then a cosine to the final fraction over the stage's progress."""
        amounts = self.amounts
        low = amounts.final_learning_rate_fraction
        decay = low + (1 - low) * (1 + math.cos(math.pi * min(self.progress(), 1.0))) / 2
        warmup = min(amounts.warmup_steps, amounts.steps // 5)
        return amounts.learning_rate * decay * min(1.0, (self.step + 1) / max(warmup, 1))

    def apply(self, loss: float, batch: Batch) -> Metrics:
        """One optimiser step on param.grad. DivergenceError, the batch on disk, on a non-finite loss or gradient."""
        assert self.optimizer is not None
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
        if processes.leads():
            with explained(dump):
                reward = {"reward_B": batch.reward_B.cpu()}
                save_file({**tensors, **reward}, dump, metadata={"step": str(self.step)})
        raise DivergenceError(
            f"stage {self.job.name!r}, step {self.step}: loss {loss}, gradient norm {norm}: must be finite; "
            f"the last good checkpoint is kept and the batch is in {dump}; lower learning_rate "
            f"({self.amounts.learning_rate}) and run again"
        )

    def take(self, step_of: StepOf, log: Log) -> Metrics:
        """A step of the loop, which goes into the log with what it spent."""
        before = dict(self.meter.seconds)
        metrics = step_of(self)
        spent = {"flops": self.meter.spent, "seconds": self.meter.since(before)}
        log.write({"kind": "step", "step": self.step, **metrics, **spent})
        self.step += 1
        return metrics

    def evaluate(self, split: Split, score: ScoreOf, log: Log, say: Callable[[str], None]) -> Rows:
        """What a split's prompts show, which goes into the log with the seconds that it took."""
        before = dict(self.meter.seconds)
        rows = score(self, split, say)
        seconds = self.meter.since(before)
        log.write(
            {"kind": "evaluation", "step": self.step, "split": split, "domains": rows, "seconds": seconds}
        )
        return rows

    def summary(self, domains: Rows) -> Metrics:
        """What the stage came to."""
        peak = peak_memory_bytes(torch.device(self.job.settings.device))
        return {"steps": self.step, "domains": domains, **self.meter.state(), "peak_memory_bytes": peak}

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


def pass_rates(trainee: Trainee, split: Split, say: Callable[[str], None]) -> Rows:
    """Scores of all domains and probes on a split's fixed prompts, with the KL to the model that the weights grew from
    ("start") and to the stage's "parent", which may be the start; a model as it was given has neither."""
    job, settings, last = trainee.job, trainee.job.settings, split == "test"
    against = {"start": job.root} | ({"parent": job.init} if job.init != job.root else {})
    if job.stage is None or not (last or settings.score_others == "always"):
        against = {}
    domains = evaluate(
        trainee.policy,
        {name: trainee.tasks[name] for name in job.scored(split)},
        split=split,
        items=settings.test_items if last else settings.validation_items,
        temperature=settings.temperature,
        references={name: partial(trainee.bank.open, stage) for name, stage in against.items()},
        meter=trainee.meter,
        samples_per_prompt=settings.samples_per_prompt if last else 1,
        greedy_items=settings.greedy_items if last else 0,
        micro_batch_rows=settings.micro_batch_rows,
        report=say,
    )
    for row in domains.values():
        if "kl_start" in row:
            row.setdefault("kl_parent", row["kl_start"])
    return {**domains}


StepOf = Callable[[Trainee], Metrics]
ScoreOf = Callable[[Trainee, Split, Callable[[str], None]], Rows]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Where a kind of stage differs from the others.

    prepare: before the optimiser is made and a checkpoint loaded. begin: before the first step, of a stage taken up
    again too. finish: before the last scores and the saving of weights. score: what a split's prompts show, by domain.
    """

    prepare: Callable[[Policy], None] = lambda policy: None
    begin: Callable[[Trainee], None] = lambda trainee: None
    finish: Callable[[Trainee], None] = lambda trainee: None
    score: ScoreOf = pass_rates


PLAIN = Hooks()


def train(job: Job, step_of: StepOf, report: Report, *, hooks: Hooks = PLAIN) -> Metrics:
    """Run the stage's loop from its start or its newest checkpoint; save weights; return the summary."""
    trainee = _start(job, hooks.prepare)
    hooks.begin(trainee)
    settings, checkpoints = job.settings, job.directory / CHECKPOINTS
    kept = trainee.memory.pop("log_bytes", 0)
    with Log(job.directory / METRICS, keep=kept, writes=processes.leads()) as log:

        def say(where: str) -> None:
            report(trainee.note(f"scores {where}"))

        while not trainee.finished():
            if trainee.step % settings.evaluate_every == 0:
                trainee.evaluate("validation", hooks.score, log, say)
            metrics = trainee.take(step_of, log)
            saved = trainee.step % settings.checkpoint_every == 0 and not trainee.finished()
            if saved and processes.leads():
                assert trainee.optimizer is not None
                checkpoint.save(
                    checkpoints,
                    step=trainee.step,
                    model=trainee.policy.model,
                    optimizer=trainee.optimizer,
                    state=trainee.state(log_bytes=log.size()),
                )
            report(trainee.noted(metrics))
        hooks.finish(trainee)
        if processes.leads():
            save_policy(trainee.policy, job.directory / WEIGHTS)
        report(replace(trainee.note("scores test"), ready=True))
        scores = trainee.evaluate("test", hooks.score, log, say)
    found = {"preflight": trainee.memory["preflight"]} if "preflight" in trainee.memory else {}
    return trainee.summary(scores) | found


def _start(job: Job, prepare: Callable[[Policy], None]) -> Trainee:
    """The stage's start, or where its newest checkpoint left it."""
    assert job.amounts is not None
    meter = Meter()
    policy = _loaded(job)
    processes.check_whole(policy.model)
    prepare(policy)
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=job.amounts.learning_rate,
        weight_decay=job.amounts.weight_decay,
        betas=BETAS,
        fused=True,
    )
    state = checkpoint.load_latest(job.directory / CHECKPOINTS, model=policy.model, optimizer=optimizer)
    return trainee_of(job, policy, optimizer, meter, state or {})


def _loaded(job: Job) -> Policy:
    """What the stage trains: all weights, or a low-rank adapter beside them (a parent's adapter goes on)."""
    rank: int | None = getattr(job.stage, "adapter_rank", None)
    policy = job.load(job.init, merged=rank is None)
    if rank is None:
        return policy
    if policy.adapter_base is None:
        attach_new(policy.model, rank, seed=job.seed("adapter"))
        policy.frozen_base(job.weights[job.init])
    return policy


def trainee_of(
    job: Job,
    policy: Policy,
    optimizer: torch.optim.Optimizer | None,
    meter: Meter,
    state: Mapping[str, Any],
) -> Trainee:
    """A stage at work, going on from `Trainee.state` (empty: there is none)."""
    return Trainee(
        job=job,
        policy=policy,
        optimizer=optimizer,
        meter=meter.after(state.get("meter", {})),
        tasks=job.tasks(),
        bank=Bank(job.weights, job.load),
        step=state.get("step", 0),
        cursors=state.get("cursors", {}),
        memory=state.get("memory", {}),
    )


def scored_alone(job: Job, policy: Policy, meter: Meter, report: Report) -> Metrics:
    """The summary of a stage that only has weights to score."""
    trainee = trainee_of(job, policy, None, meter, {})
    report(Note(done=0.5, text="scores test", ready=True))

    def say(where: str) -> None:
        report(Note(done=0.5, text=f"scores {where}"))

    with Log(job.directory / METRICS, writes=processes.leads()) as log:
        return trainee.summary(trainee.evaluate("test", pass_rates, log, say))
