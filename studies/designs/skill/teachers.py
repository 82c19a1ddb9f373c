"""teachers: into how many teachers should eight domains go, and what does it cost when one of them comes late?

All eight domains of the suite in one world. Three arms, teachers counted in each:

    equal_total     1, 2, 4 or 8 teachers share 40% of the FLOPs, each in proportion to its domains; the student has the
                    rest. Mixed RL and off-policy fine-tuning spend as much
    equal_student   every teacher has what one of the eight has there, so that fewer teachers cost less; the student as
                    before
    late            the last domain comes when the other seven are trained, and two domains' FLOPs are left. Eight
                    teachers gain a ninth part, the late domain's own; one teacher and mixed RL train on with all eight.
                    A student goes on from the student of seven

The successor of `teacher_count`, `colossal` and `turnover`, which were of worlds of sharpening. Beside the domains
`sort_then_shift` is scored, which nobody demonstrates or trains. Leaves out: environments that wait, teachers on
machines of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from mopdsim.recipes.amounts import Amounts
from mopdsim.recipes.parts import as_teachers, specialist, specialists_of
from mopdsim.recipes.recipe import BASE, Distill, Recipe, Rl
from studies.designs.builders import composed, kept, mean_where, means, paired
from studies.designs.skill.contest import FAILED, compared, judging, rows_of, share_failed, table_of_probe
from studies.designs.skill.gate import admit, table_of_domains
from studies.designs.skill.suite import EIGHT, FLOPS, JOINT, RL, SHARES, STUDENT, WORLDS, recipe, run
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations
from studies.framework.run import Run
from studies.framework.study import predicted

WORLD = JOINT[EIGHT]
EARLY, LATE = WORLD[:-1], WORLD[-1]
PAIRS = tuple(WORLDS.values())
GROUPS: Mapping[int, tuple[tuple[str, ...], ...]] = {  # by number of teachers
    1: (WORLD,),
    2: (PAIRS[0] + PAIRS[1], PAIRS[2] + PAIRS[3]),
    4: PAIRS,
    8: tuple((domain,) for domain in WORLD),
}
TAUGHT = (1 - SHARES["mopd"]) * FLOPS  # a domain's share of the teachers' FLOPs
LEARNT = SHARES["mopd"] * FLOPS  # and of the student's
AFTER = 2  # domains' FLOPs that are left when the late one comes
TOTAL, STUDENT_ALONE, CAME_LATE = "equal_total", "equal_student", "late"
SEEDS = (90, 91, 92)


def design() -> list[Run]:
    """Every recipe of every arm on every seed."""
    arms = {
        TOTAL: {
            "mixed_rl": recipe("mixed_rl", WORLD),
            "off_policy": recipe("off_policy", WORLD),
            **{label(k): taught_by(k, [TAUGHT * len(group) for group in GROUPS[k]]) for k in GROUPS},
        },
        STUDENT_ALONE: {label(k): taught_by(k, [TAUGHT] * k) for k in GROUPS if k < len(WORLD)},
        CAME_LATE: {"mixed_rl": mixed_late(), label(8): mopd_late(), label(1): mopd_late_of_one()},
    }
    return [
        run(
            f"{arm}/{name}", made, seed, EIGHT,
            held_out=True, arm=arm, recipe=name, rate=RL.learning_rate, contest=f"teachers/{arm}",
        )
        for seed in SEEDS
        for arm, recipes in arms.items()
        for name, made in recipes.items()
    ]  # fmt: skip


def label(teachers: int) -> str:
    """One teacher a domain is what `mopd` means elsewhere."""
    return "mopd" if teachers == len(WORLD) else f"mopd_{teachers}"


def taught_by(teachers: int, flops: Sequence[float]) -> Recipe:
    """MOPD with so many teachers, each at its FLOPs."""
    own = specialists_of(WORLD, GROUPS[teachers])
    taught = [(stage, spending(RL, spent)) for stage, spent in zip(own, flops, strict=True)]
    return composed("mopd", WORLD, [*taught, (student(own, WORLD), spending(STUDENT, LEARNT * len(WORLD)))])


def spending(amounts: Amounts, flops: float) -> Amounts:
    """The same until so many FLOPs are spent."""
    return amounts.model_copy(update={"max_flops": flops})


def student(
    teachers: Sequence[Rl], domains: Sequence[str], *, name: str = "student", init: str = BASE
) -> Distill:
    """Of all these teachers."""
    shares = dict.fromkeys(domains, 1.0)
    return Distill(name=name, init=init, domains=shares, teachers=as_teachers(teachers))


def mixed_late() -> Recipe:
    """Mixed RL on seven domains goes on with all eight."""
    first = specialist("mixed_early", EARLY)
    then = specialist("mixed", WORLD, init=first.name)
    spent = [(first, spending(RL, FLOPS * len(EARLY))), (then, spending(RL, FLOPS * AFTER))]
    return composed("mixed_rl", WORLD, spent)


def mopd_late() -> Recipe:
    """Seven specialists and their student; then the late domain's specialist, and the student goes on with all."""
    first, added = specialists_of(EARLY, None), specialist("teacher_late", [LATE])
    return _taught_late(first, [spending(RL, TAUGHT)] * len(first), added, [*first, added])


def mopd_late_of_one() -> Recipe:
    """One teacher of seven domains and its student; then both go on with all eight."""
    first = specialist("teacher_1", EARLY)
    then = specialist("teacher_late", WORLD, init=first.name)
    return _taught_late([first], [spending(RL, TAUGHT * len(EARLY))], then, [then])


def _taught_late(first: Sequence[Rl], amounts: Sequence[Amounts], added: Rl, then: Sequence[Rl]) -> Recipe:
    """A student of the first teachers on seven domains, which goes on as a student of others on eight."""
    early = student(first, EARLY, name="student_early")
    whole = student(then, WORLD, init=early.name)
    return composed(
        "mopd",
        WORLD,
        [
            *zip(first, amounts, strict=True),
            (early, spending(STUDENT, LEARNT * len(EARLY))),
            (added, spending(RL, TAUGHT * AFTER)),
            (whole, spending(STUDENT, LEARNT * AFTER)),
        ],
    )


def _rows(found: Observations) -> pd.DataFrame:
    """With the late domain apart from the others, greedy."""
    rows = rows_of(found)
    scores = [found.scores(name, figure="greedy") for name in rows.get("run", ())]
    return rows.assign(
        late_domain=[own[LATE] for own in scores],
        other_domains=[sum(own[domain] for domain in EARLY) / len(EARLY) for own in scores],
    )


def analyse(found: Observations) -> Analysis:
    """Scores by arm and recipe, the student by number of teachers, and the late domain apart from the others."""
    rows = _rows(found)
    if rows.empty:
        return Analysis(quantities={})
    by_number = {label(k): k for k in GROUPS}
    counted = rows[rows.recipe.str.removeprefix(FAILED).isin(by_number) & (rows.arm != CAME_LATE)]
    counted = counted.assign(teachers=counted.recipe.str.removeprefix(FAILED).map(by_number))
    late = means(rows[rows.arm == CAME_LATE], "recipe", "late_domain other_domains")
    owners = [
        (EIGHT, domain, name, f"teacher_{place}")
        for name in found.runs(arm=TOTAL, recipe=label(8))
        for place, domain in enumerate(WORLD, start=1)
    ]
    own = Analysis(
        quantities=_quantities(rows),
        tables=(
            Table(title="Where a domain came late, greedy: it and the others", frame=late),
            table_of_probe(rows, "arm recipe"),
            table_of_domains(found, owners),
        ),
        charts=(
            Chart(
                name="teachers", title="Student's mean greedy score by number of teachers, one line an arm",
                frame=means(counted, "arm teachers", "greedy"), x="teachers", y="greedy", colour="arm",
            ),
        ),
        limits=(
            "One world of eight domains, one partition for each number of teachers, three seeds, one size.",
            "The student's share of the FLOPs was swept for two teachers of one domain each, not for other numbers.",
        ),
    )  # fmt: skip
    return compared(rows, "arm", own)


def _quantities(rows: pd.DataFrame) -> dict[str, Quantity]:
    one, eight, mixed, off = ({"recipe": name} for name in (label(1), label(8), "mixed_rl", "off_policy"))
    alone, late = {"arm": STUDENT_ALONE}, {"arm": CAME_LATE}
    return kept(
        one_minus_eight_total=paired(rows, "greedy", one, eight, arm=TOTAL),
        one_minus_eight_student=paired(rows, "greedy", one | alone, eight | {"arm": TOTAL}),
        mixed_minus_one=paired(rows, "greedy", mixed, one, arm=TOTAL),
        off_policy_minus_mixed=paired(rows, "greedy", off, mixed, arm=TOTAL),
        mixed_minus_mopd_late=paired(rows, "greedy", mixed | late, eight | late),
        one_minus_eight_late=paired(rows, "greedy", one | late, eight | late),
        probe_of_mixed=mean_where(rows, "probe_greedy", recipe="mixed_rl"),
        failed_mopd=share_failed(rows, label(8)),
    )


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
    analyse=analyse,
    admit=partial(admit, tuple(WORLDS)),
)
