"""size_fresh: the comparison of `size` at 10 M parameters, sixty times what the calibration was fitted on, unseen.

`size_again` had been seen before the exponent of size was added; here the forecast is on record before any run. FLOPs
for each parameter and learning rates are those of `size`. No run is fitted. Leaves out: what each recipe would reach at
its own best rate.
"""

from __future__ import annotations

from functools import partial

from studies.analysis import Analysis
from studies.designs import size
from studies.designs.choice import Condition, Setup, compared
from studies.observe import Observations
from studies.study import Claim, Prediction, Study

EARLY = Condition(world="known", gflops=384, pace="easy")
LONG = Condition(world="known", gflops=1280, pace="easy")
QUICK = Condition(world="known", gflops=640, pace="quick")
UNLIKE = Condition(world="unlike", gflops=768, pace="easy")

SETUP = Setup(
    study="size_fresh",
    worlds=size.SETUP.worlds,
    starts={},
    paces=size.SETUP.paces,
    conditions=(EARLY, LONG, QUICK, UNLIKE),
    seeds=(60, 61),  # of no other study
    model="tiny-10M",
)


def analyse(found: Observations) -> Analysis:
    """The comparison of `choice`, with what this prediction speaks of."""
    return compared(found, partial(size.quantities, early=EARLY, long=LONG, quick=QUICK))


STUDY = Study(
    name="size_fresh",
    question="Does what was fitted on 0.17 and 0.65 M parameters forecast a model of 10 M?",
    prediction=Prediction(
        text=(
            "Written after `size` and `size_again`: the order of recipes at the easy pace stays, mixed RL, merging, "
            "MOPD, and compute goes farther by size^0.2, so that long mixed RL gains 40 points or more and MOPD 25. "
            "At 2.8e-3 mixed RL breaks more than at 2.6 M: merging leads it by five points or more."
        ),
        claims=(
            Claim(quantity="mixed_best_easy", text="share of easy conditions won by mixed RL", at_least=0.75),
            Claim(
                quantity="gain_of_long_mixed_rl", text="gain of mixed RL in the long condition", at_least=0.4
            ),
            Claim(quantity="gain_of_long_mopd", text="gain of MOPD in the long condition", at_least=0.25),
            Claim(quantity="merge_minus_mixed_quick", text="merge less mixed RL at 2.8e-3", at_least=0.05),
            Claim(
                quantity="merge_minus_mopd_early", text="merge less MOPD, teachers cut early", at_least=0.0
            ),
            Claim(
                quantity="most_over_least_flops", text="most over least FLOPs of a condition", at_most=1.25
            ),
        ),
    ),
    observed="test scores on 300 prompts of each domain, of start, specialists and outputs; FLOPs of all stages",
    held_out="all runs: the calibration is fitted on smaller models, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analyse,
)
