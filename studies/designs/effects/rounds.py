"""rounds: is it worth starting again from the student?

One, two and three rounds of specialists and distillation. Arm "equal_round": every round has the same budget, so that
more rounds cost more. Arm "equal_total": the budget of one round is divided among them.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE
from studies.designs.builders import (
    STUDENT,
    TEACHER,
    TRAINED,
    WORLD,
    kept,
    means,
    of_runs,
    over,
    paired,
    run,
    spending,
    told,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Factor, Run
from studies.framework.study import Study, predicted

ARMS = ("equal_round", "equal_total")
ROUNDS = (1, 2, 3)
UNSEEN_ROUNDS = 3
SEEDS = (0, 1, 2)


def design() -> list[Run]:
    """Both arms; one round is the same run in both."""
    return [_run(rounds, arm, seed) for seed in SEEDS for arm in ARMS for rounds in ROUNDS]


def _run(rounds: int, arm: str, seed: int) -> Run:
    share = 1.0 if arm == "equal_round" else 1 / rounds
    rl, distill = TEACHER.scaled(share), STUDENT.scaled(share)
    recipe = over(spending(catalogue.mopd(TRAINED, rounds=rounds), rl=rl, distill=distill), WORLD)
    unseen = rounds == UNSEEN_ROUNDS
    factors: dict[str, Factor] = {"arm": arm, "rounds": rounds}
    cut = 2 * int(unseen) + int(seed == SEEDS[-1])
    return run(f"{arm}/rounds{rounds}", recipe, seed, factors, held_out=unseen, cut=cut)


def _row(found: Observations, name: str) -> dict[str, Any]:
    return {
        "start": found.mean(name, TRAINED, BASE),
        "trained": found.mean(name, TRAINED),
        "untrained": found.mean(name, WORLD[len(TRAINED) :]),
        "tflops": found.flops(name) / 1e12,
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Mean score of the trained domains and the untrained one, by number of rounds."""
    shown = means(rows, "arm rounds", "start trained untrained tflops")
    return Analysis(
        quantities=_quantities(rows),
        findings=told(
            shown,
            "{arm}, {rounds} rounds: {trained:.3f} on trained domains, {untrained:.3f} on "
            + WORLD[-1] + ", {tflops:.3f} TFLOP.",
        ),
        tables=(Table(title="Mean of seeds", frame=shown),),
        charts=(
            Chart(
                name="rounds", title="Mean score of the trained domains by training FLOPs, mean of seeds; points are "
                "numbers of rounds", frame=shown, x="tflops", y="trained", colour="arm",
            ),
        ),
        limits=("Early rounds end near the ceiling: what a second round adds is bounded by what the first left.",),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    def step(arm: str, more: int, fewer: int, column: str = "trained") -> Quantity | None:
        return paired(rows, column, {"rounds": more}, {"rounds": fewer}, arm=arm)

    return kept(
        second_round=step("equal_round", 2, 1),
        third_round=step("equal_round", 3, 2),
        two_at_equal_total=step("equal_total", 2, 1),
        three_at_equal_total=step("equal_total", 3, 1),
        second_round_untrained=step("equal_round", 2, 1, "untrained"),
    )


STUDY = Study(
    name="rounds",
    question="Is it worth starting again from the student, at equal budgets of a round and of the whole?",
    prediction=predicted(
        "A second round of the same budget adds a few points, a third about nothing. At equal total budget two "
        "rounds are about as good as one and three are no better than two.",
        """
        second_round          >= 0.01        two rounds less one, equal round
        third_round           -0.01 to 0.04  three rounds less two, equal round
        two_at_equal_total    -0.03 to 0.05  two less one, equal total
        three_at_equal_total  <= 0.03        three less one, equal total
        """,
    ),
    observed="test scores of every stage on 500 prompts of each of four domains; FLOPs of all stages",
    held_out=f"{UNSEEN_ROUNDS} rounds, in both arms",
    design=design,
    analyse=analyse,
)
