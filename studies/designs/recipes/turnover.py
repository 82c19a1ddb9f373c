"""turnover: where does MOPD begin to win against mixed RL?

Both recipes spend the same FLOPs, teachers counted, at two budgets, and both are tuned by the same sweep of learning
rate and batch: the setting is chosen on the other seeds. Along four axes:

    heterogeneity    worlds "alike" and "unlike" (an easy domain beside one of rare success and a noisy verifier),
                     in the latter also one tailored setting each: a rate for every teacher; advantages by domain
                     and prompts by signal for mixed RL
    domains          three in "alike", six in "many"
    environment      one domain's verifier takes e times a mixed step's compute. On the simulated clock a mixed
                     synchronous step waits for it; of MOPD only that domain's teacher does
    reruns           one domain's reward is changed n times: mixed RL runs n times more, MOPD that teacher and student
The last two need no runs of their own: MOPD at the larger budget is compared with mixed RL at the budget that takes the
same wall-clock, or the same FLOPs, interpolated in its logarithm and held at the ends of what was run. MOPD leads where
its mean score is higher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from studies.designs.builders import (
    DISTILLED,
    STUDENT,
    TEACHER,
    at_best,
    at_flops,
    kept,
    means,
    of_runs,
    paired,
    run,
    where,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Factor, Run
from studies.framework.study import Study, at_least, at_most, predicted, within
from trainer.tasks import HETEROGENEOUS

EASY, HARD = HETEROGENEOUS
WORLDS = {
    "alike": ("sort", "reverse", "rotate"),
    "unlike": (HARD, EASY, "reverse"),
    "many": ("sort", "reverse", "rotate", "swap", "rle_decode", "brackets"),
}
RATES = (4e-4, 8e-4, 1.6e-3)
BATCHES = (8, 16)  # prompts of eight rollouts
OWN_RATES = {HARD: 1.6e-3, EASY: 4e-4, "reverse": 8e-4}
TAILORED = "tailored"
DISTILL_RATE, DISTILL_BATCH = 2.5, 4  # of RL's rate and prompts
WARM_UP = 3  # steps: the shortest stages have eight
FLOPS_A_DOMAIN = 0.018e12
BUDGETS = (0.25, 1.0)
SEEDS = (0, 1)
UNSEEN = "many"
ARMS = ("mopd", "mixed_rl")
ENVIRONMENT = (0.0, 1.0, 3.0, 10.0, 30.0)
RERUNS = (0, 1, 3, 10)


def design() -> list[Run]:
    """Both recipes in every world and budget at every setting; the unseen world at the larger budget alone."""
    swept = [(rate, batch) for rate in RATES for batch in BATCHES]
    return [
        _run(world, budget, arm, setting, seed)
        for seed in SEEDS
        for world in WORLDS
        for budget in (BUDGETS[-1:] if world == UNSEEN else BUDGETS)
        for setting in [*swept, *([None] if world == "unlike" else [])]
        for arm in ARMS
    ]


def _run(world: str, budget: float, arm: str, setting: tuple[float, int] | None, seed: int) -> Run:
    domains = WORLDS[world]
    rate, batch = setting or (RATES[1], BATCHES[1])
    common = {"warmup_steps": WARM_UP}
    rl = TEACHER.model_copy(update={"learning_rate": rate, "prompts_per_step": batch, **common})
    student = {"learning_rate": DISTILL_RATE * rate, "prompts_per_step": DISTILL_BATCH * batch, **common}
    distill = STUDENT.model_copy(update=student)
    flops = budget * len(domains) * FLOPS_A_DOMAIN
    recipe = at_flops(_recipe(arm, domains, tailored=setting is None), flops, rl=rl, distill=distill)
    if setting is None and arm == "mopd":
        own = {f"teacher_{place}": OWN_RATES[domain] for place, domain in enumerate(domains, start=1)}
        recipe = recipe.with_amounts(
            {n: recipe.amounts[n].model_copy(update={"learning_rate": r}) for n, r in own.items()}
        )
    label = TAILORED if setting is None else f"rate{rate:g}x{batch}"
    contest = f"turnover/{world}/budget{budget:g}/{label}"
    factors: dict[str, Factor] = {
        "world": world,
        "budget": budget,
        "setting": label,
        "recipe": arm,
        "contest": contest,
    }
    unseen = world == UNSEEN
    name = f"{world}/budget{budget:g}/{label}/{arm}"
    return run(name, recipe, seed, factors, held_out=unseen, cut=int(unseen))


def _recipe(arm: str, domains: Sequence[str], *, tailored: bool) -> Recipe:
    if arm == "mopd":
        return catalogue.mopd(domains)
    if tailored:
        return catalogue.mixed_rl(domains, advantage_scale="domain", curriculum="signal")
    return catalogue.mixed_rl(domains)


def _row(found: Observations, name: str) -> dict[str, Any]:
    """waits: steps of the stage that samples the world's first domain, the slow one of the environment axis."""
    factors, domains = found.finished[name]["factors"], found.finished[name]["domains"]
    scores = found.scores(name)
    waiting = found.stage(name, "mixed" if factors["recipe"] == "mixed_rl" else "teacher_1")
    stages = found.manifest["stages"]
    clock = sum(row["wall_seconds"] for row in stages.values()) / sum(row["flops"] for row in stages.values())
    return {
        "domains": len(domains),
        "mean": sum(scores.values()) / len(scores),
        "worst": min(scores.values()),
        "tflops": found.flops(name) / 1e12,
        "busy": found.flops(name) * clock,
        "waits": int(waiting.step.max()),
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """MOPD's lead over mixed RL, both at their tuned settings, along every axis."""
    tuned = at_best(rows, of=("world", "budget", "recipe"), setting="setting", score="mean")
    leads = _leads(tuned)
    along = means(leads, "axis world x", "lead worst_lead")
    scores = means(tuned, "world budget recipe", "mean worst tflops")
    sweep = means(rows, "world budget recipe setting", "mean worst")
    return Analysis(
        quantities=_quantities(rows, tuned, leads),
        findings=_findings(along),
        tables=(
            Table(title="Tuned on the other seeds: mean and worst domain, mean of seeds", frame=scores),
            Table(title="MOPD's lead over mixed RL, mean of seeds", frame=along),
            Table(title="The sweep, mean of seeds", frame=sweep),
        ),
        charts=tuple(
            Chart(
                name=axis, title=f"MOPD less mixed RL, mean score, by {title}", frame=own, x="x", y="lead",
                colour="world",
            )
            for axis, title in (
                ("environment", "environment seconds (in seconds of a mixed step's compute) at equal wall-clock"),
                ("reruns", "reruns of one domain at equal FLOPs"),
                ("budget", "budget (share of the larger) at equal FLOPs"),
            )
            if not (own := along[along.axis == axis]).empty
        ),
        limits=(
            "The clock is simulated: waits are counted, not slept through, and other overlaps are left out.",
            f"Mixed RL below {BUDGETS[0]:g} of the larger budget was not run: its score is held there, in its favour.",
            "A synchronous mixed run: one that overlaps sampling and training would wait less.",
        ),
    )  # fmt: skip


def _leads(tuned: pd.DataFrame) -> pd.DataFrame:
    """A row for each axis, world, seed and place on the axis."""
    found: list[dict[str, Any]] = []
    for (world, seed), own in tuned.groupby(["world", "seed"]):
        student, mixed = (own[own.recipe == arm].sort_values("budget") for arm in ARMS)
        for _, both in student.merge(mixed, on="budget", suffixes=("", "_mixed")).iterrows():
            lead = {c: both[c] - both[f"{c}_mixed"] for c in ("mean", "worst")}
            found.append(_lead("budget", world, seed, both.budget, lead))
        if list(student.budget) != list(BUDGETS) or list(mixed.budget) != list(BUDGETS):
            continue
        full, rival = student.iloc[-1], mixed.iloc[-1]
        step = rival.busy / rival.waits
        places: list[tuple[str, float, float]] = [
            ("environment", e, (full.busy + full.waits * e * step) / (rival.busy + rival.waits * e * step))
            for e in ENVIRONMENT
        ]
        again = (1 - DISTILLED) / full.domains + DISTILLED  # of MOPD's budget: one teacher and the student
        places += [("reruns", n, (1 + n * again) / (1 + n)) for n in RERUNS]
        for axis, x, share in places:
            lead = {c: full[c] - interpolated(mixed, c, share) for c in ("mean", "worst")}
            found.append(_lead(axis, world, seed, x, lead))
    return pd.DataFrame(found, columns=["axis", "world", "seed", "x", "lead", "worst_lead"])


def _lead(axis: str, world: object, seed: object, x: float, lead: dict[str, float]) -> dict[str, Any]:
    return {
        "axis": axis, "world": world, "seed": seed, "x": float(x), "lead": lead["mean"], "worst_lead": lead["worst"],
    }  # fmt: skip


def interpolated(runs: pd.DataFrame, column: str, budget: float) -> float:
    """A score at a budget, linear in its logarithm between the runs' and constant beyond them."""
    return float(
        np.interp(math.log(budget), np.log(runs.budget.to_numpy(float)), runs[column].to_numpy(float))
    )


def _quantities(rows: pd.DataFrame, tuned: pd.DataFrame, leads: pd.DataFrame) -> dict[str, Quantity]:
    def lead(axis: str, x: float, world: str, column: str = "lead") -> Quantity | None:
        return mean_quantity(where(leads, axis=axis, x=x, world=world)[column])

    def beside_alike(world: str) -> Quantity | None:
        return paired(leads, "lead", {"world": world}, {"world": "alike"}, axis="budget", x=1.0)

    full = rows[(rows.budget == 1.0) & (rows.setting != TAILORED)]
    by_setting = full.groupby(["world", "seed", "recipe"])["mean"]
    spread = (by_setting.max() - by_setting.min()).rename("spread").reset_index()
    return kept(
        lead_alike=lead("budget", 1.0, "alike"),
        lead_unlike=lead("budget", 1.0, "unlike"),
        lead_many=lead("budget", 1.0, "many"),
        worst_lead_unlike=lead("budget", 1.0, "unlike", "worst_lead"),
        worst_lead_many=lead("budget", 1.0, "many", "worst_lead"),
        unlike_minus_alike=beside_alike("unlike"),
        many_minus_alike=beside_alike("many"),
        lead_alike_slow_environment=lead("environment", 10.0, "alike"),
        lead_alike_three_reruns=lead("reruns", 3.0, "alike"),
        sensitivity_mixed_minus_mopd=paired(
            spread, "spread", {"recipe": "mixed_rl"}, {"recipe": "mopd"}, by=("world", "seed")
        ),
        tuned_tflops_ratio=_spent_ratio(tuned),
    )


def _spent_ratio(tuned: pd.DataFrame) -> Quantity | None:
    """MOPD's FLOPs over mixed RL's, which the design sets equal."""
    spent = tuned.pivot_table(index=["world", "budget", "seed"], columns="recipe", values="tflops")
    return mean_quantity(spent["mopd"] / spent["mixed_rl"]) if set(ARMS) <= set(spent) else None


def _findings(along: pd.DataFrame) -> tuple[str, ...]:
    sentences = []
    for (axis, world), own in along.groupby(["axis", "world"]):
        ahead = own[own.lead > 0].x
        ends = f"{own.lead.iloc[0]:+.3f} at {own.x.iloc[0]:g}, {own.lead.iloc[-1]:+.3f} at {own.x.iloc[-1]:g}"
        where = f"first ahead at {ahead.min():g}" if len(ahead) else "nowhere ahead"
        sentences.append(f"MOPD's lead along {axis}, {world}: {ends}; {where}.")
    return tuple(sentences)


STUDY = Study(
    name="turnover",
    question="Where does MOPD begin to win against mixed RL: in FLOPs, in wall-clock, in quality?",
    prediction=predicted(
        "At equal FLOPs tuned mixed RL leads where domains are alike, and with six of them too. Unlike domains "
        "narrow its lead or turn it, above all in the worst domain. What turns it surely is the clock: with an "
        "environment ten times slower than the compute of a step MOPD leads at equal wall-clock. Three reruns of "
        "one domain do not suffice. MOPD's score hangs less on rate and batch than mixed RL's.",
        at_most(0.0, "lead_alike", "MOPD less mixed RL, alike"),
        at_most(0.0, "lead_many", "MOPD less mixed RL, six domains"),
        at_least(0.0, "unlike_minus_alike", "lead, unlike less alike"),
        at_least(0.0, "worst_lead_unlike", "worst domain's lead, unlike"),
        at_least(
            0.0, "lead_alike_slow_environment", "lead at equal wall-clock, environment of ten steps, alike"
        ),
        at_most(0.0, "lead_alike_three_reruns", "lead after three reruns of a domain, alike"),
        at_least(
            0.0, "sensitivity_mixed_minus_mopd", "spread of the score over the sweep, mixed RL less MOPD"
        ),
        within(0.95, 1.05, "tuned_tflops_ratio", "MOPD's FLOPs over mixed RL's"),
    ),
    observed="test scores on 500 prompts of each domain, steps and FLOPs of every stage",
    held_out="the world of six domains, both recipes at every setting",
    design=design,
    analyse=analyse,
)
