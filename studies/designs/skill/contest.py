"""What the studies of the suite share: recipes side by side at equal FLOPs, scored three ways, failed students told
apart.

A student that recovers less than 70% of its teachers' greedy gains is a failed distillation. It is reported as
`failed mopd` (or `failed off_policy`), and no comparison counts it as the recipe. Leaves out: which worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mopdsim.recipes.stage import BASE, Distill
from studies.designs.builders import means, paired, table
from studies.designs.skill.suite import PROBE
from studies.framework.analysis import Analysis, Chart, Quantity, Table, mean_quantity
from studies.framework.observe import Figure, Observations
from studies.framework.study import Study

RECOVERED = 0.70  # of the teachers' gains; below it a distillation has failed
FAILED = "failed "
SWITCH = 4e-3  # RL's rate from which on the one-line rule takes MOPD
judging = partial(  # a study whose runs all judge the model that ships: forecasts of them are on record before
    Study,
    observed="scores at temperature 1, greedy and best of eight of starts, teachers and outputs; FLOPs of all stages",
    held_out="all runs: they judge the model that ships",
    suite="skill",
    foretells=True,
)
NAMES: Mapping[Figure, str] = {"pass_rate": "temperature_1", "greedy": "greedy", "pass_8": "pass_8"}


def recovery(found: Observations, name: str) -> float | None:
    """Share of the teachers' gains, each on its own domains, that the student has; None of a recipe without teachers,
    or of teachers that gained nothing."""
    recipe = found.recipe(name)
    student = recipe.stage[recipe.output]
    if not isinstance(student, Distill):
        return None
    start, after = (found.scores(name, stage) for stage in (BASE, recipe.output))
    owned = [(teacher.stage, domain) for teacher in student.teachers for domain in teacher.domains]
    headroom = sum(found.scores(name, s)[d] - start[d] for s, d in owned)
    return sum(after[d] - start[d] for _, d in owned) / headroom if headroom > 0 else None


def failed(found: Observations) -> list[str]:
    """The runs whose distillation failed, greedily."""
    greedy = found.seen("greedy")
    return [n for n in found.runs() if (share := recovery(greedy, n)) is not None and share < RECOVERED]


def rows_of(found: Observations) -> pd.DataFrame:
    """A row for each finished run: means over its domains of every figure, of start and end, and the worst domain's."""
    lost, greedy = set(failed(found)), found.seen("greedy")
    views = {label: found.seen(figure) for figure, label in NAMES.items()}

    def row(found: Observations, name: str) -> dict[str, Any]:
        domains = found.finished[name]["domains"]
        label = found.factor(name, "recipe")
        share = recovery(greedy, name)
        return {
            "recipe": f"{FAILED}{label}" if name in lost else label,
            **{f"start_{figure}": view.mean(name, domains, BASE) for figure, view in views.items()},
            **{figure: view.mean(name, domains) for figure, view in views.items()},
            "worst_greedy": min(greedy.scores(name)[domain] for domain in domains),
            "recovery": float("nan") if share is None else share,
            "gflops": found.flops(name) / 1e9,
            **(
                {f"probe_{figure}": view.scores(name)[PROBE] for figure, view in views.items()}
                if PROBE in found.scores(name)
                else {}
            ),
        }

    return table(found, row)


def table_of_probe(rows: pd.DataFrame, by: str) -> Table:
    """The composed probe's scores by some columns, named in one string."""
    shown = means(rows, by, " ".join(f"probe_{name}" for name in NAMES.values()))
    return Table(title=f"The composed probe {PROBE}, which nobody demonstrates or trains", frame=shown)


def compared(rows: pd.DataFrame, by: str, own: Analysis | None = None) -> Analysis:
    """Tables and findings by the factor that conditions differ in; after them what is the study's own."""
    shown = [*NAMES.values(), "worst_greedy", "recovery", "gflops"]
    scores = means(rows, f"{by} recipe", " ".join(shown))
    count = rows.groupby([by, "recipe"]).size().rename("runs").reset_index()
    scores = scores.merge(count, on=[by, "recipe"])
    starts = means(rows, by, " ".join(f"start_{name}" for name in NAMES.values()))
    leads = pd.DataFrame([_lead(own, by) for _, own in rows.groupby(by, sort=False)])
    told = [
        f"{by} {row[by]}: {row['best']} leads {row['second']} by {100 * row['lead']:.1f} points greedy "
        + (
            f"(80% interval {100 * row['low']:.1f} to {100 * row['high']:.1f}, {row['seeds']} seeds)."
            if row["seeds"] > 1
            else "(one seed: no interval)."
        )
        for row in leads.dropna(subset=["lead"]).to_dict("records")
    ]
    lost = rows[rows.recipe.str.startswith(FAILED)]
    if len(lost):
        told.append(
            f"{len(lost)} distillations failed (under {RECOVERED:.0%} of their teachers' greedy gains) and are "
            f"compared with nothing: {', '.join(sorted(lost.run))}."
        )
    made = Analysis(
        quantities={},
        findings=tuple(told),
        tables=(
            Table(title="Starts, mean of seeds", frame=starts),
            Table(title="Recipes, mean of seeds; recovery: share of the teachers' greedy gains", frame=scores),
            Table(title="Best recipe and its lead over the second, greedy, paired by seed, 80% interval", frame=leads),
        ),
        charts=(
            Chart(
                name="scores", title=f"Mean greedy score by recipe: a panel for each {by}, a point for each seed",
                frame=rows, x="recipe", y="greedy", colour="recipe", panel=by, mark="point",
            ),
        ),
    )  # fmt: skip
    return made if own is None else made.with_more(own)


def _lead(own: pd.DataFrame, by: str) -> dict[str, Any]:
    """Of one condition, failed distillations left out: the best recipe greedily and its paired lead over the second."""
    fair = own[~own.recipe.str.startswith(FAILED)]
    ranked = fair.groupby("recipe").greedy.mean().sort_values(ascending=False).index
    row: dict[str, Any] = {by: own[by].iloc[0], "best": None, "second": None}
    if len(ranked) < 2:
        return row | dict.fromkeys(("lead", "low", "high", "seeds"))
    lead = paired(fair, "greedy", {"recipe": ranked[0]}, {"recipe": ranked[1]})
    row |= {"best": ranked[0], "second": ranked[1]}
    if lead is None and fair.seed.nunique() == 1:
        first, second = (float(fair[fair.recipe == name].greedy.mean()) for name in ranked[:2])
        return row | {"lead": first - second, "low": np.nan, "high": np.nan, "seeds": 1}
    if lead is None:
        return row | dict.fromkeys(("lead", "low", "high", "seeds"))
    return row | {"lead": lead.value, "low": lead.low, "high": lead.high, "seeds": lead.n}


def lead(rows: pd.DataFrame, one: str, other: str, column: str = "greedy", **where: Any) -> Quantity | None:
    """One recipe's mean score less another's, paired by condition and seed, where both are there."""
    by = [name for name in ("world", "dial", "budget") if name in rows]
    return paired(rows, column, {"recipe": one}, {"recipe": other}, by=(*by, "seed"), **where)


def mopd_from(switch: float) -> Callable[[float], str]:
    """The one-line rule, a recipe given RL's rate: mixed RL, but MOPD from this rate on."""
    return lambda rate: "mopd" if rate >= switch else "mixed_rl"


def share_failed(rows: pd.DataFrame, recipe: str, by: str = "seed") -> Quantity | None:
    """The share of a recipe's runs whose distillation failed, by seed or another column."""
    own = rows[rows.recipe.isin([recipe, f"{FAILED}{recipe}"])]
    return mean_quantity(own.recipe.str.startswith(FAILED).astype(float).groupby(own[by]).mean())
