"""teacher_count: into how many teachers should k domains be grouped?

Four domains into one to four teachers. Arm "equal_total": a teacher of g domains gets g times the steps, so that all
groupings spend alike. Arm "equal_student": every teacher gets the same steps, so that fewer teachers cost less; the
student's budget is the same throughout. With one teacher a domain the arms are the same run.
"""

from __future__ import annotations

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
    mean_score,
    paired,
    run,
    spending,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
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
        for seed in SEEDS
        for dial in DIALS
        for arm in ARMS
        for grouping in GROUPINGS
    ]


def _run(grouping: str, arm: str, dial: float, seed: int) -> Run:
    world = ambiguous(WORLD, dial)
    groups = [[world[place] for place in group] for group in GROUPINGS[grouping]]
    recipe = spending(catalogue.mopd(world, groups=groups), rl=TEACHER, distill=STUDENT)
    if arm == "equal_total":
        longer = {s.name: TEACHER.scaled(len(s.domains)) for s in recipe.stages if isinstance(s, Rl)}
        recipe = recipe.with_amounts(longer)
    return run(
        f"dial{dial:g}/{arm}/{grouping}",
        recipe,
        seed,
        {"grouping": grouping, "teachers": len(groups), "arm": arm, "dial": dial},
        held_out=grouping == UNSEEN,
        cut=seed + (arm == "equal_student"),
    )


def analyse(found: Observations) -> Analysis:
    """Mean score of the student by grouping, paired by seed and dial against one teacher a domain."""
    rows = pd.DataFrame([_row(found, name) for name in found.runs()])
    if rows.empty:
        return Analysis(quantities={})
    means = rows.groupby(["arm", "dial", "grouping"], as_index=False)[
        ["start", "teachers_mean", "student", "tflops"]
    ].mean()
    return Analysis(
        quantities=_quantities(rows),
        findings=_findings(means),
        tables=(Table(title="Mean score over the four domains, mean of seeds", frame=means),),
        charts=(
            Chart(
                name="teachers", title="Student's mean score by number of teachers, one line an arm, mean of seeds",
                frame=rows.groupby(["dial", "arm", "teachers"], as_index=False)[["student"]].mean(),
                x="teachers", y="student", colour="arm", panel="dial",
            ),
        ),
        limits=("Four domains of one kind of skill: a base that is far from one of them may want other groups.",),
    )  # fmt: skip


def _row(found: Observations, name: str) -> dict[str, Any]:
    factors = found.finished[name]["factors"]
    domains = found.finished[name]["domains"]
    start = found.scores(name, BASE)
    best: dict[str, float] = {}
    for stage in found.finished[name]["keys"]:
        if stage.startswith("teacher_"):
            rows = found.stage(name, stage)
            own = rows[(rows.split == "test") & rows.trained]
            best |= dict(zip(own.domain, own.pass_rate, strict=True))
    return {
        "run": name,
        "seed": found.seed(name),
        **factors,
        "start": sum(start[d] for d in domains) / len(domains),
        "teachers_mean": sum(best[d] for d in domains) / len(domains),
        "student": mean_score(found, name, domains),
        "tflops": found.flops(name) / 1e12,
    }


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    pairs = ("dial", "seed")
    one, four, together, apart = (
        {"arm": "equal_total", "grouping": name} for name in ("1", "4", "2_rivals_together", "2_rivals_apart")
    )
    own = rows[rows.arm == "equal_total"].pivot_table(
        index=["seed", "dial"], columns="grouping", values="student"
    )
    lead = (own["1"] - own["4"]).rename("lead").reset_index() if {"1", "4"} <= set(own) else None
    return kept(
        one_minus_four_total=paired(rows, "student", one, four, by=pairs),
        two_minus_four_total=paired(rows, "student", together, four, by=pairs),
        one_minus_four_student=paired(
            rows, "student", one | {"arm": "equal_student"}, four | {"arm": "equal_student"}, by=pairs
        ),
        apart_minus_together=paired(rows, "student", apart, together, by=pairs),
        conflict_moves_one=None
        if lead is None
        else paired(lead, "lead", {"dial": DIALS[1]}, {"dial": DIALS[0]}),
    )


def _findings(means: pd.DataFrame) -> tuple[str, ...]:
    sentences = []
    for (arm, dial), own in means.groupby(["arm", "dial"]):
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
