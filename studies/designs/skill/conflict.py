"""conflict: what does a conflict between two domains cost each recipe, when every stage runs until little is left to
gain?

The competing pair of the suite 'skill' along its ambiguity dial: mixed RL, MOPD, merging and a cascade at equal FLOPs.
No policy can score more than 1 - dial / 2 on the mean of the two. Dial .9 is asked of nobody before it is judged. All
runs are forecast before they are made; they were given to the fit after they had been judged (`released`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pandas as pd

from studies.designs.builders import kept, means, where
from studies.designs.skill.contest import compared, judging, lead, rows_of
from studies.designs.skill.gate import admit
from studies.designs.skill.suite import FLOPS, PAIR, RIVAL_SEEDS, RL, recipe, rivals, run
from studies.framework.analysis import Analysis, Chart, Quantity, Table, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

DIALS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
UNSEEN = 0.9
RECIPES = ("mixed_rl", "mopd", "merge", "cascade")
FACTOR = 2  # on the FLOPs of `order`, so that little is left to gain


def design() -> list[Run]:
    """Four recipes at every dial on every seed."""
    return [
        run(
            f"dial{dial:g}/{name}", recipe(name, rivals(dial), flops=FACTOR * FLOPS), seed, PAIR,
            held_out=True, dial=dial, recipe=name, rate=RL.learning_rate, contest=f"conflict/{dial:g}",
        )
        for seed in RIVAL_SEEDS
        for dial in DIALS
        for name in RECIPES
    ]  # fmt: skip


def analyse(found: Observations) -> Analysis:
    """Scores along the dial, beside the bound."""
    rows = rows_of(found)
    lost = means(rows.assign(below=1 - rows.dial / 2 - rows.greedy), "dial recipe", "below")
    own = Analysis(
        quantities=kept(
            mixed_minus_mopd_at_0=lead(rows, "mixed_rl", "mopd", dial=0.0),
            mixed_minus_mopd_at_1=lead(rows, "mixed_rl", "mopd", dial=1.0),
            mixed_minus_cascade_at_1=lead(rows, "mixed_rl", "cascade", dial=1.0),
            mixed_minus_merge_at_1=lead(rows, "mixed_rl", "merge", dial=1.0),
            fall_of_mixed=_fall(rows, "mixed_rl"),
            worst_of_mixed_at_1=mean_quantity(where(rows, dial=1.0, recipe="mixed_rl").worst_greedy),
        ),
        tables=(
            Table(title="Points of a score below the best possible, 1 - dial / 2, greedy", frame=lost),
        ),
        charts=(
            Chart(
                name="dial", title="Mean greedy score of the pair along the ambiguity dial, by recipe",
                frame=means(rows, "dial recipe", "greedy"), x="dial", y="greedy", colour="recipe",
            ),
        ),
        limits=(
            f"{len(RIVAL_SEEDS)} seeds a dial, one pair, one budget, one size.",
            "Ambiguity is one kind of conflict: prompts that ask for two answers. Others were not found at this size.",
        ),
    )  # fmt: skip
    return replace(compared(rows, "dial", own), charts=own.charts)


def _fall(rows: pd.DataFrame, recipe: str) -> Quantity | None:
    """What a recipe's mean greedy score loses from dial 0 to dial 1, by seed."""
    by_seed = where(rows, recipe=recipe).pivot_table(index="seed", columns="dial", values="greedy")
    return mean_quantity(by_seed[0.0] - by_seed[1.0]) if {0.0, 1.0} <= set(by_seed) else None


STUDY = judging(
    name="conflict",
    question="What does a conflict between two domains cost each recipe, greedily, near saturation?",
    prediction=predicted(
        "Without conflict mixed RL and MOPD end alike. Full conflict costs mixed RL about half: it comes near the best "
        "possible mean by siding with one domain, so that the other ends near zero. MOPD averages two teachers and "
        "gets less than mixed RL there. A cascade sides with its last domain and has the same mean. Merging is behind.",
        """
        mixed_minus_mopd_at_0     >= -0.05  mixed RL less MOPD at dial 0
        mixed_minus_mopd_at_1     >= 0.0    mixed RL less MOPD at dial 1
        fall_of_mixed             >= 0.3    mixed RL's fall from dial 0 to dial 1
        worst_of_mixed_at_1       <= 0.25   mixed RL's worse domain at dial 1
        mixed_minus_cascade_at_1  >= -0.1   mixed RL less a cascade at dial 1
        mixed_minus_merge_at_1    >= 0.0    mixed RL less merging at dial 1
        """,
    ),
    held_out=f"all runs: they judged the model that shipped then; dial {UNSEEN:g} had not been asked before",
    released="2026-11-29: judged once, by forecasts on record before the runs; its runs were then given to the fit",
    design=design,
    analyse=analyse,
    admit=partial(admit, pair=True),
)
