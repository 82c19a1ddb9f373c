"""throughput: can the seconds of an unseen tiny run be told from its steps and its FLOPs?

Stages at several batches and answer lengths. Of each kind of stage, seconds = a + b steps + c FLOPs with coefficients
that are not negative, fitted to some of the cells by relative error and judged on the others, against one rate of
FLOPs alone. Seconds are those of a worker's wall clock, loading, scoring and saving included. Phases and
sizes, on a CPU or a GPU, are timed by `mopd train pace`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.parts import as_teachers, assemble, specialists_of
from mopdsim.recipes.recipe import BASE, Distill
from studies.designs.builders import kept, means, of_runs, paired, spending
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.resample import mean_quantity
from studies.framework.run import Run
from studies.framework.study import Study, predicted
from trainer.files.settings import Settings

TEACHER = Amounts(steps=48, prompts_per_step=16, rollouts_per_prompt=8, learning_rate=7e-4)
STUDENT = Amounts(steps=72, prompts_per_step=64, learning_rate=2e-3)
SKILLS = ("sort", "reverse", "rotate")
LENGTHS = (4, 8, 12)  # letters of an answer
STEPS = {8: 40, 16: 30, 64: 15}  # by prompts of eight rollouts; a student samples as many rows, one a prompt
UNSEEN_LENGTH, UNSEEN_PROMPTS = 8, 16
SEEDS = (0, 1)


def design() -> list[Run]:
    """Every length at every batch: three specialists, their student. Groups of one reward are trained on too, so that
    what is computed does not hang on what was learnt."""
    return [_run(length, prompts, seed) for seed in SEEDS for length in LENGTHS for prompts in STEPS]


def _run(length: int, prompts: int, seed: int) -> Run:
    domains = [f"{skill}?length={length}" for skill in SKILLS]
    rows = prompts * TEACHER.rollouts_per_prompt
    rl = TEACHER.model_copy(update={"steps": STEPS[prompts], "prompts_per_step": prompts})
    distill = STUDENT.model_copy(update={"steps": STEPS[prompts], "prompts_per_step": rows})
    teachers = [stage.model_copy(update={"zero_signal": "keep"}) for stage in specialists_of(domains, None)]
    student = Distill(name="student", domains=dict.fromkeys(domains, 1.0), teachers=as_teachers(teachers))
    recipe = assemble("mopd", domains, "tiny", [*teachers, student])
    return Run(
        name=f"length{length}/prompts{prompts}/seed{seed}",
        recipe=spending(recipe, rl=rl, distill=distill),
        settings=Settings(
            seed=seed, validation_items=50, test_items=100, evaluate_every=1000, diagnose_every=1000
        ),
        factors={"length": length, "prompts": prompts},
        held_out=length == UNSEEN_LENGTH or prompts == UNSEEN_PROMPTS,
        cut=seed,
    )


def _rows(found: Observations, name: str) -> list[dict[str, Any]]:
    """A row for each stage that trains."""
    rows = []
    for stage, key in found.finished[name]["keys"].items():
        if stage != BASE:
            spent = found.manifest["stages"][key]
            row = {
                "stage": stage,
                "kind": "distill" if stage == "student" else "rl",
                "held_out": found.finished[name]["held_out"],
                "steps": float(found.stage(name, stage).step.max()),
                "flops": spent["flops"],
                "seconds": spent["wall_seconds"],
            }
            rows.append(row | {"gflop_per_s": row["flops"] / row["seconds"] / 1e9})
    return rows


@of_runs(_rows)
def analyse(rows: pd.DataFrame) -> Analysis:
    """Errors on the unseen cells, and speed against batch and length."""
    coefficients: dict[str, dict[str, float]] = {}
    judged = []
    for kind, own in rows.groupby("kind"):
        seen, unseen = own[~own.held_out], own[own.held_out]
        if seen.empty or unseen.empty:
            continue
        coefficients[str(kind)] = fit(seen)
        rate = float((seen.seconds / seen.flops).median())
        fitted = predict(coefficients[str(kind)], unseen)
        judged.append(unseen.assign(fitted=fitted, one_rate=rate * unseen.flops))
    predictions = pd.concat(judged) if judged else rows.iloc[:0].assign(fitted=0.0, one_rate=0.0)
    speed = means(rows, "kind length prompts", "seconds gflop_per_s")
    return Analysis(
        quantities=_quantities(rows, predictions),
        findings=tuple(
            f"{kind}: {c['fixed_s']:.2f} s a stage, {1e3 * c['s_per_step']:.1f} ms a step, "
            f"{1e12 * c['s_per_flop']:.0f} s a TFLOP."
            for kind, c in coefficients.items()
        ),
        tables=(Table(title="Seconds and speed by cell, mean of stages and seeds", frame=speed),),
        charts=(
            Chart(
                name="seconds", title="Unseen cells: predicted and measured seconds of a stage; dashed: equal",
                frame=predictions, x="seconds", y="fitted", colour="kind", mark="point", diagonal=True,
            ),
            Chart(
                name="speed", title="Speed of a stage by prompts, mean of seeds",
                frame=speed.assign(letters=speed.length.map(str)), x="prompts", y="gflop_per_s", colour="letters",
                panel="kind",
            ),
        ),
        fitted=coefficients,
        limits=("One model shape, one machine, workers side by side: another machine wants its own coefficients.",),
    )  # fmt: skip


def _features(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([np.ones(len(rows)), rows.steps.to_numpy(float), rows.flops.to_numpy(float)], axis=1)


def fit(rows: pd.DataFrame) -> dict[str, float]:
    """a, b and c, none negative, that minimise the squared relative error of the seconds."""
    from scipy.optimize import nnls

    scaled = _features(rows) / rows.seconds.to_numpy(float)[:, None]
    unit = np.maximum(scaled.max(axis=0), 1e-300)
    found = nnls(scaled / unit, np.ones(len(rows)))[0] / unit
    return dict(zip(("fixed_s", "s_per_step", "s_per_flop"), map(float, found), strict=True))


def predict(coefficients: dict[str, float], rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds of each stage."""
    chosen = [coefficients[name] for name in ("fixed_s", "s_per_step", "s_per_flop")]
    return np.asarray(_features(rows) @ np.array(chosen))


def _quantities(rows: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Quantity]:
    errors = {name: (predictions[name] / predictions.seconds - 1).abs() for name in ("fitted", "one_rate")}
    by_run = pd.DataFrame({"run": predictions.run, **errors}).groupby("run").median()
    students = rows[rows.stage == "student"].assign(log_speed=lambda own: np.log2(own.gflop_per_s))
    least, most = min(STEPS), max(STEPS)
    by_batch = {"prompts": most}, {"prompts": least}
    by_length = {"length": LENGTHS[-1]}, {"length": LENGTHS[0]}
    return kept(
        held_out_error=mean_quantity(by_run.fitted),
        one_rate_minus_fitted=mean_quantity(by_run.one_rate - by_run.fitted),
        doublings_by_batch=paired(students, "log_speed", *by_batch, by=("length", "seed")),
        doublings_by_length=paired(students, "log_speed", *by_length, by=("prompts", "seed")),
    )


STUDY = Study(
    name="throughput",
    question="Can the seconds of an unseen tiny run be told from its steps and its FLOPs?",
    prediction=predicted(
        "A fixed cost, a cost of each step and a cost of each FLOP tell the seconds of unseen batches and lengths "
        "within 15% at the median; one rate of FLOPs alone does worse, since small batches pay for overhead. From "
        "64 to 512 rows the speed of distillation grows by less than a doubling, and hardly with length.",
        """
        held_out_error         <= 0.15      median error of a run's stages, unseen cells
        one_rate_minus_fitted  >= 0.0       error of one rate less that of the fit
        doublings_by_batch     0.0 to 1.0   doublings of FLOP/s from 64 to 512 rows, distillation
        doublings_by_length    -0.5 to 0.5  doublings of FLOP/s from 4 to 12 letters, distillation
        """,
    ),
    observed="wall-clock seconds, steps and FLOPs of every stage",
    held_out=f"answers of {UNSEEN_LENGTH} letters at every batch, and {UNSEEN_PROMPTS} prompts at every length",
    design=design,
    analyse=analyse,
)
