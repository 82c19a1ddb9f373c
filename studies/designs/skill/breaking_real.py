"""breaking_real: at which learning rate does mixed RL break on SmolLM2-135M, and at which MOPD's student?

The question of `breaking` on the model of `real`: its world `mixture`, its start and its smallest budget. Mixed RL and
the student run at the usual rate of RL on this model, at four and at sixteen times it; the student's teachers run at
the usual one and are shared by all rates. The rule that a forecast has to beat is the line of `breaking`, which was
found on tiny models; here it stands as it was written, and as the same multiple of the usual rate. Leaves out: other
sizes, teachers at bold rates, longer runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import default_amounts
from studies.designs.skill.breaking import RECIPES, judged_by_rate, lead_at
from studies.designs.skill.contest import SWITCH, judging, mopd_from
from studies.designs.skill.real import FEW_PROMPTS, MODEL, RATE, SMALL, WORLDS, recipes, run
from studies.framework.analysis import Analysis
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

WORLD = "mixture"
RATES = (RATE, 4 * RATE, 16 * RATE)
MIDDLE = RATES[1]
# as many times the usual rate as on tiny models
BOLD = SWITCH / default_amounts("tiny", "rl").learning_rate * RATE
SEEDS = (103, 104, 105)  # after those of `real`
CHOICES: Mapping[str, Callable[[float], str]] = {
    f"mixed RL, but MOPD at {SWITCH:g} and above": mopd_from(SWITCH),
    f"mixed RL, but MOPD at {BOLD:.2g} and above": mopd_from(BOLD),
    "always mixed RL": lambda rate: "mixed_rl",
    "always MOPD": lambda rate: "mopd",
}


def design() -> list[Run]:
    """Both recipes at every rate, seed after seed."""
    made = recipes(WORLDS[WORLD], SMALL)
    return [
        run(
            f"rate{rate:g}/{name}", _at(made[name], rate), seed, cut, f"breaking_real/{rate:g}",
            size=MODEL, rate=rate, recipe=name,
        )
        for cut, seed in enumerate(SEEDS)
        for rate in RATES
        for name in RECIPES
    ]  # fmt: skip


def _at(recipe: Recipe, rate: float) -> Recipe:
    """With this rate in its last stage: mixed RL's, or the student's."""
    last = recipe.amounts[recipe.output].model_copy(update={"learning_rate": rate})
    return recipe.with_amounts({recipe.output: last})


def analyse(found: Observations) -> Analysis:
    """By rate, as `breaking` does."""
    return judged_by_rate(
        found,
        by=("rate",),
        worlds={WORLD: (MODEL, WORLDS[WORLD])},
        rates=RATES,
        choices=CHOICES,
        more=lambda rows, _: {"mixed_minus_mopd_middle": lead_at(rows, MIDDLE)},
        limits=(
            f"One model of 135 M parameters, one world, {SMALL:g} times the demo's FLOPs: some ten steps of mixed RL.",
            FEW_PROMPTS,
        ),
    )


STUDY = judging(
    name="breaking_real",
    question="At which learning rate do mixed RL and MOPD's student break on a small open model?",
    prediction=predicted(
        "At the usual rate mixed RL leads MOPD, as in `real`, and breaks no domain. At sixteen times that it has "
        "broken: it ends 20 points below what it has at the usual rate, and half of its domains lie below their "
        "start. MOPD's student, whose teachers were trained at the usual rate, loses less and leads there. At four "
        "times the usual rate ten steps are too few to break mixed RL, but not to make it uneven: the student leads"
        " there too. The line of tiny models, as it is written, takes mixed RL everywhere and errs at the two "
        "higher rates; as a multiple of the usual rate it is right.",
        """
        mixed_minus_mopd_lowest   >= 0.0  mixed RL less MOPD at 5e-5, greedy
        mixed_minus_mopd_middle   <= 0.0  mixed RL less MOPD at 2e-4, greedy
        mixed_minus_mopd_highest  <= 0.0  mixed RL less MOPD at 8e-4, greedy
        fall_of_mixed             >= 0.2  mixed RL's greedy score at 5e-5 less that at 8e-4
        fall_of_mopd              <= 0.3  MOPD's greedy score at 5e-5 less that at 8e-4
        broken_mixed_highest      >= 0.5  share of mixed RL's domains that break at 8e-4
        broken_mixed_lowest       <= 0.1  share of mixed RL's domains that break at 5e-5
        """,
    ),
    design=design,
    analyse=analyse,
    suite="real",
    failures_count=True,
)
