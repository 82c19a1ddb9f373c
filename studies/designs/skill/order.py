"""order, order_again, order_fresh: which recipe comes first where RL has to teach? Six recipes at equal FLOPs, four
worlds of the suite 'skill'; again on a seed that nobody had seen, at half, once and twice the FLOPs; and afresh on two
more, for the calibration that ships now.

Mixed RL, MOPD, off-policy fine-tuning on the specialists' correct samples, merging, and cascades in both orders;
teachers are counted. Rates, batches and the share for distillation are those of `studies.designs.skill.suite`;
`skill_sweep` judges them on a seed of its own. All runs are forecast before they are made; those of `order` were given
to the fit after they had been judged (`released`), those of the others enter none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from studies.designs.builders import kept
from studies.designs.skill.contest import compared, judging, lead, rows_of, share_failed
from studies.designs.skill.gate import admit
from studies.designs.skill.suite import FLOPS, RECIPES, RL, SEEDS, WORLDS, recipe, run
from studies.framework.analysis import Analysis
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

AGAIN, FRESH = "order_again", "order_fresh"
REPEATS: Mapping[str, tuple[tuple[int, ...], tuple[float, ...]]] = {  # seeds; times the suite's FLOPs
    AGAIN: ((73,), (1.0, 0.5, 2.0)),
    FRESH: ((74, 75), (1.0, 1.5)),
}


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


def design_repeat(study: str) -> list[Run]:
    """Every recipe in every world at every budget of a repeat, on its seeds."""
    seeds, budgets = REPEATS[study]
    return [
        run(
            f"{world}/x{budget:g}/{name}", recipe(name, domains, flops=budget * FLOPS), seed, world,
            held_out=True, recipe=name, rate=RL.learning_rate, budget=budget, contest=f"{study}/{world}/x{budget:g}",
        )
        for seed in seeds
        for budget in budgets
        for world, domains in WORLDS.items()
        for name in RECIPES
    ]  # fmt: skip


def analyse(found: Observations) -> Analysis:
    """Scores by world and recipe, and the leads that the prediction speaks of."""
    rows = rows_of(found)
    again = "budget" in rows
    if again:
        rows = rows.assign(condition=rows.world + " x" + rows.budget.map("{:g}".format))
    quantities = kept(
        mixed_minus_mopd=lead(rows, "mixed_rl", "mopd"),
        mixed_minus_mopd_sampled=lead(rows, "mixed_rl", "mopd", "temperature_1"),
        mopd_minus_merge=lead(rows, "mopd", "merge"),
        mopd_minus_off_policy=lead(rows, "mopd", "off_policy"),
        off_policy_minus_mixed=lead(rows, "off_policy", "mixed_rl"),
        cascade_minus_back=lead(rows, "cascade", "cascade_back"),
        mixed_minus_cascade=lead(rows, "mixed_rl", "cascade"),
        failed_mopd=share_failed(rows, "mopd", "condition" if again else "seed"),
    )
    limits = (
        f"{rows.seed.nunique()} seeds a world, one size. A lead within its interval is no winner.",
        "Rates and batches are the same in every world; `skill_sweep` judges them, on one seed of one world.",
    )
    return compared(rows, "condition" if again else "world", Analysis(quantities=quantities, limits=limits))


STUDY = judging(
    name="order",
    question="Which recipe comes first, greedily and at temperature 1, where RL has to teach?",
    prediction=predicted(
        "At equal FLOPs mixed RL leads MOPD greedily too, though by less than at temperature 1. MOPD leads merging and "
        "off-policy fine-tuning. A cascade forgets what it trained first, so that mixed RL leads it; which order it "
        "takes hardly matters on the mean. A tuned student seldom fails.",
        """
        mixed_minus_mopd          >= 0.0         mixed RL less MOPD, greedy
        mixed_minus_mopd_sampled  >= 0.0         mixed RL less MOPD, temperature 1
        mopd_minus_merge          >= 0.0         MOPD less merging, greedy
        mopd_minus_off_policy     >= 0.0         MOPD less off-policy, greedy
        mixed_minus_cascade       >= 0.05        mixed RL less a cascade, greedy
        cascade_minus_back        -0.08 to 0.08  a cascade less the same in reverse, greedy
        failed_mopd               <= 0.25        share of MOPD's distillations that fail
        """,
    ),
    held_out="all runs: they judged the model that shipped when they were run",
    released="2026-11-29: judged once, by forecasts on record before the runs; form and numbers of verified samples "
    "and of merging were then found on it; `order_again` is held out, and was looked at meanwhile",
    design=design,
    analyse=analyse,
    admit=partial(admit, tuple(WORLDS)),
)

STUDY_AGAIN = replace(
    STUDY,
    name=AGAIN,
    held_out="all runs: they judge the model that ships, though they have been looked at",
    released="",
    question="Does the order hold on a fresh seed at three budgets, and is it foretold by measured specialists?",
    prediction=predicted(
        "Off-policy fine-tuning on verified samples leads again, and mixed RL leads MOPD. The model, now told what "
        "specialists of the same start were measured to reach, errs by about 8 points at temperature 1, a little less "
        "than the best rule, and by about 11 greedily, more than the rule, since it undersells merging.",
        """
        off_policy_minus_mixed  >= 0.05        off-policy less mixed RL, greedy
        mixed_minus_mopd        >= 0.0         mixed RL less MOPD, greedy
        mixed_minus_cascade     -0.05 to 0.05  mixed RL less a cascade, greedy
        failed_mopd             <= 0.25        share of MOPD's distillations that fail
        """,
    ),
    design=partial(design_repeat, AGAIN),
)

STUDY_FRESH = replace(
    STUDY_AGAIN,
    name=FRESH,
    held_out="all runs: they judge the model that ships, and nobody had seen them when it was fitted",
    question="Does the order hold on two more seeds, and does the model that ships foretell it?",
    prediction=predicted(
        "Off-policy fine-tuning on verified samples leads again, by less than ten points over mixed RL; mixed RL leads "
        "MOPD, and MOPD merging. The model errs by about 8 points at temperature 1, less than the best rule, and by "
        "about 8 greedily, where the rule is as good.",
        """
        off_policy_minus_mixed  0.0 to 0.1     off-policy less mixed RL, greedy
        mixed_minus_mopd        >= 0.0         mixed RL less MOPD, greedy
        mopd_minus_merge        >= 0.0         MOPD less merging, greedy
        mixed_minus_cascade     -0.05 to 0.05  mixed RL less a cascade, greedy
        failed_mopd             <= 0.25        share of MOPD's distillations that fail
        """,
    ),
    design=partial(design_repeat, FRESH),
)
STUDIES = (STUDY, STUDY_AGAIN, STUDY_FRESH)
