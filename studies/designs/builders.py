"""What the designs share: recipes at given amounts, and steps of analysis that recur. Leaves out: what a study asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.catalogue import assemble
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import Amounts, AmountsName, AnyStage, Distill, Rl
from studies.framework.analysis import Quantity, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Factor

MERGE_SCALE = 0.5  # of task arithmetic, in the demos
UNBOUNDED = 100_000  # steps, where FLOPs end a stage


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


def at_flops(recipe: Recipe, flops: float, *, rl: Amounts, distill: Amounts, share: float) -> Recipe:
    """The recipe at this many training FLOPs in all, teachers counted: a share of them for its distillation stages
    (none where it has none), the rest for its RL stages, each in proportion to the stage's domains."""
    distilling = {s.name: len(s.domains) for s in recipe.stages if isinstance(s, Distill)}
    reinforced = {s.name: len(s.domains) for s in recipe.stages if isinstance(s, Rl)}
    share = share if distilling else 0.0
    amounts = {}
    for sizes, chosen, whole in ((distilling, distill, share * flops), (reinforced, rl, (1 - share) * flops)):
        for name, size in sizes.items():
            ceiling = whole * size / sum(sizes.values())
            amounts[name] = chosen.model_copy(update={"steps": UNBOUNDED, "max_flops": ceiling})
    return recipe.with_amounts(amounts)


def composed(
    name: str,
    domains: Sequence[str],
    spent: Sequence[tuple[AnyStage, Amounts]],
    scale: AmountsName = "tiny",
) -> Recipe:
    """A recipe of these stages with their amounts, whose last is its result."""
    amounts = {stage.name: own for stage, own in spent}
    stages = [stage for stage, _ in spent]
    return assemble(name, domains, scale, stages, amounts_of=lambda stage, _: amounts[stage.name])


Row = Callable[[Observations, str], Mapping[str, Any] | Sequence[Mapping[str, Any]]]


def table(found: Observations, row: Row) -> pd.DataFrame:
    """The rows of all finished runs: `row` gives what one adds to its name, seed and factors, in one or in several."""
    rows: list[dict[str, Any]] = []
    for name in found.runs():
        own = row(found, name)
        rows += [found.about(name) | dict(each) for each in ([own] if isinstance(own, Mapping) else own)]
    return pd.DataFrame(rows)


def means(rows: pd.DataFrame, by: str, columns: str) -> pd.DataFrame:
    """Mean of some columns by others, both named in one string with spaces between."""
    return rows.groupby(by.split(), as_index=False)[columns.split()].mean()


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
    **both: Factor,
) -> Quantity | None:
    """Mean difference of a column between the rows of two conditions, paired by some columns (means within a pair).
    both: a condition that the two share."""
    sides = [where(rows, **condition, **both).groupby(list(by))[column].mean() for condition in (these, less)]
    return mean_quantity((sides[0] - sides[1]).dropna())


def where(rows: pd.DataFrame, **condition: Factor) -> pd.DataFrame:
    """The rows under a condition."""
    for name, value in condition.items():
        rows = rows[rows[name] == value]
    return rows


def mean_where(rows: pd.DataFrame, column: str, **condition: Factor) -> Quantity | None:
    """Mean over seeds of a column under a condition."""
    return mean_quantity(where(rows, **condition).groupby("seed")[column].mean())
