"""The ledger of a study: its runs, the stages they share, seconds, and which runs to drop first.

A stage's seconds = samples (steps x prompts x rollouts, or the FLOPs ceiling where that is nearer) + scored items,
each at the median rate of the finished stages of its kind in the store; where there is none, at `RULE`, the rates
of the tiny model on one core. Leaves out: memory, money (`mopdsim.forecast.forecast`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mopdsim.base.run_directory import MADE_FROM, PHASES, SUMMARY
from studies.framework.run import Run
from trainer.runs.plan import Node, Plan
from trainer.runs.store import Store

SECONDS_A_SAMPLE = {"sft": 5e-4, "rl": 5e-4, "distill": 1e-3, "reward_model": 5e-4, "preference": 1e-3}
RULE = {
    **{f"{kind}/sample": seconds for kind, seconds in SECONDS_A_SAMPLE.items()},
    **{f"{kind}/flop": 1.5e-10 for kind in SECONDS_A_SAMPLE},
    "rejection_sampling/sample": 2e-4,
    "rejection_sampling/flop": 1.5e-10,
    "item": 4e-4,
}
MERGE_SECONDS = 0.5
STAGE_SECONDS = 1.0  # of loading and saving
LEAST_STEPS, LEAST_ITEMS = 10, 1000  # of a stage whose rates are taken


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
    """rows in cut order: the first is the first to drop. left_seconds: of what the store does not hold yet."""

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


def ledger(runs: Mapping[str, Run], found: Plan, store: Store) -> Ledger:
    """What the runs come to, in seconds of one worker."""
    rates = measured(store)
    seconds = {key: estimate(node, RULE | rates) for key, node in found.node.items()}
    finished = {key for key in found.node if store.finished(key)}
    needs = {run: found.needed(run) for run in runs}
    kinds = {node.job.stage.kind for node in found.nodes if node.job.stage is not None} - {"merge"}
    return Ledger(
        rows=tuple(_cut_order(runs, needs, seconds)),
        stages_in_all=sum(map(len, needs.values())),
        distinct_stages=len(found.nodes),
        finished_stages=len(finished),
        seconds=sum(seconds.values()),
        left_seconds=sum(value for key, value in seconds.items() if key not in finished),
        by_rule=tuple(sorted(kind for kind in kinds if f"{kind}/sample" not in rates)),
        seconds_of=seconds,
    )


def estimate(node: Node, rates: Mapping[str, float]) -> float:
    """Seconds of one stage."""
    job, settings = node.job, node.job.settings
    domains = len(job.tasks())
    if job.stage is None or job.amounts is None:
        work = 0.0 if job.stage is None else MERGE_SECONDS
        return STAGE_SECONDS + work + rates["item"] * domains * settings.test_items
    amounts, kind = job.amounts, job.stage.kind
    samples = amounts.steps * amounts.prompts_per_step * amounts.rollouts_per_prompt
    whole = work = samples * rates[f"{kind}/sample"]
    if amounts.max_flops is not None:
        work = min(whole, amounts.max_flops * rates[f"{kind}/flop"])
    evaluations = -(-amounts.steps // settings.evaluate_every) * (work / whole if whole else 1.0)
    items = domains * (settings.test_items + evaluations * settings.validation_items)
    return STAGE_SECONDS + work + rates["item"] * items


def measured(store: Store) -> dict[str, float]:
    """Median seconds a sample and a FLOP of each kind, and a scored item, over the store's finished stages."""
    found: dict[str, list[float]] = {}
    for path in sorted(store.root.glob(f"*/{SUMMARY}")):
        try:
            summary = json.loads(path.read_text())
            made_from = json.loads((path.parent / MADE_FROM).read_text())
        except (OSError, ValueError):
            continue
        for name, rate in _rates_of(summary, made_from):
            found.setdefault(name, []).append(rate)
    return {name: statistics.median(values) for name, values in found.items()}


def _rates_of(summary: Mapping[str, Any], made_from: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Rates of one finished stage, evaluation apart."""
    settings, amounts, stage = made_from["settings"], made_from.get("amounts"), made_from["stage"]
    steps, domains = summary["steps"], len(summary["domains"])
    evaluations = -(-steps // settings["evaluate_every"])
    items = domains * (settings["test_items"] + evaluations * settings["validation_items"])
    if items >= LEAST_ITEMS and summary["seconds"]["evaluation"]:
        yield "item", summary["seconds"]["evaluation"] / items
    if amounts is None or stage is None or steps < LEAST_STEPS:
        return
    spent = {
        side: sum(summary[side][p] for p in PHASES if p != "evaluation") for side in ("seconds", "flops")
    }
    samples = steps * amounts["prompts_per_step"] * amounts["rollouts_per_prompt"]
    yield f"{stage['kind']}/sample", spent["seconds"] / samples
    if spent["flops"]:
        yield f"{stage['kind']}/flop", spent["seconds"] / spent["flops"]


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
