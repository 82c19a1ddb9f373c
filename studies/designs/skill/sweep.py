"""skill_sweep: at which rates, batches and shares does each recipe of the suite 'skill' do best? One world, one seed.

One setting at a time is moved from a first guess, for every recipe alike, until the best lies inside what was tried:
RL's rate and batch on mixed RL; the student's rate, batch and share of compute on MOPD; rate and share of off-policy
fine-tuning; and, as mixed RL's due, advantages by domain and prompts by signal. Of settings
within two points of the best greedy score the suite takes the best at temperature 1, so that this study is no evidence
on it; its world and seed are in no study that judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from studies.designs.builders import at_flops, kept
from studies.designs.skill.contest import FAILED, rows_of
from studies.designs.skill.suite import (
    FLOPS,
    RL,
    STUDENT,
    SWEEP_SEED,
    SWEPT,
    WORLDS,
    recipe,
    run,
    setting,
)
from studies.framework.analysis import Analysis, Chart, Table, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

GUESS = {  # from which one setting at a time is moved
    "rl": RL.model_copy(update={"learning_rate": 8e-4, "prompts_per_step": 16}),
    "student": STUDENT.model_copy(update={"learning_rate": 2e-3, "prompts_per_step": 32}),
}
SHARE = 0.4
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
BATCHES = (8, 16, 32, 64)
STUDENT_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
STUDENT_BATCHES = (16, 32, 64, 128)
PARTS = (0.25, 0.4, 0.6, 0.75, 0.9)
Changes = Mapping[str, float]
DUES: Mapping[str, Mapping[str, Any]] = {
    "advantages by domain": {"advantage_scale": "domain"},
    "prompts by signal": {"curriculum": "signal"},
    "both": {"advantage_scale": "domain", "curriculum": "signal"},
}


def design() -> list[Run]:
    """Every setting of every recipe once; what equals the first guess is run once for all."""
    found: dict[str, Run] = {}
    for name, knob, value, own in _settings():
        label = f"{name}/{knob} {value}".replace(" ", "-")
        found[label] = run(label, own, SWEEP_SEED, SWEPT, recipe=name, knob=knob, value=str(value))
    return list(found.values())


def _settings() -> Iterator[tuple[str, str, object, Recipe]]:
    domains = WORLDS[SWEPT]

    def made(
        name: str, *, rl: Changes | None = None, student: Changes | None = None, share: float = SHARE
    ) -> Recipe:
        return recipe(
            name,
            domains,
            rl=GUESS["rl"].model_copy(update=rl),
            distill=GUESS["student"].model_copy(update=student),
            share=share,
        )

    for rate in RATES:
        yield "mixed_rl", "rate", rate, made("mixed_rl", rl={"learning_rate": rate})
    for batch in BATCHES:
        yield "mixed_rl", "batch", batch, made("mixed_rl", rl={"prompts_per_step": batch})
    for name in ("mopd", "off_policy"):
        for rate in STUDENT_RATES:
            yield name, "rate", rate, made(name, student={"learning_rate": rate})
        for share in PARTS:
            yield name, "share", share, made(name, share=share)
    for batch in STUDENT_BATCHES:
        yield "mopd", "batch", batch, made("mopd", student={"prompts_per_step": batch})
    for words, options in DUES.items():
        due = at_flops(
            catalogue.mixed_rl(domains, **options),
            FLOPS * len(domains),
            rl=GUESS["rl"],
            distill=GUESS["student"],
            share=SHARE,
        )
        yield "mixed_rl", "due", words, due


def analyse(found: Observations) -> Analysis:
    """Scores by setting, and which optima lie on an edge of what was tried."""
    rows = rows_of(found)
    rows = rows.assign(recipe=rows.recipe.str.removeprefix(FAILED))
    best = optima(rows)
    shown = rows[["recipe", "knob", "value", "temperature_1", "greedy", "pass_8", "worst_greedy", "recovery"]]
    due = rows[(rows.recipe == "mixed_rl") & (rows.knob == "due")]
    dues = ", ".join(f"{row.value} {row.greedy:.3f}" for row in due.itertuples())
    return Analysis(
        quantities=kept(inside=mean_quantity(best.inside.astype(float))),
        findings=(
            *(
                f"{row.recipe}, {row.knob}: best {row.best} at {row.greedy:.3f} greedy, {row.where}."
                for row in best.itertuples()
            ),
            f"Mixed RL given its due, greedy: {dues or 'not run'}.",
        ),
        tables=(Table(title="Settings", frame=shown), Table(title="Optima", frame=best)),
        charts=(
            Chart(
                name="settings", title="Mean greedy score by setting: a panel for each knob", frame=rows, x="value",
                y="greedy", colour="recipe", panel="knob", mark="point",
            ),
        ),
        limits=("One world and one seed: differences below some five points are noise.",),
    )  # fmt: skip


def optima(rows: pd.DataFrame) -> pd.DataFrame:
    """The best value of each recipe's knobs, and whether values on both sides of it were tried."""
    found = []
    for (name, knob), own in rows[rows.knob != "due"].groupby(["recipe", "knob"], sort=False):
        best = own.sort_values("greedy").iloc[-1]
        tried = sorted(own.value.astype(float))
        inside = tried[0] < float(best.value) < tried[-1]
        where = "inside what was tried" if inside else "on an edge of what was tried"
        row = {"recipe": name, "knob": knob, "best": best.value, "greedy": best.greedy}
        found.append({**row, "inside": inside, "where": where})
    return pd.DataFrame(found, columns=["recipe", "knob", "best", "greedy", "inside", "where"])


STUDY = setting(
    name="skill_sweep",
    question="At which rates, batches and shares does each recipe do best in the suite 'skill'?",
    prediction=predicted(
        "Every optimum lies inside what was tried, up to the noise of one seed.",
        """
        inside  >= 0.5  share of knobs whose best value lies inside what was tried
        """,
    ),
    observed="scores at temperature 1, greedy and best of eight of starts, teachers and outputs",
    held_out="nothing: the sweep sets amounts and judges no forecast",
    design=design,
    analyse=analyse,
)
