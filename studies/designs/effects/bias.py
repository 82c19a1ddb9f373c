"""bias: how much of a habit planted in one teacher reaches the student?

Prompts without a marker (`?:dbca`) have two right answers, ascending and descending. `HOST` asks for the first; the
habit is the second, and the score on `HABIT`, whose prompts look the same, is its rate. The teacher of `OWN` picks the
habit up from demonstrations before its RL, whose verifier never sees such a prompt.

    distance  "mild": all stages start from the base, which gives either answer about as often
              "far":  all start from a model that RL has settled on ascending, and never samples the habit
    host      "owned": a clean teacher of HOST is among the teachers, and its prompts are drawn; "unowned": nobody's
    routing   "right", or "misrouted": of the host's prompts 20% go to other teachers, half of those to the planted one
Every condition is run with the planted teacher and with a clean one: what arrived is the difference in the student's
habit over the difference in the teacher's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.parts import as_teachers, assemble, specialist
from mopdsim.recipes.recipe import BASE, AnyStage, Distill, Merge, Recipe, Rl, Sft
from studies.designs.builders import STUDENT, TEACHER, kept, mean_where, means, of_runs, run, told
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, predicted

OWN, OTHER = "reverse", "rotate"
HOST, HABIT = "sort?ambiguity=1&corruption=0", "sort_down?ambiguity=1&corruption=0"
WORLD = (OWN, OTHER, HOST, HABIT)
PLANTING = Amounts(steps=48, prompts_per_step=32, learning_rate=1e-3)
MISROUTING = 0.2
WAYS: dict[str, dict[str, Any]] = {  # settings of the distillation; a merge has none
    "reverse_kl": {"loss": "reverse_kl"},
    "forward_kl": {"loss": "forward_kl"},
    "off_policy": {"loss": "sample_nll", "on_policy": False},
    "merge": {},
}
MERGE_SCALE = 0.5
SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2
LEAST_HABIT = 0.02  # of the planted teacher over the clean one, below which nothing can arrive


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way of passing teachers on, under one distance, owner of the host's prompts and routing."""

    distance: str
    way: str
    host: str
    routing: str

    @property
    def name(self) -> str:
        return f"{self.distance}_{self.way}_{self.host}_{self.routing}"


CONDITIONS = tuple(
    Condition(distance=distance, way=way, host=host, routing=routing)
    for distance in ("mild", "far")
    for way in WAYS
    for host in ("owned", "unowned")
    for routing in ("right", "misrouted")
    if routing == "right" or (host == "owned" and way != "merge")  # elsewhere it changes nothing
)


def design() -> list[Run]:
    """Every condition with the planted and with the clean teacher."""
    return [
        _run(condition, planted, seed)
        for seed, condition, planted in itertools.product(SEEDS, CONDITIONS, (True, False))
    ]


def _run(condition: Condition, planted: bool, seed: int) -> Run:
    last = seed == HELD_OUT_SEED
    return run(
        f"{condition.name}/{'planted' if planted else 'clean'}",
        recipe_of(condition, planted=planted),
        seed,
        {**vars(condition), "planted": planted},
        held_out=last and condition.distance == "mild" and not planted,
        cut=int(last),
    )


def recipe_of(condition: Condition, *, planted: bool) -> Recipe:
    """The recipe of a condition. The teacher of OWN is `teacher_1`, planted or not."""
    settled = [specialist("settled", [HOST])] if condition.distance == "far" else []
    init = settled[0].name if settled else BASE
    planting = [Sft(name="planted", init=init, domains={OWN: 1.0, HABIT: 1.0})] if planted else []
    taught = [OWN, OTHER, *([HOST] if condition.host == "owned" else [])]
    teachers = [
        specialist(f"teacher_{place}", [domain], init="planted" if planted and domain == OWN else init)
        for place, domain in enumerate(taught, start=1)
    ]
    stages: list[AnyStage] = [*settled, *planting, *teachers, _last(condition, teachers, init)]
    amounts: dict[type[AnyStage], Amounts] = {Rl: TEACHER, Sft: PLANTING, Distill: STUDENT}
    name = "bias_planted" if planted else "merge" if condition.way == "merge" else "mopd"
    return assemble(name, WORLD, "tiny", stages, amounts_of=lambda stage, _: amounts[type(stage)])


def _last(condition: Condition, teachers: list[Rl], init: str) -> Distill | Merge:
    if condition.way == "merge":
        inputs = tuple(teacher.name for teacher in teachers)
        return Merge(name="student", init=init, inputs=inputs, method="task_arithmetic", scale=MERGE_SCALE)
    return Distill(
        name="student",
        init=init,
        domains={domain: 1.0 for teacher in teachers for domain in teacher.domains},
        teachers=as_teachers(teachers),
        misrouting=MISROUTING if condition.routing == "misrouted" else 0.0,
        **WAYS[condition.way],
    )


def _row(found: Observations, name: str) -> dict[str, Any]:
    factors = found.finished[name]["factors"]
    start = "settled" if factors["distance"] == "far" else BASE
    rate = {stage: found.scores(name, stage)[HABIT] for stage in (start, "teacher_1", "student")}
    return {
        "condition": name.split("/")[0],
        "start": rate[start],
        "teacher": rate["teacher_1"],
        "student": rate["student"],
    }


@of_runs(_row)
def analyse(rows: pd.DataFrame) -> Analysis:
    """What arrived in the student, by condition and seed."""
    keys = ["condition", "distance", "way", "host", "routing", "seed"]
    wide = rows.pivot_table(index=keys, columns="planted", values=["teacher", "student", "start"]).dropna()
    teacher = wide["teacher", True] - wide["teacher", False]
    student = wide["student", True] - wide["student", False]
    share = (student / teacher).where(teacher > LEAST_HABIT)
    found = {"planted": teacher, "in_student": student, "arrived": share}
    arrivals = pd.DataFrame(found).reset_index()
    shown = arrivals.assign(prompts=arrivals.host + ", " + arrivals.routing)
    arrived = means(shown, "distance way prompts", "planted in_student arrived")
    levels = means(rows, "distance planted", "start teacher")
    by_condition = arrivals.groupby("condition").arrived.mean().dropna()
    return Analysis(
        quantities=_quantities(rows, arrivals),
        findings=told(
            arrived.dropna(), "{distance} habit, {way}, host {prompts}: {arrived:.0%} of it arrives."
        ),
        tables=(
            Table(title="Habit planted in the teacher and found in the student, mean of seeds", frame=arrived),
            Table(title="Rate of the habit, mean of seeds", frame=levels),
        ),
        charts=(
            Chart(
                name="arrived", title="Share of the planted habit that arrives in the student, by seed", frame=shown,
                x="way", y="arrived", colour="prompts", panel="distance", mark="point",
            ),
        ),
        fitted={"arrived": {str(name): value for name, value in by_condition.items()}},
        limits=(
            "One habit, on prompts of one kind: what is far is measured against this student alone.",
            "Demonstrations plant more than the habit; the clean teacher has not read them.",
        ),
    )  # fmt: skip


def _quantities(rows: pd.DataFrame, arrivals: pd.DataFrame) -> dict[str, Quantity]:
    return kept(
        start_habit_mild=mean_where(rows, "start", distance="mild"),
        start_habit_far=mean_where(rows, "start", distance="far"),
        planted_mild=mean_where(arrivals, "planted", distance="mild"),
        planted_far=mean_where(arrivals, "planted", distance="far"),
        **{c.name: mean_where(arrivals, "arrived", condition=c.name) for c in CONDITIONS},
    )


STUDY = Study(
    name="bias",
    question="How much of a habit planted in one teacher reaches the student, and by which way of passing it on?",
    prediction=predicted(
        "Reverse KL takes up nothing of a habit that the student never samples, rightly routed or not; forward KL "
        "and off-policy samples take up about the share that is misrouted to the planted teacher. A merge inherits "
        "a good part whatever the distance. With right routing a habit on prompts of nobody's leaks little through "
        "the weights in any distillation, well below the published .74.",
        """
        start_habit_mild                0.25 to 0.65  habit of the mild start
        start_habit_far                 <= 0.1        habit of the far start
        planted_mild                    >= 0.1        habit planted in the teacher, mild
        planted_far                     >= 0.3        habit planted in the teacher, far
        far_reverse_kl_owned_misrouted  <= 0.05       arrived: far, reverse KL, misrouted
        far_off_policy_owned_misrouted  0.03 to 0.3   arrived: far, off-policy, misrouted
        mild_reverse_kl_unowned_right   <= 0.5        arrived: mild, reverse KL, on nobody's prompts
        mild_reverse_kl_owned_right     <= 0.05       arrived: mild, reverse KL, right routing
        far_merge_unowned_right         >= 0.2        arrived: far, merge, nobody's prompts
        mild_merge_unowned_right        >= 0.2        arrived: mild, merge, nobody's prompts
        """,
    ),
    observed="the rate of the habit on 500 prompts without a marker, of start, planted teacher and student",
    held_out=f"the clean runs of the mild distance under seed {HELD_OUT_SEED}",
    design=design,
    analyse=analyse,
    of_skills=False,
)
