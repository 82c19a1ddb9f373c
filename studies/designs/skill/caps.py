"""caps, emergence: what does a student pass, and does one climb find what a committee has not?

Two skills in one world. The teacher of the first is trained by RL in full, by RL stopped early, by fine-tuning on its
own verified samples, or wrongly: on the demonstrator, with the mistake that it makes. The second always has its own
full RL teacher. Every student is plain, or has the verifiable reward mixed in. Beside them stands mixed RL at the
FLOPs of the full recipe; all are scored on `sort_then_shift`, the composition that nobody demonstrates or trains.

The successor of `cap` and `synergy`, which were of worlds of sharpening. Leaves out: students of another size,
extrapolation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, AnyStage, Distill, RejectionSampling, Rl, Sft, Teacher
from studies.designs.builders import composed, kept, mean_where, means, paired
from studies.designs.skill.contest import FAILED, compared, judging, rows_of, table_of_probe
from studies.designs.skill.gate import admit, table_of_domains
from studies.designs.skill.suite import FLOPS, JOINT, PARTS, RL, SHARES, STUDENT, WORLDS, recipe, run
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

WORLD = JOINT[PARTS]
TAUGHT, CONTROL = WORLD
EARLY = 0.15  # of a full teacher's FLOPs
FINE_TUNING = Amounts(steps=100_000, prompts_per_step=32, learning_rate=5e-4, warmup_steps=3)
SAMPLED = Amounts(steps=8, prompts_per_step=64, rollouts_per_prompt=8, learning_rate=0, warmup_steps=0)
WRONGLY = {"max_flops": 4 * FLOPS, "learning_rate": 1e-3}  # long enough that the mistake is learnt greedily
REWARD_MIX, GROUP = 0.5, 4  # samples of a prompt where a reward is mixed in
MODES = ("plain", "reward")
JOINT_RL = "mixed_rl"
DISTILLED = 2 * FLOPS * SHARES["mopd"]  # the student's FLOPs
SEEDS = (96, 97, 98)


def teachers() -> dict[str, list[tuple[AnyStage, Amounts]]]:
    """What the first skill's teacher is made of, by its kind; its last stage teaches."""
    own = {TAUGHT: 1.0}
    full = RL.model_copy(update={"max_flops": FLOPS})
    tuned = FINE_TUNING.model_copy(update={"max_flops": FLOPS})
    samples = RejectionSampling(name="samples", domains=own)
    return {
        "rl": [(Rl(name="teacher", domains=own), full)],
        "early": [(Rl(name="teacher", domains=own), full.model_copy(update={"max_flops": EARLY * FLOPS}))],
        "samples": [(samples, SAMPLED), (Sft(name="teacher", domains=own, data=(samples.name,)), tuned)],
        "wrong": [(Sft(name="teacher", domains=own), tuned.model_copy(update=WRONGLY))],
    }


def design() -> list[Run]:
    """Every teacher with every mode, and mixed RL beside the full RL teacher, on every seed."""
    made = {
        (kind, mode): _recipe(kind, mode, stages) for kind, stages in teachers().items() for mode in MODES
    }
    made["rl", JOINT_RL] = recipe(JOINT_RL, WORLD, flops=(2 * FLOPS + DISTILLED) / len(WORLD))
    return [
        run(
            f"{kind}/{name}", own, seed, PARTS,
            held_out=True, teacher=kind, recipe=name, rate=RL.learning_rate, contest=f"caps/{kind}",
        )
        for seed in SEEDS
        for (kind, name), own in made.items()
    ]  # fmt: skip


def _recipe(kind: str, mode: str, stages: list[tuple[AnyStage, Amounts]]) -> Recipe:
    """A student of one such teacher and of the second skill's."""
    control = (Rl(name="control", domains={CONTROL: 1.0}), RL.model_copy(update={"max_flops": FLOPS}))
    amounts: dict[str, Any] = {"max_flops": DISTILLED}
    if mode == "reward":
        amounts |= {"prompts_per_step": STUDENT.prompts_per_step // GROUP, "rollouts_per_prompt": GROUP}
    student = Distill(
        name="student",
        domains=dict.fromkeys(WORLD, 1.0),
        teachers=(Teacher(stage="teacher", domains=(TAUGHT,)), Teacher(stage="control", domains=(CONTROL,))),
        reward_mix=REWARD_MIX if mode == "reward" else 0.0,
    )
    spent = [*stages, control, (student, STUDENT.model_copy(update=amounts))]
    return composed(f"caps_{kind}_{mode}", WORLD, spent)


def _rows(found: Observations) -> pd.DataFrame:
    """With the taught skill's scores of start, teacher and student, greedy, and what the student has over both."""
    rows = rows_of(found)
    rows = rows.assign(label=rows.recipe.str.removeprefix(FAILED))

    def taught(name: str, stage: str | None) -> float:
        return found.seen("greedy").scores(name, stage)[TAUGHT]

    own = [
        (
            taught(name, BASE),
            float("nan") if label == JOINT_RL else taught(name, "teacher"),
            taught(name, None),
        )
        for name, label in zip(rows.run, rows.label, strict=True)
    ]
    rows[["start", "by_teacher", "by_student"]] = own
    return rows.assign(change=rows.by_student - rows.start, over_teacher=rows.by_student - rows.by_teacher)


def analyse(found: Observations) -> Analysis:
    """The taught skill under every teacher and mode, and the composed probe. A student that fails counts here with its
    score: what limits it is what is asked."""
    rows = _rows(found)
    shown = means(rows, "teacher label", "start by_teacher by_student over_teacher")
    owners = [
        (PARTS, domain, name, stage)
        for name in found.runs(teacher="rl", recipe="plain")
        for domain, stage in ((TAUGHT, "teacher"), (CONTROL, "control"))
    ]
    own = Analysis(
        quantities=_quantities(rows),
        tables=(
            Table(title="The taught skill, greedy, failed students included", frame=shown),
            table_of_probe(rows, "teacher label"),
            table_of_domains(found, owners),
        ),
        charts=(
            Chart(
                name="caps", title="Student against teacher on the taught skill, greedy; dashed: equal",
                frame=rows.dropna(subset="by_teacher"), x="by_teacher", y="by_student", colour="teacher", panel="label",
                mark="point", diagonal=True,
            ),
        ),
        limits=(
            "One pair of skills, three seeds; the student is as large as its teachers and shares their start.",
            "The teacher on verified samples is not charged for its samples; the wrong one has four times the FLOPs.",
        ),
    )  # fmt: skip
    return compared(rows, "teacher", own)


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    over, plain, reward = partial(mean_where, rows, "over_teacher"), {"label": "plain"}, {"label": "reward"}
    return kept(
        rl_plain=over(teacher="rl", **plain),
        samples_plain=over(teacher="samples", **plain),
        early_plain=over(teacher="early", **plain),
        early_reward=over(teacher="early", **reward),
        wrong_plain_change=mean_where(rows, "change", teacher="wrong", **plain),
        wrong_reward_gain=paired(rows, "by_student", reward, plain, teacher="wrong"),
        rl_reward_gain=paired(rows, "by_student", reward, plain, teacher="rl"),
        samples_minus_rl=paired(rows, "by_student", {"teacher": "samples"}, {"teacher": "rl"}, **plain),
        mixed_minus_plain=paired(rows, "greedy", {"label": JOINT_RL}, plain, teacher="rl"),
        probe_of_joint_rl=mean_where(rows, "probe_greedy", label=JOINT_RL),
        probe_of_committee=mean_where(rows, "probe_greedy", teacher="rl", **plain),
    )


STUDY = judging(
    name="caps",
    question="What does a student pass, greedily, and does joint RL find what a committee has not?",
    prediction=predicted(
        "A plain student comes within ten points of its teacher, whether that was trained by RL, on samples or "
        "stopped early, and stays as wrong as a wrong one. A reward mixed in passes an early-stopped teacher and wins "
        "back much of what a wrong one costs; under a full teacher it adds little. A teacher fine-tuned on verified "
        "samples is at least as good as one by RL, and so is its student. Mixed RL at the same FLOPs leads the plain "
        "student. On the composed probe nobody is ever right: a prompt with two markers is like none that was shown.",
        """
        rl_plain            -0.1 to 0.1   student less its full RL teacher, plain
        samples_plain       -0.1 to 0.1   student less its teacher on samples, plain
        early_plain         -0.1 to 0.1   student less its early-stopped teacher, plain
        early_reward        >= 0.05       student less its early-stopped teacher, reward mixed in
        wrong_plain_change  <= 0.0        student less the start under a wrong teacher, plain
        wrong_reward_gain   >= 0.2        what reward wins back under a wrong teacher
        rl_reward_gain      -0.05 to 0.1  what reward adds under a full RL teacher
        samples_minus_rl    >= 0.0        plain students: teacher on samples less teacher by RL
        mixed_minus_plain   >= 0.0        mixed RL less the plain student of RL teachers, at equal FLOPs
        probe_of_joint_rl   <= 0.02       mixed RL's greedy score on the composed probe
        probe_of_committee  <= 0.02       the plain student's
        """,
    ),
    design=design,
    analyse=analyse,
    failures_count=True,
    admit=partial(admit, tuple(WORLDS)),
)
