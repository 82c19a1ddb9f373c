"""teachers: into how many teachers should eight domains go, and what does it cost when one of them comes late?

All eight domains of the suite in one world, on the arms of `studies.designs.skill.team`: 1, 2, 4 or 8 teachers share
40% of the FLOPs. Off-policy fine-tuning spends as much as MOPD and mixed RL.

The successor of `teacher_count`, `colossal` and `turnover`, which were of worlds of sharpening. Beside the domains
`sort_then_shift` is scored, which nobody demonstrates or trains. Leaves out: environments that wait, teachers on
machines of their own.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from mopdsim.recipes.stage import Amounts
from studies.designs.builders import mean_where, paired
from studies.designs.skill.contest import judging
from studies.designs.skill.gate import admit
from studies.designs.skill.suite import EIGHT, FLOPS, JOINT, RL, SHARES, STUDENT, WORLDS, recipe, run
from studies.designs.skill.team import TOTAL, Team
from studies.framework.analysis import Quantity
from studies.framework.run import Run
from studies.framework.study import predicted


def _rl(domains: int, flops: float) -> Amounts:
    """As many prompts a step whatever the domains, until so many FLOPs are spent."""
    return RL.model_copy(update={"max_flops": flops})


def _more(rows: pd.DataFrame) -> dict[str, Quantity | None]:
    off, mixed = {"recipe": "off_policy"}, {"recipe": "mixed_rl"}
    return {
        "off_policy_minus_mixed": paired(rows, "greedy", off, mixed, arm=TOTAL),
        "probe_of_mixed": mean_where(rows, "probe_greedy", **mixed),
    }


WORLD = JOINT[EIGHT]
PAIRS = tuple(WORLDS.values())
TEAM = Team(
    world=EIGHT,
    number="eight",
    domains=WORLD,
    groups={
        1: (WORLD,),
        2: (PAIRS[0] + PAIRS[1], PAIRS[2] + PAIRS[3]),
        4: PAIRS,
        8: tuple((domain,) for domain in WORLD),
    },
    taught=(1 - SHARES["mopd"]) * FLOPS,
    learnt=SHARES["mopd"] * FLOPS,
    rl=_rl,
    distill=STUDENT,
    more=_more,
    limits=(
        "One world of eight domains, one partition for each number of teachers, three seeds, one size.",
        "The student's share of the FLOPs was swept for two teachers of one domain each, not for other numbers.",
    ),
)
SEEDS = (90, 91, 92)


def design() -> list[Run]:
    """Every recipe of every arm on every seed."""
    rivals = {name: recipe(name, WORLD) for name in ("mixed_rl", "off_policy")}
    return [
        run(
            name, made, seed, EIGHT,
            held_out=True, **factors, rate=RL.learning_rate, contest=f"teachers/{factors['arm']}",
        )
        for seed in SEEDS
        for name, made, factors in TEAM.conditions(rivals)
    ]  # fmt: skip


STUDY = judging(
    name="teachers",
    question="Into how many teachers should eight domains go, and what does a domain that comes late cost?",
    prediction=predicted(
        "These domains do not conflict, and RL on one helps others a little. So at equal FLOPs one long teacher of all "
        "eight teaches at least as well as eight short ones, and mixed RL without a student leads both. With a short "
        "teacher's FLOPs for one teacher of all eight the student is clearly worse. Off-policy fine-tuning on verified "
        "samples leads mixed RL again. Where a domain comes late mixed RL goes on and leads eight teachers and one, "
        "which tie. No recipe is ever right on the composed probe, which nobody shows or trains.",
        """
        one_minus_eight_total    >= 0.0         one teacher less eight at equal FLOPs, greedy
        one_minus_eight_student  <= -0.05       one short teacher less eight, greedy
        mixed_minus_one          >= 0.0         mixed RL less one teacher and its student, greedy
        off_policy_minus_mixed   >= 0.0         off-policy less mixed RL, greedy
        mixed_minus_mopd_late    >= 0.0         a domain late: mixed RL less eight teachers, greedy
        one_minus_eight_late     -0.05 to 0.05  a domain late: one teacher less eight, greedy
        probe_of_mixed           <= 0.02        mixed RL's greedy score on the composed probe
        failed_mopd              <= 0.25        share of distillations of eight teachers that fail
        """,
    ),
    design=design,
    analyse=TEAM.analyse,
    admit=partial(admit, tuple(WORLDS)),
)
