"""size_again: the comparison of `size` at 2.6 M parameters, sixteen times what the calibration was fitted on.

Four times the FLOPs of the like conditions of `size`, so that they are alike for each parameter; the same learning
rates, so that what a rate does to a wider model shows. No run is fitted. Leaves out: what each recipe would reach at
its own best rate.
"""

from __future__ import annotations

from functools import partial

from studies.analysis import Analysis
from studies.designs import size
from studies.designs.choice import Condition, Setup, compared
from studies.observe import Observations
from studies.study import Claim, Prediction, Study

EARLY = Condition(world="known", gflops=96, pace="easy")
LONG = Condition(world="known", gflops=320, pace="easy")
QUICK = Condition(world="known", gflops=160, pace="quick")
UNLIKE = Condition(world="unlike", gflops=192, pace="easy")

SETUP = Setup(
    study="size_again",
    worlds=size.SETUP.worlds,
    starts={},
    paces=size.SETUP.paces,
    conditions=(EARLY, LONG, QUICK, UNLIKE),
    seeds=(50, 51),  # of no other study
    model="tiny-xlarge",
)


def analyse(found: Observations) -> Analysis:
    """The comparison of `choice`, with what this prediction speaks of."""
    return compared(found, partial(size.quantities, early=EARLY, long=LONG, quick=QUICK))


STUDY = Study(
    name="size_again",
    question="Does what was fitted on 0.17 M parameters forecast a model of 2.6 M?",
    prediction=Prediction(
        text=(
            "Written after `size`: at the easy pace mixed RL wins again and MOPD's student gains, merging passes MOPD "
            "where teachers are cut early. At 2.8e-3 mixed RL, which merging passed by four points at 0.65 M, now "
            "loses more: merging leads it by five points or more, and MOPD is no longer behind it."
        ),
        claims=(
            Claim(quantity="mixed_best_easy", text="share of easy conditions won by mixed RL", at_least=0.75),
            Claim(
                quantity="gain_of_long_mixed_rl", text="gain of mixed RL in the long condition", at_least=0.15
            ),
            Claim(quantity="gain_of_long_mopd", text="gain of MOPD in the long condition", at_least=0.1),
            Claim(quantity="merge_minus_mixed_quick", text="merge less mixed RL at 2.8e-3", at_least=0.05),
            Claim(quantity="mixed_minus_mopd_quick", text="mixed RL less MOPD at 2.8e-3", at_most=0.0),
            Claim(
                quantity="merge_minus_mopd_early", text="merge less MOPD, teachers cut early", at_least=0.0
            ),
            Claim(
                quantity="most_over_least_flops", text="most over least FLOPs of a condition", at_most=1.25
            ),
        ),
    ),
    observed="test scores on 300 prompts of each domain, of start, specialists and outputs; FLOPs of all stages",
    held_out="all runs: the calibration is fitted on the smallest model, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analyse,
)
