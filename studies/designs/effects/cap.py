"""cap: how far does a student follow its teacher, and what carries it past?

One domain is taught by a full, an early-stopped or a planted-wrong teacher (trained on the rival domain, whose prompts
at ambiguity 1 look the same and want the opposite answer), a second always by its full one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from mopdsim.recipes.recipe import BASE, Distill, Recipe, Rl, Teacher
from studies.designs.builders import (
    STUDENT,
    TEACHER,
    TRAINED,
    ambiguous,
    kept,
    mean_where,
    means,
    of_runs,
    paired,
    run,
)
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, at_least, at_most, predicted, within

WORLD = ambiguous(TRAINED, 1.0)
TAUGHT, RIVAL, CONTROL = WORLD
EARLY = TEACHER.scaled(0.25)
# the domain that the teacher of TAUGHT is trained on, and how long
TEACHERS = {"full": (TAUGHT, TEACHER), "early": (TAUGHT, EARLY), "wrong": (RIVAL, TEACHER)}
MODES: dict[str, dict[str, Any]] = {
    "plain": {}, "reward": {"reward_mix": 0.5}, "extrapolated": {"extrapolation": 1.25}
}  # fmt: skip
GROUP = 4  # samples of a prompt where a reward is mixed in
SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2


def design() -> list[Run]:
    """Every teacher with every mode; the third seed of the early teacher is held out."""
    return [_run(teacher, mode, seed) for seed in SEEDS for teacher in TEACHERS for mode in MODES]


def _run(teacher: str, mode: str, seed: int) -> Run:
    domain, amounts = TEACHERS[teacher]
    student = STUDENT
    if mode == "reward":
        prompts = STUDENT.prompts_per_step // GROUP
        student = STUDENT.model_copy(update={"prompts_per_step": prompts, "rollouts_per_prompt": GROUP})
    teachers = {"teacher": TAUGHT, "control": CONTROL}
    distilled = Distill(
        name="student",
        domains={TAUGHT: 1.0, CONTROL: 1.0},
        teachers=tuple(Teacher(stage=stage, domains=(own,)) for stage, own in teachers.items()),
        **MODES[mode],
    )
    trained = (Rl(name="teacher", domains={domain: 1.0}), Rl(name="control", domains={CONTROL: 1.0}))
    recipe = Recipe(
        name=f"cap_{teacher}_{mode}",
        domains=WORLD,
        amounts_name="tiny",
        stages=(*trained, distilled),
        amounts={"teacher": amounts, "control": TEACHER, "student": student},
        output="student",
    )
    last, unseen = seed == HELD_OUT_SEED, teacher == "early"
    factors = {"teacher": teacher, "mode": mode}
    return run(
        f"{teacher}/{mode}", recipe, seed, factors, held_out=unseen and last, cut=int(last and not unseen)
    )


def _row(found: Observations, name: str) -> dict[str, Any]:
    start, teacher, control, student = (
        found.scores(name, s) for s in (BASE, "teacher", "control", "student")
    )
    return {
        "start": start[TAUGHT],
        "teacher_score": teacher[TAUGHT],
        "student_score": student[TAUGHT],
        "change": student[TAUGHT] - start[TAUGHT],
        "over_teacher": student[TAUGHT] - teacher[TAUGHT],
        "control_over_teacher": student[CONTROL] - control[CONTROL],
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Student less teacher on the taught domain, by teacher and mode."""
    shown = means(rows, "teacher mode", "start teacher_score student_score over_teacher control_over_teacher")
    passed = shown[shown.over_teacher > 0]
    return Analysis(
        quantities=_quantities(rows),
        findings=(
            "Above their teacher on the mean of seeds: "
            + (", ".join(f"{r.teacher}/{r.mode} ({r.over_teacher:+.3f})" for r in passed.itertuples()) or "none")
            + ".",
        ),
        tables=(Table(title="Taught domain, mean of seeds", frame=shown),),
        charts=(
            Chart(
                name="cap", title="Student against teacher on the taught domain; dashed: equal", frame=rows,
                x="teacher_score", y="student_score", colour="mode", mark="point", diagonal=True,
            ),
        ),
        limits=("The student is as large as its teachers and shares their base: nothing is said of other sizes.",),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    def against_plain(teacher: str, mode: str) -> Quantity | None:
        return paired(rows, "student_score", {"mode": mode}, {"mode": "plain"}, teacher=teacher)

    over = partial(mean_where, rows, "over_teacher")
    return kept(
        full_plain=over(teacher="full", mode="plain"),
        early_plain=over(teacher="early", mode="plain"),
        early_reward=over(teacher="early", mode="reward"),
        early_extrapolated=over(teacher="early", mode="extrapolated"),
        wrong_plain_change=mean_where(rows, "change", teacher="wrong", mode="plain"),
        wrong_reward_gain=against_plain("wrong", "reward"),
        extrapolation_gain_full=against_plain("full", "extrapolated"),
    )


STUDY = Study(
    name="cap",
    question="How far does a student follow its teacher, and do reward or extrapolation carry it past?",
    prediction=predicted(
        "A plain student ends within a few points of its teacher, full or early-stopped, and below its own start "
        "under a wrong one. Reward in the mix and extrapolation both pass an early-stopped teacher, reward by "
        "more; against a wrong teacher reward wins back part of the loss. A full teacher is hardly passed.",
        within(-0.05, 0.03, "full_plain", "student less full teacher, plain"),
        within(-0.05, 0.05, "early_plain", "student less early teacher, plain"),
        at_least(0.03, "early_reward", "student less early teacher, reward mixed in"),
        at_least(0.0, "early_extrapolated", "student less early teacher, extrapolated"),
        at_most(-0.1, "wrong_plain_change", "change under a wrong teacher, plain"),
        at_least(0.0, "wrong_reward_gain", "what reward wins back under a wrong teacher"),
        within(-0.03, 0.03, "extrapolation_gain_full", "extrapolating a full teacher"),
    ),
    observed="test scores of start, teachers and student on 500 prompts of each domain",
    held_out=f"the early-stopped teacher under seed {HELD_OUT_SEED}, all three modes",
    design=design,
    analyse=analyse,
)
