"""choice_again: under conditions that nobody has looked at, which recipe wins, and does the simulator choose it?

`choice` showed that fast runs break, and `stability` measured when; what was learned there is judged here: other
seeds, learning rates between and beyond those of `choice`, other budgets, and worlds of which only two are known.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from studies.designs.builders import TRAINED, ambiguous
from studies.designs.recipes.choice import KNOWN, WORLDS
from studies.designs.recipes.comparison import Condition, Setup, compared, lead, mixed_best
from studies.framework.analysis import Analysis, Quantity
from studies.framework.observe import Observations
from studies.framework.study import Study, at_least, at_most, predicted
from trainer.runs.plan import default_start

EARLY = Condition(world="known", gflops=6, pace="crawl")
BETWEEN_LONG = Condition(world="known", gflops=40, pace="quick")
FAST_SHORT = Condition(world="known", gflops=8, pace="fast")
RASH = Condition(world="known", gflops=24, pace="rash")
SLOW = ("crawl", "easy")  # paces at which nothing should break
FAST = ("fast", "rash")

SETUP = Setup(
    study="choice_again",
    worlds={
        "known": KNOWN,
        "strong": KNOWN,  # the same domains on another base
        "competing": ambiguous(TRAINED, 0.4),
        "swapped": (*KNOWN, "swap"),
        "unlike": WORLDS["unlike"],
    },
    starts={"strong": default_start(len(KNOWN)).scaled(1.5)},
    paces={
        "crawl": (5e-4, 1.25e-3),
        "easy": (1.2e-3, 2.7e-3),
        "quick": (2.8e-3, 4.5e-3),
        "fast": (4e-3, 5e-3),
        "rash": (5e-3, 6e-3),
    },
    conditions=(
        EARLY,
        BETWEEN_LONG,
        FAST_SHORT,
        RASH,
        Condition(world="strong", gflops=8, pace="easy"),
        Condition(world="strong", gflops=24, pace="fast"),
        Condition(world="competing", gflops=10, pace="easy"),
        Condition(world="swapped", gflops=10, pace="easy"),
        Condition(world="swapped", gflops=20, pace="quick"),
        Condition(world="unlike", gflops=14, pace="quick"),
    ),
    seeds=(30, 31),  # of no other study, so that the bases are others too
)


def analyse(found: Observations) -> Analysis:
    """The comparison of `choice`, with what this prediction speaks of."""
    return compared(found, _quantities)


def _quantities(rows: pd.DataFrame) -> Mapping[str, Quantity | None]:
    return {
        "mixed_best_slow": mixed_best(rows[rows.pace.isin(SLOW)]),
        "mixed_best_fast": mixed_best(rows[rows.pace.isin(FAST)]),
        "merge_minus_mopd_early": lead(rows, EARLY, "merge", "mopd"),
        "merge_minus_mixed_fast_short": lead(rows, FAST_SHORT, "merge", "mixed_rl"),
        "mixed_minus_mopd_between_long": lead(rows, BETWEEN_LONG, "mixed_rl", "mopd"),
        "mopd_minus_mixed_rash": lead(rows, RASH, "mopd", "mixed_rl"),
        "mopd_minus_merge_rash": lead(rows, RASH, "mopd", "merge"),
    }


STUDY = Study(
    name="choice_again",
    question="Under conditions never looked at, which recipe wins, and does the simulator choose it?",
    prediction=predicted(
        "At the two slow paces mixed RL wins in every world, and merging passes MOPD where teachers are cut early. "
        "At 2.8e-3 mixed RL still leads MOPD, even in a long run. At 4e-3 and beyond it breaks in part: merging "
        "leads it at a small budget, and at 5e-3 MOPD leads both. Mixed RL is the best constant rule and still "
        "loses a point or more on average; the others lose five.",
        at_least(7, "conditions_that_spread", "conditions of ten whose best and worst differ by 5 points"),
        at_least(0.75, "mixed_best_slow", "share of slow conditions won by mixed RL"),
        at_most(0.5, "mixed_best_fast", "share of fast conditions won by mixed RL"),
        at_least(0.0, "merge_minus_mopd_early", "merge less MOPD, teachers cut early"),
        at_least(0.0, "merge_minus_mixed_fast_short", "merge less mixed RL, fast and short"),
        at_least(0.0, "mixed_minus_mopd_between_long", "mixed RL less MOPD, 2.8e-3 and long"),
        at_least(0.0, "mopd_minus_mixed_rash", "MOPD less mixed RL at 5e-3"),
        at_least(0.0, "mopd_minus_merge_rash", "MOPD less merge at 5e-3"),
        at_least(0.01, "loss_of_always_mixed_rl", "lost by always mixed RL"),
        at_least(0.05, "loss_of_always_mopd", "lost by always MOPD"),
        at_least(0.05, "loss_of_always_merge", "lost by always merging"),
        at_most(1.25, "most_over_least_flops", "most over least FLOPs of a condition"),
    ),
    observed="test scores on 300 prompts of each domain, of start, specialists and outputs; FLOPs of all stages",
    held_out="all runs: the calibration is fitted on other studies, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analyse,
)
