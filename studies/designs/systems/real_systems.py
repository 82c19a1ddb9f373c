"""real_systems: three published systems, whole, on a small open model. Does each end, when, and what does it teach?

SmolLM2-135M answers six kinds of short question. DeepSeek-R1, MiMo-V2-Flash and Nemotron 3 Ultra run from their first
stage to their last at amounts of minutes on one core; their teachers are adapters, DeepSeek-R1's the one whose answers
are kept. Amounts differ from system to system, so that no system is said to be better than another
(`mopd study compare` sets them side by side at one budget, on a tiny model). Scores are forecast before the runs.
Leaves out: the other systems, rivals, more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from mopdsim.cost.constants import NORMAL_80
from mopdsim.recipes import catalogue
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, AnyStage, Distill, Rl
from studies.designs.builders import table
from studies.designs.skill.real import MODEL
from studies.designs.skill.real import SETTINGS as ON_OPEN_MODEL
from studies.designs.skill.suite import FIGURES
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import Study, predicted

DOMAINS = ("ask:smallest", "ask:larger", "ask:swap", "ask:small_letters", "ask:nth", "ask:gcd")
SEED = 110
ADAPTER_RANK = 16
ADAPTER_RATE = 10  # times the rate of whole weights
WARM_UP = 3
SPENT: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {  # steps and prompts a step, by stage
    "mimo_v2_flash": {"sft": (8, 44), "teacher": (10, 8), "sft_teacher": (8, 16), "student": (20, 8)},
    "deepseek_r1": {
        "cold_start": (5, 44), "reasoning_rl": (20, 16), "rejection": (3, 48), "sft": (14, 44),
        "reward_model": (12, 16), "rl": (18, 12),
    },
    "nemotron3_ultra": {
        "sft_1": (5, 44), "sft_2": (3, 44), "rlvr": (8, 12), "r1_teacher": (7, 8), "warmup": (3, 32),
        "student_1": (10, 32), "r2_teacher": (5, 8), "student_2": (10, 32),
    },
}  # fmt: skip
TAUGHT_BY_ANSWERS = {"deepseek_r1": "reasoning_rl"}  # the teacher of a system whose output is not distilled
SHORT = {"deepseek_r1": "r1", "mimo_v2_flash": "mimo", "nemotron3_ultra": "nemotron"}
SETTINGS = ON_OPEN_MODEL.model_copy(update={"seed": SEED, "test_items": 12})


def design() -> list[Run]:
    """One run of each, one after the other."""
    return [
        Run(
            name=f"{name}/seed{SEED}",
            recipe=system(name),
            settings=SETTINGS,
            model=MODEL,
            factors={"system": name, "recipe": name, "contest": "real_systems", "batch": name},
            cut=cut,
        )
        for cut, name in enumerate(SPENT)
    ]


def system(name: str) -> Recipe:
    """The catalogue's recipe at the amounts of this study, its teachers as adapters."""
    made = catalogue.recipe(name, DOMAINS, amounts="real")
    adapters = {teacher for teacher, _ in taught(made)}
    stages: list[AnyStage] = []
    amounts = {}
    for stage in made.stages:
        steps, prompts = SPENT[name][_row(name, stage.name)]
        own = made.amounts[stage.name].model_copy(
            update={"steps": steps, "prompts_per_step": prompts, "warmup_steps": WARM_UP}
        )
        if stage.name in adapters:
            stage = stage.model_copy(update={"adapter_rank": ADAPTER_RANK})
            own = own.model_copy(update={"learning_rate": ADAPTER_RATE * own.learning_rate})
        stages.append(stage)
        amounts[stage.name] = own
    return made.model_copy(update={"stages": tuple(stages)}).with_amounts(amounts)


def _row(name: str, stage: str) -> str:
    """The row of `SPENT` that a stage has: its own, or that of its numbered kind."""
    return stage if stage in SPENT[name] else stage.rpartition("_")[0]


def taught(recipe: Recipe) -> list[tuple[str, str]]:
    """Teachers with what they teach, a pair a domain, of all distillations; the student as its own left out."""
    pairs = [
        (teacher.stage, domain)
        for stage in recipe.stages
        if isinstance(stage, Distill)
        for teacher in stage.teachers
        if teacher.stage != stage.init
        for domain in teacher.domains
    ]
    pairs += [
        (stage.name, domain)
        for stage in recipe.stages
        if isinstance(stage, Rl) and stage.name == TAUGHT_BY_ANSWERS.get(recipe.name)
        for domain in stage.domains
    ]
    return list(dict.fromkeys(pairs))


def _scores(found: Observations, name: str) -> list[dict[str, Any]]:
    """Of each domain and figure: the start, its last teacher (none where the student teaches itself), the output."""
    last = {domain: teacher for teacher, domain in taught(found.recipe(name))}
    rows = []
    for figure in FIGURES:
        view = found.seen(figure)
        start, output = view.scores(name, BASE), view.scores(name)
        errors = view.errors(name, BASE), view.errors(name)
        for domain in DOMAINS:
            own = last.get(domain)
            rows.append(
                {
                    "figure": figure, "domain": domain, "start": start[domain],
                    "teacher": view.scores(name, own)[domain] if own else math.nan,
                    "output": output[domain], "start_se": errors[0][domain], "output_se": errors[1][domain],
                    "teacher_se": view.errors(name, own)[domain] if own else math.nan,
                }
            )  # fmt: skip
    return rows


def _stages(found: Observations, name: str) -> list[dict[str, Any]]:
    """Of each stage: its mean greedy score over its domains, and what it cost."""
    view, recipe = found.seen("greedy"), found.recipe(name)
    rows = []
    for stage in (BASE, *(each.name for each in recipe.stages)):
        cost = found.manifest["stages"][found.key(name, stage)]
        own = view.scores(name, stage) if view.has(name, stage) else {}
        rows.append(
            {
                "stage": stage,
                "kind": "start" if stage == BASE else recipe.stage[stage].kind,
                "steps": recipe.amounts[stage].steps if stage in recipe.amounts else math.nan,
                "TFLOP": cost["flops"] / 1e12,
                "seconds": cost["wall_seconds"],
                "CPU seconds": cost.get("cpu_seconds", math.nan),
                "domains": len(own),
                "greedy": sum(own.values()) / len(own) if own else math.nan,
            }
        )
    return rows


def analyse(found: Observations) -> Analysis:
    """Scores by system and domain, what the student has of its teachers, and what each stage cost."""
    scores, stages = table(found, _scores), table(found, _stages)
    quantities = {}
    for name, own in scores[scores.figure == "greedy"].groupby("system"):
        spent = float(stages[stages.system == name].seconds.sum())
        short = SHORT[str(name)]
        quantities[f"{short}_gain"] = _gap(own, "start")
        quantities[f"{short}_less_teachers"] = _gap(own[own.teacher.notna()], "teacher")
        quantities[f"{short}_seconds"] = Quantity(value=spent, low=spent, high=spent, n=1)
    shown = ["system", "domain", "figure", "start", "teacher", "output"]
    means = scores.groupby(["system", "figure"], sort=False, as_index=False)[shown[3:]].mean()
    long = scores[scores.figure == "greedy"].melt(
        id_vars=["system", "domain"], value_vars=shown[3:], var_name="stage", value_name="greedy"
    )
    return Analysis(
        quantities=quantities,
        findings=tuple(
            f"{row.system}: {row.start:.2f} at its start, {row.output:.2f} at its end, greedy, mean of six domains."
            for row in means[means.figure == "greedy"].itertuples()
        ),
        tables=(
            Table(title="Mean of six domains; teachers: of the domains that have one", frame=means),
            Table(title="Scores by domain: start, own last teacher, output", frame=scores[shown]),
            Table(
                title="Stages: mean greedy score over their own domains, training TFLOP, seconds with evaluation",
                frame=stages.drop(columns=["run", "seed", "recipe", "contest", "batch"]),
            ),
        ),
        charts=(
            Chart(
                name="scores", title="Greedy scores by domain", frame=long.dropna(), x="domain", y="greedy",
                colour="stage", panel="system", mark="point",
            ),
        ),
        limits=(
            "One model of 135 M parameters, one seed; the systems' amounts differ, so that they are not compared.",
            f"{SETTINGS.greedy_items} prompts a domain greedily: a mean of six domains has a standard error of .03.",
            "Seconds are those of a wall clock on a machine that did other work.",
        ),
    )  # fmt: skip


def _gap(rows: pd.DataFrame, before: str) -> Quantity:
    """Mean over domains of the output's score less another, with its 80% interval over test prompts."""
    value = float((rows.output - rows[before]).mean())
    error = math.sqrt(float((rows.output_se**2 + rows[f"{before}_se"] ** 2).sum())) / len(rows)
    return Quantity(value=value, low=value - NORMAL_80 * error, high=value + NORMAL_80 * error, n=1)


STUDY = Study(
    name="real_systems",
    question="Do three published systems run whole on a small open model, and what do they teach it in minutes?",
    prediction=predicted(
        "All three end: with twenty steps of RL on its domains behind it, DeepSeek-R1 has right answers to keep. At "
        "this trainer's pace on two idle cores they take 1,253, 943 and 1,740 seconds, the start and evaluation "
        "included; beside other work up to twice as long. From greedy starts near .37, mean of six domains, "
        "DeepSeek-R1 ends near .70, MiMo-V2-Flash near .62 and Nemotron 3 Ultra near .68; what is learnt least is "
        "`nth` and `gcd`. A student stays a few points behind its teachers.",
        """
        r1_gain               >= 0.2        greedy gain of DeepSeek-R1, mean of six domains
        mimo_gain             >= 0.15       greedy gain of MiMo-V2-Flash
        nemotron_gain         >= 0.2        greedy gain of Nemotron 3 Ultra
        mimo_less_teachers    -0.15 to 0.05 its student less its teachers on their five domains, greedy
        nemotron_less_teachers -0.15 to 0.05 its last student less its last teachers, greedy
        r1_seconds            600 to 2500   of DeepSeek-R1, its start and evaluation included
        mimo_seconds          450 to 1900   of MiMo-V2-Flash
        nemotron_seconds      850 to 3500   of Nemotron 3 Ultra
        """,
    ),
    observed="scores at temperature 1, greedy and best of eight of starts, teachers and outputs; seconds of all stages",
    held_out="nothing: one run of each system, judged against the prediction and the forecasts on record",
    design=design,
    analyse=analyse,
    suite="real",
    foretells=True,
    of_skills=False,
)
