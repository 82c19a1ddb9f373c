"""Which recipe wins under which condition: the comparison that `choice`, `choice_again` and the studies of size share.

A condition is a world, a budget and a pace (the learning rates); every recipe is run under every one at the same
training FLOPs, teachers counted. Leaves out: which conditions, and what is predicted of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import BASE
from studies.designs.builders import STUDENT, TEACHER, at_flops, kept, of_runs, paired, where
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Run
from studies.framework.study import Prediction, Study
from trainer.files.settings import Settings

WARM_UP = 3  # steps: the shortest stages have hardly more
RECIPES = ("mopd", "mixed_rl", "merge")
LEAST_SPREAD = 0.05


@dataclass(frozen=True, kw_only=True)
class Condition:
    """gflops: of training, for each domain of the world. world, pace: keys of the `Setup` that it belongs to."""

    world: str
    gflops: float
    pace: str

    @property
    def name(self) -> str:
        return f"{self.world}/{self.gflops:g}/{self.pace}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a study of choices varies. starts: amounts of a world's base where they are not the default ones. paces: the
    learning rates of RL and of distillation. model: as a run names it."""

    study: str
    worlds: Mapping[str, tuple[str, ...]]
    starts: Mapping[str, Amounts]
    paces: Mapping[str, tuple[float, float]]
    conditions: tuple[Condition, ...]
    seeds: tuple[int, ...]
    model: str = "tiny"

    def runs(self) -> list[Run]:
        """Every recipe under every condition."""
        return [
            self._run(c, recipe, seed) for seed in self.seeds for c in self.conditions for recipe in RECIPES
        ]

    def _run(self, condition: Condition, recipe: str, seed: int) -> Run:
        domains = self.worlds[condition.world]
        rl, distill = (
            amounts.model_copy(update={"learning_rate": rate, "warmup_steps": WARM_UP})
            for amounts, rate in zip((TEACHER, STUDENT), self.paces[condition.pace], strict=True)
        )
        flops = condition.gflops * 1e9 * len(domains)
        return Run(
            name=f"{condition.name}/{recipe}/seed{seed}",
            recipe=at_flops(catalogue.recipe(recipe, domains), flops, rl=rl, distill=distill),
            settings=Settings(
                seed=seed, validation_items=10, test_items=300, evaluate_every=1000, diagnose_every=1000,
                max_truncation=1.0,  # a collapsed run counts with its score
            ),
            model=self.model,
            start=self.starts.get(condition.world),
            factors={
                "world": condition.world, "gflops": condition.gflops, "pace": condition.pace, "recipe": recipe,
                "contest": f"{self.study}/{condition.name}",
            },
            held_out=True,
            cut=int(seed == self.seeds[-1]),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a prediction speaks of, by the name of the quantity. wins: the share of conditions at these paces that mixed
    RL wins. leads: of one recipe over another under a condition. gains: of a recipe over its start under one."""

    wins: Mapping[str, Collection[str]]
    leads: Mapping[str, tuple[Condition, str, str]]
    gains: Mapping[str, tuple[Condition, str]] = field(default_factory=dict)

    def quantities(self, rows: pd.DataFrame) -> dict[str, Quantity | None]:
        """Of a row for each run."""
        return {
            **{name: mixed_best(rows[rows.pace.isin(paces)]) for name, paces in self.wins.items()},
            **{name: lead(rows, *these) for name, these in self.leads.items()},
            **{name: gain(rows, *these) for name, these in self.gains.items()},
        }


def study_of(
    setup: Setup,
    measured: Measured,
    *,
    question: str,
    prediction: Prediction,
    released: str = "",
    held_out: str,
) -> Study:
    """The comparison of a setup as a study; held_out: why its runs judge."""
    return Study(
        name=setup.study,
        question=question,
        prediction=prediction,
        observed="test scores on 300 prompts of each domain, of start, specialists and outputs; FLOPs of all stages",
        held_out=f"all runs: the calibration is fitted on {held_out}",
        design=setup.runs,
        analyse=of_runs(_row)(lambda rows: compared(rows, measured)),
        released=released,
    )


def compared(rows: pd.DataFrame, own: Measured) -> Analysis:
    """Scores by condition and recipe, who wins and by how much, what the constant rules lose; and the study's own
    quantities."""
    scores = rows.groupby(["condition", "recipe"], as_index=False, sort=False)[
        ["start", "mean", "worst", "tflops"]
    ].mean()
    winners = pd.DataFrame([_winner(group) for _, group in rows.groupby("condition", sort=False)])
    return Analysis(
        quantities=kept(**_shared(rows), **own.quantities(rows)) if set(RECIPES) <= set(rows.recipe) else {},
        findings=_findings(winners),
        tables=(
            Table(title="Best recipe of each condition; lead over the second, 80% interval", frame=winners),
            Table(title="Mean and worst domain by condition and recipe, mean of seeds", frame=scores),
        ),
        charts=(
            Chart(
                name="scores", title="Mean score over the domains by recipe: a panel for each condition, a point for "
                "each seed", frame=rows, x="recipe", y="mean", colour="recipe", panel="condition", mark="point",
            ),
        ),
        limits=(
            "Two seeds a condition: a lead within its interval is no winner.",
            "One pace and one batch for all recipes of a condition: what each would reach at its own best rate is "
            "the question of `turnover`.",
            "Three recipes in their plain form. Whether the simulator chooses among them is judged by "
            "`mopd study fit --all`, not here.",
        ),
    )  # fmt: skip


def _row(found: Observations, name: str) -> dict[str, Any]:
    domains = found.finished[name]["domains"]
    return {
        "condition": str(found.factor(name, "contest")).partition("/")[2],
        "start": found.mean(name, domains, BASE),
        "mean": found.mean(name, domains),
        "worst": min(found.scores(name)[d] for d in domains),
        "tflops": found.flops(name) / 1e12,
    }


def _winner(own: pd.DataFrame) -> dict[str, Any]:
    """Of one condition: the best recipe by its mean over seeds, its paired lead, the spread from best to worst."""
    means = own.groupby("recipe")["mean"].mean().sort_values(ascending=False)
    best, second = [*means.index, *means.index][:2]
    lead = paired(own, "mean", {"recipe": best}, {"recipe": second})
    interval = dict.fromkeys(("lead", "low", "high"))
    if lead is not None:
        interval = {"lead": lead.value, "low": lead.low, "high": lead.high}
    found = {
        "condition": own.condition.iloc[0],
        "best": best,
        "score": float(means.iloc[0]),
        "second": second,
    }
    return {**found, **interval, "spread": float(means.iloc[0] - means.iloc[-1])}


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of the conditions and seeds that have every recipe: a column for each."""
    return rows.pivot_table(index=["condition", "seed"], columns="recipe", values="mean").dropna()


def _by_seed(values: pd.Series[float]) -> Quantity | None:
    return mean_quantity(values.groupby("seed").mean())


def lead(rows: pd.DataFrame, condition: Condition, recipe: str, other: str) -> Quantity | None:
    """Of one recipe's mean score over another's under a condition, paired by seed."""
    return paired(rows, "mean", {"recipe": recipe}, {"recipe": other}, condition=condition.name)


def gain(rows: pd.DataFrame, condition: Condition, recipe: str) -> Quantity | None:
    """Of a recipe's mean score over its start under a condition."""
    own = where(rows, condition=condition.name, recipe=recipe)
    return mean_quantity(own["mean"] - own["start"])


def mixed_best(rows: pd.DataFrame) -> Quantity | None:
    """The share of these conditions that mixed RL wins; None where a recipe has no run in them."""
    complete = _complete(rows)
    if set(RECIPES) - set(complete):
        return None
    return _by_seed((complete["mixed_rl"] >= complete.max(axis=1)).astype(float))


def _shared(rows: pd.DataFrame) -> dict[str, Quantity | None]:
    complete = _complete(rows)
    best = complete.max(axis=1)
    spread = best - complete.min(axis=1)
    spent = rows.groupby(["condition", "seed"]).tflops  # set equal but for the last step of each stage
    return {
        "conditions_that_spread": mean_quantity((spread >= LEAST_SPREAD).groupby("seed").sum()),
        **{f"loss_of_always_{name}": _by_seed(best - complete[name]) for name in RECIPES},
        "most_over_least_flops": _by_seed(spent.max() / spent.min()),
    }


def _findings(winners: pd.DataFrame) -> tuple[str, ...]:
    sure = winners[winners.low > 0]
    counts = winners.best.value_counts()
    wins = ", ".join(f"{name} in {count}" for name, count in counts.items())
    names = ", ".join(f"{row.condition} ({row.best})" for row in sure.itertuples()) or "none"
    return (
        f"Best by the mean of seeds, of {len(winners)} conditions: {wins}.",
        f"The lead over the second is above zero throughout its interval in {len(sure)}: {names}.",
        f"Best and worst differ by {100 * LEAST_SPREAD:g} points or more in "
        f"{int((winners.spread >= LEAST_SPREAD).sum())}.",
    )
