"""size_fresh: the comparison of `size` at 10 M parameters, sixty times what the calibration was fitted on, unseen.

`size_again` had been seen before the exponent of size was added; here the forecast is on record before any run. FLOPs
for each parameter and learning rates are those of `size`. No run is fitted. Leaves out: what each recipe would reach at
its own best rate.
"""

from __future__ import annotations

from studies.designs.size.size import OBSERVED, analysis_of, claims, merge_ahead, setup
from studies.framework.study import Prediction, Study

SETUP = setup("size_fresh", "tiny-10M", seeds=(60, 61), times=16)
STUDY = Study(
    name="size_fresh",
    question="Does what was fitted on 0.17 and 0.65 M parameters forecast a model of 10 M?",
    prediction=Prediction(
        text=(
            "Written after `size` and `size_again`: the order of recipes at the easy pace stays, mixed RL, merging, "
            "MOPD, and compute goes farther by size^0.2, so that long mixed RL gains 40 points or more and MOPD 25. "
            "At 2.8e-3 mixed RL breaks more than at 2.6 M: merging leads it by five points or more."
        ),
        claims=claims(mixed_rl=0.4, mopd=0.25, quick=[merge_ahead()]),
    ),
    observed=OBSERVED,
    held_out="all runs: the calibration is fitted on smaller models, and the forecast is made before these are run",
    design=SETUP.runs,
    analyse=analysis_of(SETUP),
)
