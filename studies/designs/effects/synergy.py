"""synergy: does joint RL learn what no committee of specialists has?

The start demonstrates a composed domain beside the two skills that it composes; RL and distillation train the skills
and a third domain, never the composition. Mixed RL, MOPD, MOPD followed by joint RL, and the merged specialists spend
the same FLOPs, at two learning rates. The committee's score is that of its best specialist.
"""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE, Recipe, Rl
from studies.designs.builders import (
    STUDENT,
    TEACHER,
    at_flops,
    kept,
    mean_where,
    means,
    of_runs,
    over,
    paired,
    rebuilt,
    run,
    told,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, at_least, at_most, predicted

SORT = "sort_long?length=4-6"  # the skill of `sort`, under a name that does not call up a probe of its own
TRAINED = (SORT, "shift", "rotate")
COMPOSED = "sort_then_shift"
WORLD = (*TRAINED, COMPOSED)
RATES = {"slow": 3e-4, "fast": 7e-4}  # of RL; distillation moves in proportion
FLOPS = 0.09e12
SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2
ARMS = ("mixed_rl", "mopd", "mopd_then_rl", "merge")


def design() -> list[Run]:
    """Every recipe at both rates."""
    return [_run(arm, pace, seed) for seed in SEEDS for pace in RATES for arm in ARMS]


def recipe_of(arm: str) -> Recipe:
    """The recipe of an arm, with its default amounts."""
    if arm in ("mixed_rl", "merge"):
        return catalogue.recipe(arm, TRAINED)
    distilled = catalogue.mopd(TRAINED)
    if arm == "mopd":
        return distilled
    joint = Rl(name="joint", init=distilled.output, domains=dict.fromkeys(TRAINED, 1.0))
    amounts = {**distilled.amounts, joint.name: TEACHER}
    return rebuilt(distilled, name=arm, stages=(*distilled.stages, joint), amounts=amounts, output=joint.name)


def _run(arm: str, pace: str, seed: int) -> Run:
    rate = RATES[pace]
    rl = TEACHER.model_copy(update={"learning_rate": rate})
    student = STUDENT.learning_rate * rate / TEACHER.learning_rate
    distill = STUDENT.model_copy(update={"learning_rate": student})
    recipe = over(at_flops(recipe_of(arm), FLOPS, rl=rl, distill=distill), WORLD)
    factors = {"arm": arm, "pace": pace, "contest": f"synergy/{pace}", "recipe": arm}
    unseen = seed == HELD_OUT_SEED
    return run(f"{pace}/{arm}", recipe, seed, factors, held_out=unseen, cut=int(unseen))


def _row(found: Observations, name: str) -> dict[str, Any]:
    start, final = found.scores(name, BASE), found.scores(name)
    specialists = [s for s in found.finished[name]["keys"] if s.startswith("teacher_")]
    return {
        "composed_start": start[COMPOSED],
        "composed": final[COMPOSED],
        "gain": final[COMPOSED] - start[COMPOSED],
        "best_specialist": max((found.scores(name, s)[COMPOSED] for s in specialists), default=None),
        "trained": found.mean(name, TRAINED),
        "tflops": found.flops(name) / 1e12,
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Gain on the composed domain, of each recipe and of the best specialist of MOPD at the same rate and seed."""
    committee = rows[rows.arm == "mopd"].set_index(["pace", "seed"]).best_specialist
    rows = rows.join(committee.rename("committee"), on=["pace", "seed"])
    rows["over_committee"] = rows.composed - rows.committee
    shown = means(rows, "pace arm", "composed_start committee composed trained tflops")
    return Analysis(
        quantities=_quantities(rows),
        findings=told(
            shown,
            "{pace}, {arm}: " + COMPOSED + " {composed_start:.3f} to {composed:.3f} (best specialist {committee:.3f}), "
            "trained domains {trained:.3f}.",
        ),
        tables=(Table(title="Composed and trained domains, mean of seeds", frame=shown),),
        charts=(
            Chart(
                name="composed", title="Composed domain, never rewarded, less the best specialist, by recipe and seed",
                frame=rows, x="arm", y="over_committee", colour="seed", panel="pace", mark="point",
            ),
        ),
        limits=(
            "The composition is demonstrated at the start: this is practice of its parts, not invention of the whole.",
            "The best of three specialists is chosen on the prompts it is scored on, which favours the committee.",
        ),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    fast, slow = {"pace": "fast"}, {"pace": "slow"}
    return kept(
        slow_minus_fast_mixed_rl=paired(rows, "gain", slow, fast, arm="mixed_rl"),
        **{
            f"{arm}_over_committee_{pace}": mean_where(rows, "over_committee", arm=arm, pace=pace)
            for arm, pace in itertools.product(ARMS, RATES)
        },
        **{
            f"{arm}_minus_mopd_{pace}": paired(rows, "composed", {"arm": arm}, {"arm": "mopd"}, pace=pace)
            for arm, pace in itertools.product(ARMS, RATES)
            if arm != "mopd"
        },
    )


STUDY = Study(
    name="synergy",
    question="Does joint RL learn what no committee of specialists has?",
    prediction=predicted(
        "At the slow rate joint RL lifts the composed domain above every specialist, since it sharpens both parts "
        "in one set of weights; a student of the specialists rises above them too, but less than joint RL, and "
        "joint RL after distillation makes up the difference. At the fast rate forgetting takes the gain away.",
        at_least(0.02, "mixed_rl_over_committee_slow", "mixed RL less best specialist, slow"),
        at_least(0.0, "mopd_over_committee_slow", "MOPD less best specialist, slow"),
        at_least(0.0, "mixed_rl_minus_mopd_slow", "mixed RL less MOPD, slow"),
        at_least(0.0, "mopd_then_rl_minus_mopd_slow", "MOPD then RL less MOPD, slow"),
        at_most(0.0, "merge_over_committee_slow", "merge less best specialist, slow"),
        at_least(0.0, "slow_minus_fast_mixed_rl", "mixed RL's gain, slow less fast"),
    ),
    observed="test scores on 500 prompts of the composed and the trained domains, of start, specialists and outputs",
    held_out=f"seed {HELD_OUT_SEED}, all recipes at both rates",
    design=design,
    analyse=analyse,
)
