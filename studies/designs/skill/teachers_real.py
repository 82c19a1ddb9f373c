"""teachers_real: into how many teachers should four domains of SmolLM2-135M go, and what does a late domain cost?

The question of `teachers` on the model of `real`: its world `mixture`, its start and its smallest budget, on the arms
of `studies.designs.skill.team` with 1, 2 or 4 teachers. A step of RL is eight prompts of each domain, and fewer where
the FLOPs would not last for as many steps as a specialist of one domain has. Leaves out: off-policy fine-tuning, and a
composed skill, which this world has not.
"""

from __future__ import annotations

import pandas as pd

from mopdsim.recipes.stage import Amounts, default_amounts
from studies.designs.builders import UNBOUNDED, paired
from studies.designs.skill.contest import judging
from studies.designs.skill.real import FEW_PROMPTS, RATE, SMALL, WORLDS, recipes, run
from studies.designs.skill.team import TOTAL, Team
from studies.designs.systems.real_recipes import DISTILL_FLOPS, TEACHER_FLOPS
from studies.framework.analysis import Quantity
from studies.framework.run import Run
from studies.framework.study import predicted

WORLD = "mixture"
DOMAINS = WORLDS[WORLD]
TAUGHT = SMALL * TEACHER_FLOPS


def _rl(domains: int, flops: float) -> Amounts:
    """At least as many FLOPs for each prompt of a step as a specialist of one domain has, so about as many steps."""
    own = default_amounts("real", "rl")
    prompts = own.prompts_per_step * min(domains, round(flops / TAUGHT))
    return own.model_copy(update={"steps": UNBOUNDED, "prompts_per_step": prompts, "max_flops": flops})


def _more(rows: pd.DataFrame) -> dict[str, Quantity | None]:
    two, four = {"recipe": "mopd_2"}, {"recipe": "mopd"}
    return {"two_minus_four_total": paired(rows, "greedy", two, four, arm=TOTAL)}


TEAM = Team(
    world=WORLD,
    number="four",
    domains=DOMAINS,
    groups={1: (DOMAINS,), 2: (DOMAINS[:2], DOMAINS[2:]), 4: tuple((domain,) for domain in DOMAINS)},
    taught=TAUGHT,
    learnt=SMALL * DISTILL_FLOPS / len(DOMAINS),
    rl=_rl,
    distill=default_amounts("real", "distill"),
    scale="real",
    balance="token_share",
    more=_more,
    limits=(
        "One model of 135 M parameters, one world of four domains, one partition for each number of teachers, "
        f"{SMALL:g} times the demo's FLOPs: a specialist has three to seven RL steps, a student five.",
        FEW_PROMPTS,
    ),
)
SEEDS = (106, 107, 108)  # after those of `breaking_real`


def design() -> list[Run]:
    """Every recipe of every arm, seed after seed."""
    rivals = {"mixed_rl": recipes(DOMAINS, SMALL)["mixed_rl"]}
    return [
        run(name, made, seed, cut, f"teachers_real/{factors['arm']}", **factors, rate=RATE)
        for cut, seed in enumerate(SEEDS)
        for name, made, factors in TEAM.conditions(rivals)
    ]


STUDY = judging(
    name="teachers_real",
    question="Into how many teachers should four domains of a small open model go, and what does a late one cost?",
    prediction=predicted(
        "On tiny models one long teacher leads eight short ones. Here one teacher has as many steps as a specialist, "
        "each over all domains at once; in `real_conflict` one run over two domains without conflict learnt a tenth "
        "less than two specialists at as many updates. So one, two and four teachers tie at equal FLOPs. With one "
        "specialist's FLOPs for a teacher of all four, its batch has a quarter of the prompts for each domain, and the "
        "student is clearly worse. Mixed RL leads one teacher and its student, as it leads four, since it has twice "
        "the steps. Where a domain comes late mixed RL leads again, and four teachers lead one, since the late "
        "domain's own teacher has twice a specialist's steps on it. A third of the students of four fail at most.",
        """
        one_minus_four_total    -0.05 to 0.05  one teacher less four at equal FLOPs, greedy
        two_minus_four_total    -0.05 to 0.05  two teachers less four at equal FLOPs, greedy
        one_minus_four_student  <= -0.05       one short teacher less four, greedy
        mixed_minus_one         >= 0.03        mixed RL less one teacher, greedy
        mixed_minus_mopd_late   >= 0.0         a domain late: mixed RL less four teachers, greedy
        one_minus_four_late     <= 0.0         a domain late: one teacher less four, greedy
        failed_mopd             <= 0.34        share of distillations of four teachers that fail
        """,
    ),
    design=design,
    analyse=TEAM.analyse,
    suite="real",
)
