"""size, size_again, size_fresh: does what was fitted on a model of 0.17 M parameters forecast larger ones?

The comparison of `choice` on larger built-in bases, of 0.65, 2.6 and 10 M parameters: three recipes at equal FLOPs,
teachers counted, under four conditions, at FLOPs a little below those of the like conditions there for each parameter
and the same learning rates, so that what a rate does to a wider model shows. No run of a study was fitted before all
were judged; `size_again` had been seen before the exponent of size was added, of `size_fresh` the forecast was on
record before any run. Leaves out: sizes that a language model has; what each recipe would reach at its own best rate.
"""

from __future__ import annotations

from studies.designs.recipes.choice import KNOWN, WORLDS
from studies.designs.recipes.comparison import Condition, Measured, Setup, study_of
from studies.framework.study import Study, predicted


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


MIXED_BEHIND_MOPD = "mixed_minus_mopd_quick   <= 0.0   mixed RL less MOPD at 2.8e-3"
MERGE_AHEAD = "merge_minus_mixed_quick  >= 0.05  merge less mixed RL at 2.8e-3"


def _study(
    own: Setup,
    question: str,
    text: str,
    *,
    mixed_rl: float,
    mopd: float,
    quick: str,
    fitted: str,
    released: str = "",
) -> Study:
    """What every size asks and claims, with least gains in the long condition and what happens at the bold rate."""
    early, long, bold, _ = own.conditions
    measured = Measured(
        wins={"mixed_best_easy": ("easy",)},
        gains={"gain_of_long_mixed_rl": (long, "mixed_rl"), "gain_of_long_mopd": (long, "mopd")},
        leads={
            "mixed_minus_mopd_quick": (bold, "mixed_rl", "mopd"),
            "merge_minus_mixed_quick": (bold, "merge", "mixed_rl"),
            "merge_minus_mopd_early": (early, "merge", "mopd"),
        },
    )
    prediction = predicted(
        text,
        f"""
        mixed_best_easy          >= 0.75        share of easy conditions won by mixed RL
        gain_of_long_mixed_rl    >= {mixed_rl}  gain of mixed RL in the long condition
        gain_of_long_mopd        >= {mopd}      gain of MOPD in the long condition
        {quick}
        merge_minus_mopd_early   >= 0.0         merge less MOPD, teachers cut early
        most_over_least_flops    <= 1.25        most over least FLOPs of a condition
        """,
    )
    held_out = f"{fitted}, and the forecast is made before these are run"
    return study_of(
        own, measured, question=question, prediction=prediction, held_out=held_out, released=released
    )


# Seeds of no other study, so that the bases are others too.
SETUPS = (
    setup("size", "tiny-large", seeds=(40, 41)),
    setup("size_again", "tiny-xlarge", seeds=(50, 51), times=4),
    setup("size_fresh", "tiny-10M", seeds=(60, 61), times=16),
)
STUDIES = (
    _study(
        SETUPS[0],
        "Does what was fitted on 0.17 M parameters forecast a model of 0.65 M?",
        "At equal FLOPs for each parameter the larger model does what the smaller one did: mixed RL wins at the "
        "easy pace, merging passes MOPD where teachers are cut early, both long recipes gain well over their "
        "start. Twice the width makes a given rate bolder, so that at 2.8e-3, where the smaller model never "
        "broke, mixed RL begins to lose domains and no longer leads MOPD.",
        mixed_rl=0.15,
        mopd=0.1,
        quick=MIXED_BEHIND_MOPD,
        fitted="the smaller model",
        released="2026-11-24: judged once (studies/LOG.md); an exponent of size was then fitted to it; `size_again` "
        "judges",
    ),
    _study(
        SETUPS[1],
        "Does what was fitted on 0.17 M parameters forecast a model of 2.6 M?",
        "Written after `size`: at the easy pace mixed RL wins again and MOPD's student gains, merging passes MOPD "
        "where teachers are cut early. At 2.8e-3 mixed RL, which merging passed by four points at 0.65 M, now "
        "loses more: merging leads it by five points or more, and MOPD is no longer behind it.",
        mixed_rl=0.15,
        mopd=0.1,
        quick=f"{MERGE_AHEAD}\n{MIXED_BEHIND_MOPD}",
        fitted="the smallest model",
    ),
    _study(
        SETUPS[2],
        "Does what was fitted on 0.17 and 0.65 M parameters forecast a model of 10 M?",
        "Written after `size` and `size_again`: the order of recipes at the easy pace stays, mixed RL, merging, "
        "MOPD, and compute goes farther by size^0.2, so that long mixed RL gains 40 points or more and MOPD 25. "
        "At 2.8e-3 mixed RL breaks more than at 2.6 M: merging leads it by five points or more.",
        mixed_rl=0.4,
        mopd=0.25,
        quick=MERGE_AHEAD,
        fitted="smaller models",
    ),
)
