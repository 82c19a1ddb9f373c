"""breaking: at which learning rate does mixed RL break, and MOPD's student, in three sizes?

Mixed RL and the student at the same four rates; the student's teachers are trained at the suite's gentle rate and
shared by all rates. FLOPs grow with the size. The model of 1.5 M parameters was in no study before. The rule that a
forecast has to beat is one line: mixed RL, but MOPD at a rate of 4e-3 and above. A domain breaks where it ends below
its start. The
successor of `stability`, which was of worlds of sharpening. Leaves out: teachers at bold rates (`choice` has them),
merging, other schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from mopdsim.facts.model import model
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE
from studies.designs.builders import kept, mean_where, means, paired, where
from studies.designs.skill.contest import FAILED, SWITCH, compared, judging, mopd_from, rows_of
from studies.designs.skill.gate import admit, table_of_domains, teachers_of
from studies.designs.skill.suite import FLOPS, RL, START, STUDENT, SWEPT, WORLDS, recipe, run
from studies.framework.analysis import Analysis, Chart, Quantity, Table, mean_quantity
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

WORLD = SWEPT
SIZES: Mapping[str, int] = {"tiny": 120, "tiny-1.5M": 90, "tiny-large": 90}  # steps of the start, by model
FRESH = "tiny-1.5M"
RATES = (7e-4, 1.4e-3, 2.8e-3, 5.6e-3)  # the upper two are those of `stability`
HIGHEST = RATES[-1]
SEEDS = (93, 94, 95)
RECIPES = ("mixed_rl", "mopd")
CHOICES: Mapping[str, Callable[[float], str]] = {
    f"mixed RL, but MOPD at {SWITCH:g} and above": mopd_from(SWITCH),
    "always mixed RL": lambda rate: "mixed_rl",
    "always MOPD": lambda rate: "mopd",
}
TIE = 0.02  # of a greedy score


def design() -> list[Run]:
    """Both recipes at every rate in every size, on every seed."""
    return [
        run(
            f"{size.lower()}/rate{rate:g}/{name}", made, seed, WORLD,
            held_out=True, model=size, begin=START.model_copy(update={"steps": steps}),
            size=size, rate=rate, recipe=name, contest=f"breaking/{size}/{rate:g}",
        )
        for seed in SEEDS
        for size, steps in SIZES.items()
        for rate in RATES
        for name in RECIPES
        for made in [_recipe(name, size, rate)]
    ]  # fmt: skip


def _recipe(name: str, size: str, rate: float) -> Recipe:
    """At the FLOPs that the size's parameters call for; the rate is mixed RL's, or the student's."""
    times = model(size).total_parameters / model("tiny").total_parameters
    own = {"learning_rate": rate}
    rl = RL.model_copy(update=own) if name == "mixed_rl" else RL
    return recipe(name, WORLDS[WORLD], flops=times * FLOPS, rl=rl, distill=STUDENT.model_copy(update=own))


def broken_rows(found: Observations) -> pd.DataFrame:
    """Of every run, with the share of its domains that end below their start, greedy, and the condition's name."""
    rows, greedy = rows_of(found), found.seen("greedy")
    ends = [(greedy.scores(name, BASE), greedy.scores(name)) for name in rows.run]
    return rows.assign(
        label=rows.recipe.str.removeprefix(FAILED),
        condition=rows["size"] + " at " + rows.rate.map("{:g}".format),
        broken=[sum(after[d] < start[d] for d in start) / len(start) for start, after in ends],
    )


def analyse(found: Observations) -> Analysis:
    """By size and rate."""
    return judged_by_rate(
        found,
        by=("size", "rate"),
        worlds={size: (size, WORLDS[WORLD]) for size in SIZES},
        rates=RATES,
        choices=CHOICES,
        more=_more,
        limits=(
            "One world, three seeds, a factor of nine in parameters.",
            "The student's rate is bold and its teachers' is not: a recipe all of whose rates are bold is another one.",
        ),
    )


def judged_by_rate(
    found: Observations,
    *,
    by: Sequence[str],
    worlds: Mapping[str, tuple[str, Sequence[str]]],
    rates: Sequence[float],
    choices: Mapping[str, Callable[[float], str]],
    more: Callable[[pd.DataFrame, pd.DataFrame], dict[str, Quantity | None]],
    limits: tuple[str, ...],
) -> Analysis:
    """Scores and broken domains by size, where there are several, and rate, and how often each rule takes the better
    recipe. worlds: a size and its domains, by their name in the table of domains. rates: from lowest to highest.
    more: quantities beside those of the lowest and the highest, of the rows and what each rule takes. A student that
    fails counts here with its score: its failing is what is asked."""
    rows = broken_rows(found)
    shown = means(rows, f"{' '.join(by)} label", "start_greedy temperature_1 greedy pass_8 broken recovery")
    picked = picks(rows, choices)
    gentle = rows.rate.min()
    owners = [
        owner
        for world, (size, domains) in worlds.items()
        for owner in teachers_of(found.runs(size=size, rate=gentle, recipe="mopd"), world, domains)
    ]
    panel = "size" if "size" in by else None
    own = Analysis(
        quantities=kept(**_of_ends(rows, rates[0], rates[-1]), **more(rows, picked)),
        findings=told_of_rules(picked),
        tables=(
            Table(
                title=f"Scores by {' and '.join(by)}, failed students included; broken: share of domains", frame=shown
            ),
            table_of_domains(found, owners),
        ),
        charts=(
            Chart(
                name="rates",
                title="Mean greedy score by learning rate, failed students included"
                + (", a panel a size" if panel else ""),
                frame=shown, x="rate", y="greedy", colour="label", panel=panel,
            ),
        ),
        limits=limits,
    )  # fmt: skip
    return compared(rows, "condition", own)


def told_of_rules(picked: pd.DataFrame) -> tuple[str, ...]:
    """How often each rule takes the better recipe, a sentence each."""
    return tuple(
        f"'{rule}' takes a recipe within {100 * TIE:.0f} points of the better one, greedy, in "
        f"{int(picked[rule].sum())} of {len(picked)} conditions."
        for rule in picked.columns.drop("condition")
    )


def picks(rows: pd.DataFrame, choices: Mapping[str, Callable[[float], str]]) -> pd.DataFrame:
    """By condition, whether each rule takes a recipe that is not beaten by more than `TIE`."""
    found = []
    for _, own in rows.groupby("condition", sort=False):
        scores = own.groupby("label").greedy.mean()
        if len(scores) == len(RECIPES):
            rate = float(own.rate.iloc[0])
            right = {rule: scores[of(rate)] >= scores.max() - TIE for rule, of in choices.items()}
            found.append({"condition": own.condition.iloc[0], **right})
    return pd.DataFrame(found, columns=["condition", *choices])


def _of_ends(rows: pd.DataFrame, lowest: float, highest: float) -> dict[str, Quantity | None]:
    """At the lowest and the highest rate: mixed RL's lead, what each recipe loses between them, what breaks."""

    def fall(name: str) -> Quantity | None:
        own = where(rows, label=name)
        return paired(own, "greedy", {"rate": lowest}, {"rate": highest}, by=("size", "seed"))

    return {
        "mixed_minus_mopd_lowest": lead_at(rows, lowest),
        "mixed_minus_mopd_highest": lead_at(rows, highest),
        "fall_of_mixed": fall("mixed_rl"),
        "fall_of_mopd": fall("mopd"),
        "broken_mixed_highest": mean_where(rows, "broken", label="mixed_rl", rate=highest),
        "broken_mixed_lowest": mean_where(rows, "broken", label="mixed_rl", rate=lowest),
    }


def lead_at(rows: pd.DataFrame, rate: float) -> Quantity | None:
    """Mixed RL less MOPD at this rate, greedy."""
    own = where(rows, rate=rate)
    return paired(own, "greedy", {"label": "mixed_rl"}, {"label": "mopd"}, by=("size", "seed"))


def _more(rows: pd.DataFrame, picked: pd.DataFrame) -> dict[str, Quantity | None]:
    return {
        "mixed_minus_mopd_fresh_highest": lead_at(where(rows, size=FRESH), HIGHEST),
        "rule_is_right": mean_quantity(picked[next(iter(CHOICES))].astype(float)),
    }


STUDY = judging(
    name="breaking",
    question="At which learning rate do mixed RL and MOPD's student break, and does size move it?",
    prediction=predicted(
        "At 7e-4 mixed RL leads MOPD in every size and hardly breaks a domain. At 5.6e-3 mixed RL has broken: it ends "
        "30 points below what it has at 7e-4, and most of its domains lie below their start. MOPD's student breaks "
        "too, but loses less, since its teachers were trained gently and say at every token where to go, so that it "
        "leads there, in the fresh size too. Larger models break sooner, so that the one-line rule errs at 2.8e-3, "
        "where it still takes mixed RL; elsewhere it takes the better recipe.",
        """
        mixed_minus_mopd_lowest         >= 0.0  mixed RL less MOPD at 7e-4, greedy
        mixed_minus_mopd_highest        <= 0.0  mixed RL less MOPD at 5.6e-3, greedy
        mixed_minus_mopd_fresh_highest  <= 0.0  the same in the fresh size
        fall_of_mixed                   >= 0.3  mixed RL's greedy score at 7e-4 less that at 5.6e-3
        fall_of_mopd                    <= 0.4  MOPD's greedy score at 7e-4 less that at 5.6e-3
        broken_mixed_highest            >= 0.5  share of mixed RL's domains that break at 5.6e-3
        broken_mixed_lowest             <= 0.2  share of mixed RL's domains that break at 7e-4
        rule_is_right                   >= 0.6  share of conditions in which the one-line rule takes the better recipe
        """,
    ),
    held_out=f"all runs: they judge the model that ships; the size of {FRESH} has not been asked before",
    design=design,
    analyse=analyse,
    failures_count=True,
    admit=partial(admit, (WORLD,)),
)
