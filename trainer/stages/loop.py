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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from trainer.batch.score import Bank, Opened, Scored
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
TRUNCATION_WINDOW = 10
BETAS = (0.9, 0.95)  # of AdamW
KEEP = 0.9  # of a running mean, a step


@dataclass(kw_only=True)
class Trainee:
    """The policy in training, the other models that its stage reads, and what a checkpoint holds besides weights."""

    job: Job
    amounts: Amounts
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
        """Share of the stage that is done."""
        return progress(self.amounts, self.step, self.meter)

    def finished(self) -> bool:
        return self.progress() >= 1

    def note(self, text: str) -> Note:
        """Where the stage stands, for who watches."""
        return Note(done=self.progress(), text=f"step {self.step} of {self.amounts.steps}, {text}")

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

    prepare: before the optimiser is made and a checkpoint loaded. begin: before the first step, of a stage taken up
    again too. finish: before the last scores and the saving of weights. score: a split's rows by domain, in place of
    pass rates of the policy's samples.
    """

    prepare: Callable[[Policy], None] = lambda policy: None
    begin: Callable[[Trainee], None] = lambda trainee: None
    finish: Callable[[Trainee], None] = lambda trainee: None
    score: Callable[[Trainee, Split], Rows] | None = None


def progress(amounts: Amounts, step: int, meter: Meter) -> float:
    """Share of a stage that is done: of its steps or, with a FLOPs ceiling, of those if it is nearer."""
    steps, ceiling = step / amounts.steps, amounts.max_flops
    return steps if ceiling is None else max(steps, meter.spent / ceiling)


PLAIN = Hooks()


def train(job: Job, step_of: StepOf, report: Report, *, hooks: Hooks = PLAIN) -> Metrics:
    """Run the stage's loop from its start or its newest checkpoint; save weights; return the summary."""
    trainee = _start(job, hooks.prepare)
    hooks.begin(trainee)
    settings = job.settings
    against = references(job, trainee.bank)
    checkpoints = job.directory / CHECKPOINTS
    kept = trainee.memory.pop("log_bytes", 0)
    with Log(job.directory / METRICS, keep=kept, writes=processes.leads()) as log:

        def say(where: str) -> None:
            report(trainee.note(f"scores {where}"))

        def scored(split: Split) -> Rows:
            with _evaluation(log, trainee.step, split, trainee.meter) as rows:
                if hooks.score is None:
                    policy, tasks = trainee.policy, trainee.tasks
                    rows |= score(job, policy, tasks, split, against, trainee.meter, report=say)
                else:
                    say(split)
                    rows |= hooks.score(trainee, split)
            return rows

        while not trainee.finished():
            if trainee.step % settings.evaluate_every == 0:
                scored("validation")
            before = dict(trainee.meter.seconds)
            metrics = step_of(trainee)
            spent = {"flops": trainee.meter.spent, "seconds": trainee.meter.since(before)}
            log.write({"kind": "step", "step": trainee.step, **metrics, **spent})
            trainee.step += 1
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
        scores = scored("test")
    if processes.leads():
        save_policy(trainee.policy, job.directory / WEIGHTS)
    summary = {"steps": trainee.step, "domains": scores, **spent_summary(trainee.meter, job)}
    return summary | ({"preflight": trainee.memory["preflight"]} if "preflight" in trainee.memory else {})


def spent_summary(meter: Meter, job: Job) -> Metrics:
    """The meter and the peak memory, for a stage's summary."""
    return {**meter.state(), "peak_memory_bytes": peak_memory_bytes(torch.device(job.settings.device))}


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
    if job.amounts is None:
        raise ValueError(f"stage {job.name!r} has no amounts")
    return Trainee(
        job=job,
        amounts=job.amounts,
        policy=policy,
        optimizer=optimizer,
        meter=meter.after(state.get("meter", {})),
        tasks=job.tasks(),
        bank=Bank(job.weights, job.load),
        step=state.get("step", 0),
        cursors=state.get("cursors", {}),
        memory=state.get("memory", {}),
    )


def references(job: Job, bank: Bank) -> Mapping[str, Opened]:
    """What KL is measured against: "start", the stage's root, and its "parent"."""
    names = {"start": job.root} | ({"parent": job.init} if job.init != job.root else {})
    return {name: partial(bank.open, stage) for name, stage in names.items()}


def score(
    job: Job,
    policy: Policy,
    tasks: Mapping[str, Task],
    split: Split,
    against: Mapping[str, Opened],
    meter: Meter,
    *,
    report: Callable[[str], None],
) -> Rows:
    """Scores of all domains and probes on a split's fixed prompts. A parent may be the start."""
    settings, last = job.settings, split == "test"
    domains = evaluate(
        policy,
        {name: tasks[name] for name in job.scored(split)},
        split=split,
        items=settings.test_items if last else settings.validation_items,
        temperature=settings.temperature,
        references=against if last or settings.score_others == "always" else {},
        meter=meter,
        samples_per_prompt=settings.samples_per_prompt if last else 1,
        greedy_items=settings.greedy_items if last else 0,
        micro_batch_rows=settings.micro_batch_rows,
        report=report,
    )
    for row in domains.values():
        if "kl_start" in row:
            row.setdefault("kl_parent", row["kl_start"])
    return {**domains}


@contextmanager
def _evaluation(log: Log, step: int, split: Split, meter: Meter) -> Iterator[Rows]:
    """An evaluation's rows, empty at first, in the log when the block ends, with the seconds that it took."""
    before, rows = dict(meter.seconds), Rows()
    yield rows
    seconds = meter.since(before)
    log.write({"kind": "evaluation", "step": step, "split": split, "domains": rows, "seconds": seconds})


def scored_alone(
    job: Job, policy: Policy, against: Mapping[str, Opened], meter: Meter, report: Report
) -> Metrics:
    """The summary of a stage that only has weights to score."""

    def say(where: str) -> None:
        report(Note(done=0.5, text=f"scores {where}"))

    log = Log(job.directory / METRICS, writes=processes.leads())
    with log, _evaluation(log, 0, "test", meter) as scores:
        scores |= score(job, policy, job.tasks(), "test", against, meter, report=say)
    return {"steps": 0, "domains": scores, **spent_summary(meter, job)}
