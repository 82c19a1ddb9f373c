"""size_again: the comparison of `size` at 2.6 M parameters, sixteen times what the calibration was fitted on.

Four times the FLOPs of the like conditions of `size`, so that they are alike for each parameter; the same learning
rates, so that what a rate does to a wider model shows. No run is fitted. Leaves out: what each recipe would reach at
its own best rate.
"""

from __future__ import annotations

from studies.designs.size.size import OBSERVED, analysis_of, claims, merge_ahead, mixed_behind_mopd, setup
from studies.framework.study import Prediction, Study

SETUP = setup("size_again", "tiny-xlarge", seeds=(50, 51), times=4)
STUDY = Study(
    name="size_again",
    question="Does what was fitted on 0.17 M parameters forecast a model of 2.6 M?",
    prediction=Prediction(
        text=(
            "Written after `size`: at the easy pace mixed RL wins again and MOPD's student gains, merging passes MOPD "
            "where teachers are cut early. At 2.8e-3 mixed RL, which merging passed by four points at 0.65 M, now "
            "loses more: merging leads it by five points or more, and MOPD is no longer behind it."
        ),
        claims=claims(mixed_rl=0.15, mopd=0.1, quick=[merge_ahead(), mixed_behind_mopd()]),
    ),
    observed=OBSERVED,
    held_out="all runs: the calibration is fitted on the smallest model, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analysis_of(SETUP),
)
