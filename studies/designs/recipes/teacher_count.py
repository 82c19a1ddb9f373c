"""teacher_count: into how many teachers should k domains be grouped?

Four domains into one to four teachers. Arm "equal_total": a teacher of g domains gets g times the steps, so that all
groupings spend alike. Arm "equal_student": every teacher gets the same steps, so that fewer teachers cost less; the
student's budget is the same throughout. With one teacher a domain the arms are the same run.
"""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import BASE, Rl
from studies.designs.builders import (
    STUDENT,
    TEACHER,
    WORLD,
    ambiguous,
    kept,
    means,
    of_runs,
    paired,
    run,
    spending,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Factor, Run
from studies.framework.study import Study, at_least, at_most, predicted, within

GROUPINGS: dict[str, tuple[tuple[int, ...], ...]] = {  # places in the world, by name
    "1": ((0, 1, 2, 3),),
    "2_rivals_together": ((0, 1), (2, 3)),
    "2_rivals_apart": ((0, 2), (1, 3)),
    "3": ((0, 1), (2,), (3,)),
    "4": ((0,), (1,), (2,), (3,)),
}
ARMS = ("equal_total", "equal_student")
DIALS = (0.0, 0.5)
SEEDS = (0, 1)
UNSEEN = "2_rivals_apart"


def design() -> list[Run]:
    """Every grouping in both arms, without conflict and with some."""
    return [
        _run(grouping, arm, dial, seed)
        for seed, dial, arm, grouping in itertools.product(SEEDS, DIALS, ARMS, GROUPINGS)
    ]


def _run(grouping: str, arm: str, dial: float, seed: int) -> Run:
    world = ambiguous(WORLD, dial)
    groups = [[world[place] for place in group] for group in GROUPINGS[grouping]]
    recipe = spending(catalogue.mopd(world, groups=groups), rl=TEACHER, distill=STUDENT)
    if arm == "equal_total":
        longer = {s.name: TEACHER.scaled(len(s.domains)) for s in recipe.stages if isinstance(s, Rl)}
        recipe = recipe.with_amounts(longer)
    name = f"dial{dial:g}/{arm}/{grouping}"
    factors: dict[str, Factor] = {"grouping": grouping, "teachers": len(groups), "arm": arm, "dial": dial}
    cut = seed + (arm == "equal_student")
    return run(name, recipe, seed, factors, held_out=grouping == UNSEEN, cut=cut)


def _row(found: Observations, name: str) -> dict[str, Any]:
    domains = found.finished[name]["domains"]
    best: dict[str, float] = {}
    for stage in found.finished[name]["keys"]:
        if stage.startswith("teacher_"):
            rows = found.stage(name, stage)
            own = rows[(rows.split == "test") & rows.trained]
            best |= dict(zip(own.domain, own.pass_rate, strict=True))
    return {
        "start": found.mean(name, domains, BASE),
        "teachers_mean": sum(best[d] for d in domains) / len(domains),
        "student": found.mean(name, domains),
        "tflops": found.flops(name) / 1e12,
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Mean score of the student by grouping, paired by seed and dial against one teacher a domain."""
    shown = means(rows, "arm dial grouping", "start teachers_mean student tflops")
    return Analysis(
        quantities=_quantities(rows),
        findings=_findings(shown),
        tables=(Table(title="Mean score over the four domains, mean of seeds", frame=shown),),
        charts=(
            Chart(
                name="teachers", title="Student's mean score by number of teachers, one line an arm, mean of seeds",
                frame=means(rows, "dial arm teachers", "student"),
                x="teachers", y="student", colour="arm", panel="dial",
            ),
        ),
        limits=("Four domains of one kind of skill: a base that is far from one of them may want other groups.",),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    groupings = ("1", "4", "2_rivals_together", "2_rivals_apart")
    one, four, together, apart = ({"grouping": name} for name in groupings)

    def less(these: dict[str, str], others: dict[str, str], arm: str = "equal_total") -> Quantity | None:
        return paired(rows, "student", these, others, by=("dial", "seed"), arm=arm)

    own = rows[rows.arm == "equal_total"].pivot_table(
        index=["seed", "dial"], columns="grouping", values="student"
    )
    lead = (own["1"] - own["4"]).rename("lead").reset_index() if {"1", "4"} <= set(own) else None
    moved = None if lead is None else paired(lead, "lead", {"dial": DIALS[1]}, {"dial": DIALS[0]})
    return kept(
        one_minus_four_total=less(one, four),
        two_minus_four_total=less(together, four),
        one_minus_four_student=less(one, four, "equal_student"),
        apart_minus_together=less(apart, together),
        conflict_moves_one=moved,
    )


def _findings(shown: pd.DataFrame) -> tuple[str, ...]:
    sentences = []
    for (arm, dial), own in shown.groupby(["arm", "dial"]):
        ranked = own.sort_values("student")
        best, spread = ranked.iloc[-1], own.student.max() - own.student.min()
        sentences.append(
            f"{arm}, ambiguity {dial:g}: grouping {best.grouping} scores highest ({best.student:.3f}; spread over "
            f"groupings {spread:.3f})."
        )
    return tuple(sentences)


STUDY = Study(
    name="teacher_count",
    question="Into how many teachers should four domains be grouped, and does conflict move the best number?",
    prediction=predicted(
        "At equal total compute one long mixed teacher is as good as four short ones or better without conflict, "
        "because skills transfer; at equal steps a teacher it is worse. Ambiguity hurts the single teacher no more "
        "than the four, since their student averages two answers. Keeping rivals apart changes little.",
        at_least(-0.02, "one_minus_four_total", "one less four teachers, equal total"),
        at_most(0.0, "one_minus_four_student", "one less four, equal student budget"),
        within(-0.03, 0.03, "apart_minus_together", "two teachers, rivals apart less rivals together"),
        at_least(-0.02, "conflict_moves_one", "conflict's effect on one less four"),
    ),
    observed="test scores of start, teachers and student on 500 prompts of each of four domains; FLOPs of all stages",
    held_out=f"the grouping {UNSEEN}, in both arms",
    design=design,
    analyse=analyse,
)
