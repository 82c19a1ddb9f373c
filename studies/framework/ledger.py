"""The ledger of a study: its runs, the stages they share, seconds, and which runs to drop first.

A stage's seconds are those of its steps and of its tests at the pace of this trainer on two CPU cores
(`mopdsim.cost.own_trainer`), from the parameters of the run's model, its amounts and the lengths of its domains; times
how much slower this machine was on the finished stages of that kind in the store that computed in that type (their
median; where there is none 1 in float32, in which the pace was timed, and BFLOAT16). Leaves out: memory, money
(`mopdsim.forecast.forecast`), GPUs.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mopdsim.base.errors import MopdError
from mopdsim.base.run_directory import SUMMARY, WEIGHTS
from mopdsim.cost.own_trainer import BFLOAT16, KINDS, Work, phase_s
from mopdsim.cost.stage_cost import bill
from mopdsim.cost.stage_seconds import Machine, forward
from mopdsim.facts.domains import Domain, domain
from mopdsim.facts.hardware import gpu
from mopdsim.facts.layers import Model
from mopdsim.facts.model import model
from studies.framework.run import Run, sizes_of
from trainer.files.settings import Settings
from trainer.runs.plan import Node, Plan
from trainer.runs.store import Store
from trainer.tasks import Split, Task

CPU = "CPU-2-cores"
STAGE_SECONDS = 1.0  # of loading and saving
LEAST_STEPS, LEAST_SECONDS = 10, 5.0  # of a stage whose pace is taken: either is enough
ITEMS_READ, CHARACTERS_A_TOKEN, TEMPLATE_TOKENS = 32, 3.0, 10.0  # of prompts in words; priors
TESTS = "evaluation"
Slower = Mapping[
    tuple[str, str], float
]  # than the pace: by kind of stage, or TESTS, and type that is computed in


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: its stages, those that no other run of this ledger has, its seconds alone and what dropping it saves
    once the rows before it in the cut order are gone."""

    run: str
    stages: int
    own_stages: int
    seconds: float
    saves: float
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """rows in cut order: the first is the first to drop. left_seconds: of what is still to be run."""

    rows: tuple[Row, ...]
    stages_in_all: int
    distinct_stages: int
    finished_stages: int
    seconds: float
    left_seconds: float
    by_rule: tuple[str, ...]
    seconds_of: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Everything but the stages one by one."""
        return {
            **{k: v for k, v in vars(self).items() if k != "seconds_of"},
            "rows": [vars(r) for r in self.rows],
        }


def ledger(runs: Mapping[str, Run], found: Plan, store: Store, *, finished: Collection[str]) -> Ledger:
    """What the runs come to, in seconds of one worker. finished: keys of the stages that need not be run."""
    slower = measured(store)
    models = {key: run.model for name, run in runs.items() for key in found.keys[name].values()}
    seconds = {key: estimate(node, models[key], slower) for key, node in found.node.items()}
    needs = {run: found.needed(run) for run in runs}
    stages = [
        (node.job.stage.kind, node.job.settings.dtype) for node in found.nodes if node.job.stage is not None
    ]
    return Ledger(
        rows=tuple(_cut_order(runs, needs, seconds)),
        stages_in_all=sum(map(len, needs.values())),
        distinct_stages=len(found.nodes),
        finished_stages=len(finished),
        seconds=sum(seconds.values()),
        left_seconds=sum(value for key, value in seconds.items() if key not in finished),
        by_rule=tuple(sorted({kind for kind, dtype in stages if (kind, dtype) not in slower} - {"merge"})),
        seconds_of=seconds,
    )


def estimate(node: Node, name: str, slower: Slower) -> float:
    """Seconds of one stage of a run on the model of this name. slower: this machine's factors."""
    job, settings = node.job, node.job.settings
    usual = BFLOAT16 if settings.dtype == "bfloat16" else 1.0
    machine = Machine(model=model(sizes_of(name)), gpu=gpu(CPU), evaluations=0)
    domains = {spec: lengths_of(own) for spec, own in job.tasks().items()}
    work, steps = 0.0, 0
    if job.stage is not None:
        own = bill(job.stage, job.amounts, domains, machine, gpus=1)
        work, steps = (
            sum(own.seconds.values()) * slower.get((job.stage.kind, settings.dtype), usual),
            own.steps,
        )
    counts: dict[Split, int] = {"test": 1, "validation": steps // settings.evaluate_every}
    tests = sum(
        count * _tests_s(settings, split, machine.model, domains[spec])
        for split, count in counts.items()
        for spec in job.scored(split)
    )
    return STAGE_SECONDS + work + tests * slower.get((TESTS, settings.dtype), usual)


def _tests_s(settings: Settings, split: Split, own: Model, row: Domain) -> float:
    """Seconds of one evaluation of a domain on a split: of so many answers that what a pass takes by itself is no part,
    each prompt read once; at the end also of the KL to the start, on each prompt's first answer."""
    last = split == "test"
    items = settings.test_items if last else settings.validation_items
    greedy = settings.greedy_items if last else 0
    answers = items * (settings.samples_per_prompt if last else 1) + greedy
    prompt = row.prompt_tokens.value
    whole = forward(own, prompt + row.response_tokens.value)
    asked = forward(own, prompt)
    flops = (items + greedy) * asked + answers * (whole - asked) + 2 * items * last * whole
    return phase_s("generation", own, flops, passes=0)


def lengths_of(own: Task) -> Domain:
    """The domain of a task; where the table's row stands for many tasks, with the lengths of this one's prompts and
    right answers."""
    row = domain(own.spec)
    if not row.row.endswith(":"):
        return row
    items = own.stream("train", 0, ITEMS_READ, seed=0)
    prompt, answer = (
        statistics.fmean(map(len, texts)) / CHARACTERS_A_TOKEN
        for texts in ([item.prompt for item in items], [item.answer for item in items])
    )
    return row.with_facts(
        {"prompt_tokens": TEMPLATE_TOKENS + prompt, "response_tokens": answer + 1}  # the last ends it
    )


def measured(store: Store) -> dict[tuple[str, str], float]:
    """How much slower than the pace this machine was, the median over the store's finished stages."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in sorted(store.root.glob(f"*/{SUMMARY}")):
        try:
            summary, made_from = store.summary(path.parent.name), store.made_from(path.parent.name)
            own = _model_at(path.parent / WEIGHTS / "config.json")
        except MopdError:  # none yet, broken, or a dataset
            continue
        for name, factor in _factors_of(summary, made_from, own):
            found.setdefault((name, made_from["settings"]["dtype"]), []).append(factor)
    return {name: statistics.median(values) for name, values in found.items()}


@cache
def _model_at(config: Path) -> Model:
    return model(str(config))


def _factors_of(
    summary: Mapping[str, Any], made_from: Mapping[str, Any], own: Model
) -> Iterable[tuple[str, float]]:
    """Seconds over those of the pace, of one finished stage's steps and of its tests."""
    seconds, flops, steps = summary["seconds"], summary["flops"], summary["steps"]
    if flops[TESTS]:
        yield TESTS, seconds[TESTS] / phase_s("generation", own, flops[TESTS], passes=0)
    stage, amounts = made_from["stage"], made_from["amounts"]
    kind = None if stage is None else stage["kind"]
    if kind not in KINDS:
        return
    works: dict[str, Work] = {"generation": "generation", "scoring": "scoring", "training": kind}
    took = sum(seconds[phase] for phase in works)
    if steps < LEAST_STEPS and took < LEAST_SECONDS:
        return
    answers = amounts["prompts_per_step"] * amounts["rollouts_per_prompt"]
    passes = {  # over all steps
        "generation": sum(summary["tokens"]["generated"].values()) / answers,
        "scoring": steps * len(stage.get("teachers", [kind])),
        "training": steps,
    }
    due = sum(phase_s(works[p], own, flops[p], passes[p]) for p in works if flops[p])
    yield kind, took / due


def _cut_order(
    runs: Mapping[str, Run], needs: Mapping[str, set[str]], seconds: Mapping[str, float]
) -> list[Row]:
    """Runs in the order to drop them: by their `cut`, within it what saves most given what went before."""
    users: dict[str, set[str]] = {}
    for run, keys in needs.items():
        for key in keys:
            users.setdefault(key, set()).add(run)
    own = {run: sum(users[key] == {run} for key in keys) for run, keys in needs.items()}
    left, rows = dict(runs), []

    def saves(run: str) -> float:
        return sum(seconds[key] for key in needs[run] if users[key] == {run})

    while left:
        run = max(left, key=lambda name: (left[name].cut, not left[name].held_out, saves(name)))
        rows.append(
            Row(
                run=run,
                stages=len(needs[run]),
                own_stages=own[run],
                seconds=sum(seconds[key] for key in needs[run]),
                saves=saves(run),
                held_out=left.pop(run).held_out,
            )
        )
        for key in needs[run]:
            users[key].discard(run)
    return rows
