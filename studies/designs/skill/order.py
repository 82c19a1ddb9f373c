"""order: which recipe comes first where RL has to teach? Six recipes at equal FLOPs, four worlds of the suite 'skill'.

Mixed RL, MOPD, off-policy fine-tuning on the specialists' correct samples, merging, and cascades in both orders;
teachers are counted. Rates, batches and the share for distillation are those of `studies.designs.skill.suite`;
`skill_sweep` judges them on a seed of its own. All runs are forecast before they are made, and none enters a fit.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from studies.designs.builders import kept, of_table
from studies.designs.skill.contest import compared, lead, rows_of, share_failed
from studies.designs.skill.gate import admit
from studies.designs.skill.suite import RECIPES, RL, SEEDS, WORLDS, recipe, run
from studies.framework.analysis import Analysis
from studies.framework.run import Run
from studies.framework.study import Study, at_least, at_most, predicted, within


def design() -> list[Run]:
    """Every recipe in every world on every seed."""
    return [
        run(
            f"{world}/{name}", recipe(name, domains), seed, world,
            held_out=True, recipe=name, rate=RL.learning_rate, contest=f"order/{world}",
        )
        for seed in SEEDS
        for world, domains in WORLDS.items()
        for name in RECIPES
    ]  # fmt: skip


@of_table(rows_of)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Scores by world and recipe, and the leads that the prediction speaks of."""
    made = compared(rows, "world")
    quantities = kept(
        mixed_minus_mopd=lead(rows, "mixed_rl", "mopd"),
        mixed_minus_mopd_sampled=lead(rows, "mixed_rl", "mopd", "temperature_1"),
        mopd_minus_merge=lead(rows, "mopd", "merge"),
        mopd_minus_off_policy=lead(rows, "mopd", "off_policy"),
        cascade_minus_back=lead(rows, "cascade", "cascade_back"),
        mixed_minus_cascade=lead(rows, "mixed_rl", "cascade"),
        failed_mopd=share_failed(rows, "mopd"),
    )
    return Analysis(
        quantities=quantities,
        findings=made.findings,
        tables=made.tables,
        charts=made.charts,
        limits=(
            f"{len(SEEDS)} seeds a world, one budget, one size. A lead within its interval is no winner.",
            "Rates and batches are the same in every world; `skill_sweep` judges them, on one seed of one world.",
        ),
    )


STUDY = Study(
    name="order",
    question="Which recipe comes first, greedily and at temperature 1, where RL has to teach?",
    prediction=predicted(
        "At equal FLOPs mixed RL leads MOPD greedily too, though by less than at temperature 1. MOPD leads merging and "
        "off-policy fine-tuning. A cascade forgets what it trained first, so that mixed RL leads it; which order it "
        "takes hardly matters on the mean. A tuned student seldom fails.",
        at_least(0.0, "mixed_minus_mopd", "mixed RL less MOPD, greedy"),
        at_least(0.0, "mixed_minus_mopd_sampled", "mixed RL less MOPD, temperature 1"),
        at_least(0.0, "mopd_minus_merge", "MOPD less merging, greedy"),
        at_least(0.0, "mopd_minus_off_policy", "MOPD less off-policy, greedy"),
        at_least(0.05, "mixed_minus_cascade", "mixed RL less a cascade, greedy"),
        within(-0.08, 0.08, "cascade_minus_back", "a cascade less the same in reverse, greedy"),
        at_most(0.25, "failed_mopd", "share of MOPD's distillations that fail"),
    ),
    observed="scores at temperature 1, greedy and best of eight of starts, teachers and outputs; FLOPs of all stages",
    held_out="all runs: they judge the model that ships",
    design=design,
    analyse=analyse,
    suite="skill",
    foretells=True,
    admit=partial(admit, tuple(WORLDS)),
)
