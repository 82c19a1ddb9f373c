"""What the designs share: worlds of tiny domains, settings, amounts, and steps of analysis that recur.

Amounts fit two CPU cores: a GRPO step of 16 x 8 takes about 0.1 s, a distillation step of 64 about 0.08 s. Specialists
end below 97%, since a saturated cell tells no recipes apart. Domains that name a probe of `tiny` together are avoided,
so that nothing is scored without need. All runs of a world share its start, and single-domain teachers with the same
amounts are run once for all studies. Leaves out: any study's question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.recipe import Distill, Recipe, Rl
from studies.framework.analysis import Quantity
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Factor, Run
from trainer.files.settings import Settings

TRAINED = ("sort", "sort_down", "reverse")
FOURTH = "rotate"
WORLD = (*TRAINED, FOURTH)
TEACHER = Amounts(steps=48, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=7e-4)
STUDENT = Amounts(steps=72, prompts_per_step=64, learning_rate=2e-3)
CEILING = 0.97  # no cell above enters a fit
DISTILLED = 0.25  # of a recipe's FLOPs, where it distils
UNBOUNDED = 100_000  # steps, where FLOPs end a stage


def settings(seed: int) -> Settings:
    """Of the studies that compare ends of stages."""
    return Settings(seed=seed, validation_items=100, test_items=500, evaluate_every=24, diagnose_every=12)


def ambiguous(domains: Sequence[str], dial: float) -> tuple[str, ...]:
    """The domains, the competing pair with its ambiguity dial turned up."""
    pair = ("sort", "sort_down")
    return tuple(f"{name}?ambiguity={dial:g}" if dial and name in pair else name for name in domains)


def over(recipe: Recipe, domains: Sequence[str]) -> Recipe:
    """The recipe in a world of these domains: all are demonstrated and scored, whatever is trained."""
    return recipe.model_copy(update={"domains": tuple(domains)})


def alone(domain: str, world: Sequence[str], amounts: Amounts) -> Recipe:
    """One specialist in a world."""
    return over(catalogue.single_domain([domain]).with_amounts({"specialist": amounts}), world)


def spending(recipe: Recipe, *, rl: Amounts, distill: Amounts) -> Recipe:
    """The recipe with these amounts of every RL and every distillation stage."""
    chosen = {s.name: rl for s in recipe.stages if isinstance(s, Rl)}
    return recipe.with_amounts(chosen | {s.name: distill for s in recipe.stages if isinstance(s, Distill)})


def at_flops(recipe: Recipe, flops: float, *, rl: Amounts, distill: Amounts) -> Recipe:
    """The recipe at this many training FLOPs in all, teachers counted: `DISTILLED` of them for its distillation stages
    (none where it has none), the rest for its RL stages, each in proportion to the stage's domains."""
    distilling = {s.name: len(s.domains) for s in recipe.stages if isinstance(s, Distill)}
    reinforced = {s.name: len(s.domains) for s in recipe.stages if isinstance(s, Rl)}
    share = DISTILLED if distilling else 0.0
    amounts = {}
    for sizes, chosen, whole in ((distilling, distill, share * flops), (reinforced, rl, (1 - share) * flops)):
        for name, size in sizes.items():
            ceiling = whole * size / sum(sizes.values())
            amounts[name] = chosen.model_copy(update={"steps": UNBOUNDED, "max_flops": ceiling})
    return recipe.with_amounts(amounts)


def run(
    name: str,
    recipe: Recipe,
    seed: int,
    factors: Mapping[str, Factor],
    *,
    held_out: bool = False,
    cut: int = 0,
) -> Run:
    """A run of the comparing studies; the seed is part of its name."""
    return Run(
        name=f"{name}/seed{seed}",
        recipe=recipe,
        settings=settings(seed),
        factors=dict(factors),
        held_out=held_out,
        cut=cut,
    )


def mean_score(found: Observations, name: str, domains: Sequence[str]) -> float:
    """Mean test score of the output over some domains."""
    scores = found.scores(name)
    return sum(scores[domain] for domain in domains) / len(domains)


def kept(**quantities: Quantity | None) -> dict[str, Quantity]:
    """The quantities that could be measured."""
    return {name: quantity for name, quantity in quantities.items() if quantity is not None}


def paired(
    rows: pd.DataFrame,
    column: str,
    these: Mapping[str, Factor],
    less: Mapping[str, Factor],
    *,
    by: Sequence[str] = ("seed",),
) -> Quantity | None:
    """Mean difference of a column between the rows of two conditions, paired by some columns (means within a pair)."""
    sides = []
    for condition in (these, less):
        own = rows
        for name, value in condition.items():
            own = own[own[name] == value]
        sides.append(own.groupby(list(by))[column].mean())
    return mean_quantity((sides[0] - sides[1]).dropna())


def mean_where(rows: pd.DataFrame, column: str, **condition: Factor) -> Quantity | None:
    """Mean over seeds of a column under a condition."""
    for name, value in condition.items():
        rows = rows[rows[name] == value]
    return mean_quantity(rows.groupby("seed")[column].mean())


def at_best(rows: pd.DataFrame, *, of: Sequence[str], setting: str, score: str) -> pd.DataFrame:
    """For each group of the columns `of` and each seed, the rows at the setting whose mean score was the best on the
    other seeds of its group: what was chosen never saw the seed that judges it."""
    chosen = []
    for _, group in rows.groupby(list(of)):
        for seed, own in group.groupby("seed"):
            others = group[group.seed != seed]
            if len(others):
                best = others.groupby(setting)[score].mean().idxmax()
                chosen.append(own[own[setting] == best])
    return pd.concat(chosen) if chosen else rows.iloc[:0]
