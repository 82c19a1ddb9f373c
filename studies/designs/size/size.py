"""size: does what was fitted on a model of 0.17 M parameters forecast one of 0.65 M?

The comparison of `choice` on the larger built-in base (twice the width): three recipes at equal FLOPs, teachers
counted, under four conditions. FLOPs are a little below four times those of the like conditions there, so that they
are alike for each parameter. No run was fitted before all were judged. Leaves out: sizes that a language model has;
two sizes are no law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from studies.designs.recipes.choice import KNOWN, WORLDS
from studies.designs.recipes.comparison import Condition, Setup, compared, lead, mixed_best
from studies.framework.analysis import Analysis, Quantity
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.study import Claim, Study, at_least, at_most, predicted


def setup(study: str, model: str, seeds: tuple[int, ...], *, times: float = 1.0) -> Setup:
    """Few FLOPs, many, a bold learning rate, unlike domains: in this order, at `times` the FLOPs of `size`."""
    return Setup(
        study=study,
        worlds={"known": KNOWN, "unlike": WORLDS["unlike"]},
        starts={},
        paces={"easy": (1.2e-3, 2.7e-3), "quick": (2.8e-3, 4.5e-3)},
        conditions=(
            Condition(world="known", gflops=24 * times, pace="easy"),
            Condition(world="known", gflops=80 * times, pace="easy"),
            Condition(world="known", gflops=40 * times, pace="quick"),
            Condition(world="unlike", gflops=48 * times, pace="easy"),
        ),
        seeds=seeds,
        model=model,
    )


SETUP = setup("size", "tiny-large", seeds=(40, 41))  # of no other study, as those of the larger ones


def analysis_of(own: Setup) -> Callable[[Observations], Analysis]:
    """The comparison of `choice`, with what the predictions of these studies speak of."""
    early, long, quick, _ = own.conditions
    return lambda found: compared(found, partial(quantities, early=early, long=long, quick=quick))


def claims(*, mixed_rl: float, mopd: float, quick: Sequence[Claim]) -> tuple[Claim, ...]:
    """What every size claims, with least gains in the long condition and what happens at the bold rate."""
    return (
        at_least(0.75, "mixed_best_easy", "share of easy conditions won by mixed RL"),
        at_least(mixed_rl, "gain_of_long_mixed_rl", "gain of mixed RL in the long condition"),
        at_least(mopd, "gain_of_long_mopd", "gain of MOPD in the long condition"),
        *quick,
        at_least(0.0, "merge_minus_mopd_early", "merge less MOPD, teachers cut early"),
        at_most(1.25, "most_over_least_flops", "most over least FLOPs of a condition"),
    )


def mixed_behind_mopd() -> Claim:
    """That mixed RL no longer leads at the bold rate."""
    return at_most(0.0, "mixed_minus_mopd_quick", "mixed RL less MOPD at 2.8e-3")


def merge_ahead() -> Claim:
    """That merging leads mixed RL at the bold rate."""
    return at_least(0.05, "merge_minus_mixed_quick", "merge less mixed RL at 2.8e-3")


def quantities(
    rows: pd.DataFrame, *, early: Condition, long: Condition, quick: Condition
) -> Mapping[str, Quantity | None]:
    """Who wins at the easy pace, what is gained in the long condition, what happens in the quick and early ones."""
    return {
        "mixed_best_easy": mixed_best(rows[rows.pace == "easy"]),
        "gain_of_long_mixed_rl": _gain(rows, long, "mixed_rl"),
        "gain_of_long_mopd": _gain(rows, long, "mopd"),
        "mixed_minus_mopd_quick": lead(rows, quick, "mixed_rl", "mopd"),
        "merge_minus_mixed_quick": lead(rows, quick, "merge", "mixed_rl"),
        "merge_minus_mopd_early": lead(rows, early, "merge", "mopd"),
    }


def _gain(rows: pd.DataFrame, condition: Condition, recipe: str) -> Quantity | None:
    own = rows[(rows.condition == condition.name) & (rows.recipe == recipe)]
    return mean_quantity(own["mean"] - own["start"])


OBSERVED = "test scores on 300 prompts of each domain, of start, specialists and outputs; FLOPs of all stages"
STUDY = Study(
    name="size",
    question="Does what was fitted on 0.17 M parameters forecast a model of 0.65 M?",
    prediction=predicted(
        "At equal FLOPs for each parameter the larger model does what the smaller one did: mixed RL wins at the "
        "easy pace, merging passes MOPD where teachers are cut early, both long recipes gain well over their "
        "start. Twice the width makes a given rate bolder, so that at 2.8e-3, where the smaller model never "
        "broke, mixed RL begins to lose domains and no longer leads MOPD.",
        *claims(mixed_rl=0.15, mopd=0.1, quick=[mixed_behind_mopd()]),
    ),
    observed=OBSERVED,
    held_out="all runs: the calibration is fitted on the smaller model, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analysis_of(SETUP),
    released="2026-11-24: judged once (studies/LOG.md); an exponent of size was then fitted to it; `size_again` judges",
)
