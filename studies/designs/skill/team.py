"""What `teachers` and `teachers_real` share: arms that differ in how many teachers a world's domains go to, each group
of domains to its own, and one domain that comes late.

Arms, teachers counted in each:

    equal_total     the teachers of every number share as many FLOPs, each in proportion to its domains; the student
                    has the rest, and mixed RL spends as much as both
    equal_student   every teacher has what one of a single domain has there, so that fewer teachers cost less; the
                    student as before
    late            the last domain comes when the others are trained, and two domains' FLOPs are left. Where every
                    domain has a teacher the late one gains its own; one teacher and mixed RL train on with all domains.
                    A student goes on from the student of the others

Leaves out: which worlds, what is claimed of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mopdsim.recipes.catalogue import Groups, as_teachers, specialist, specialists_of
from mopdsim.recipes.recipe import Recipe
from mopdsim.recipes.stage import BASE, Amounts, AmountsName, Balance, Distill, Rl
from studies.designs.builders import UNBOUNDED, composed, kept, means, paired
from studies.designs.skill.contest import FAILED, compared, rows_of, share_failed, table_of_probe
from studies.designs.skill.gate import table_of_domains, teachers_of
from studies.framework.analysis import Analysis, Chart, Quantity, Table
from studies.framework.observe import Observations

AFTER = 2  # domains' FLOPs that are left when the late one comes
TOTAL, STUDENT_ALONE, CAME_LATE = "equal_total", "equal_student", "late"


@dataclass(frozen=True, kw_only=True)
class Team:
    """A world's domains, of which the last may come late, their groups by number of teachers, and what is spent.

    taught, learnt: training FLOPs of a domain with its teacher and with the student. rl: amounts of RL on so many
    domains at so many FLOPs. distill: of the student, until its FLOPs are spent. balance: of its gradient. world: its
    name. number: of its domains, in words. more: what is asked of this world alone. limits: of what is found.
    """

    world: str
    number: str
    domains: tuple[str, ...]
    groups: Mapping[int, Groups]
    taught: float
    learnt: float
    rl: Callable[[int, float], Amounts]
    distill: Amounts
    more: Callable[[pd.DataFrame], dict[str, Quantity | None]]
    limits: tuple[str, ...]
    scale: AmountsName = "tiny"
    balance: Balance = "none"

    @property
    def early(self) -> tuple[str, ...]:
        """The domains that are there from the start."""
        return self.domains[:-1]

    @property
    def late(self) -> str:
        """The domain that comes late."""
        return self.domains[-1]

    def label(self, teachers: int) -> str:
        """One teacher a domain is what `mopd` means elsewhere."""
        return "mopd" if teachers == len(self.domains) else f"mopd_{teachers}"

    def arms(self, rivals: Mapping[str, Recipe]) -> dict[str, dict[str, Recipe]]:
        """Recipes by arm; `rivals` spend as much as MOPD at equal totals."""
        whole = len(self.domains)
        return {
            TOTAL: {
                **rivals,
                **{
                    self.label(k): self._taught_by(k, [self.taught * len(g) for g in groups])
                    for k, groups in self.groups.items()
                },
            },
            STUDENT_ALONE: {
                self.label(k): self._taught_by(k, [self.taught] * k) for k in self.groups if k < whole
            },
            CAME_LATE: {
                "mixed_rl": self._mixed_late(),
                self.label(whole): self._late_of_all(),
                self.label(1): self._late_of_one(),
            },
        }

    def conditions(self, rivals: Mapping[str, Recipe]) -> list[tuple[str, Recipe, dict[str, Any]]]:
        """The arms' recipes one by one, each with its name and factors."""
        return [
            (f"{arm}/{name}", made, {"arm": arm, "recipe": name})
            for arm, recipes in self.arms(rivals).items()
            for name, made in recipes.items()
        ]

    def _taught_by(self, teachers: int, flops: Sequence[float]) -> Recipe:
        """MOPD with so many teachers, each at its FLOPs."""
        own = specialists_of(self.domains, self.groups[teachers])
        taught = [
            (stage, self.rl(len(stage.domains), spent)) for stage, spent in zip(own, flops, strict=True)
        ]
        whole = self._learnt(len(self.domains))
        return composed(
            "mopd", self.domains, [*taught, (self._student(own, self.domains), whole)], self.scale
        )

    def _learnt(self, domains: int) -> Amounts:
        """Of a student, with the FLOPs of so many domains."""
        return self.distill.model_copy(update={"steps": UNBOUNDED, "max_flops": self.learnt * domains})

    def _student(
        self, teachers: Sequence[Rl], domains: Sequence[str], *, name: str = "student", init: str = BASE
    ) -> Distill:
        """Of all these teachers."""
        return Distill(
            name=name,
            init=init,
            domains=dict.fromkeys(domains, 1.0),
            teachers=as_teachers(teachers),
            balance=self.balance,
        )

    def _mixed_late(self) -> Recipe:
        """Mixed RL on the early domains goes on with all."""
        first = specialist("mixed_early", self.early)
        then = specialist("mixed", self.domains, init=first.name)
        each, few, all_ = self.taught + self.learnt, len(self.early), len(self.domains)
        spent = [(first, self.rl(few, each * few)), (then, self.rl(all_, each * AFTER))]
        return composed("mixed_rl", self.domains, spent, self.scale)

    def _late_of_all(self) -> Recipe:
        """A specialist for each early domain and their student; then the late domain's specialist, and the student
        goes on with all."""
        first, added = specialists_of(self.early, None), specialist("teacher_late", [self.late])
        taught = [(stage, self.rl(1, self.taught)) for stage in first]
        return self._late(taught, added, [*first, added])

    def _late_of_one(self) -> Recipe:
        """One teacher of the early domains and its student; then both go on with all."""
        first = specialist("teacher_1", self.early)
        then = specialist("teacher_late", self.domains, init=first.name)
        few = len(self.early)
        return self._late([(first, self.rl(few, self.taught * few))], then, [then])

    def _late(self, first: Sequence[tuple[Rl, Amounts]], added: Rl, then: Sequence[Rl]) -> Recipe:
        """A student of the first teachers on the early domains, which goes on as a student of others on all."""
        early = self._student([stage for stage, _ in first], self.early, name="student_early")
        whole = self._student(then, self.domains, init=early.name)
        more = self.rl(len(added.domains), self.taught * AFTER)
        learnt = ((early, self._learnt(len(self.early))), (added, more), (whole, self._learnt(AFTER)))
        return composed("mopd", self.domains, [*first, *learnt], self.scale)

    def rows(self, found: Observations) -> pd.DataFrame:
        """A row for each finished run, with the late domain apart from the others, greedy."""
        rows = rows_of(found)
        scores = [found.seen("greedy").scores(name) for name in rows.run]
        return rows.assign(
            late_domain=[own[self.late] for own in scores],
            other_domains=[sum(own[domain] for domain in self.early) / len(self.early) for own in scores],
        )

    def quantities(self, rows: pd.DataFrame) -> dict[str, Quantity]:
        """What is asked of every team, and of this one; leads are greedy."""
        one, whole, mixed = ({"recipe": name} for name in (self.label(1), "mopd", "mixed_rl"))
        alone, late = {"arm": STUDENT_ALONE}, {"arm": CAME_LATE}
        asked = {
            f"one_minus_{self.number}_total": paired(rows, "greedy", one, whole, arm=TOTAL),
            f"one_minus_{self.number}_student": paired(rows, "greedy", one | alone, whole | {"arm": TOTAL}),
            "mixed_minus_one": paired(rows, "greedy", mixed, one, arm=TOTAL),
            "mixed_minus_mopd_late": paired(rows, "greedy", mixed | late, whole | late),
            f"one_minus_{self.number}_late": paired(rows, "greedy", one | late, whole | late),
            "failed_mopd": share_failed(rows, "mopd"),
        }
        return kept(**asked, **self.more(rows))

    def analyse(self, found: Observations) -> Analysis:
        """Scores by arm and recipe, the student by number of teachers, and the late domain apart from the others."""
        rows = self.rows(found)
        by_number = {self.label(k): k for k in self.groups}
        counted = rows.assign(teachers=rows.recipe.str.removeprefix(FAILED).map(by_number))
        counted = counted[counted.teachers.notna() & (counted.arm != CAME_LATE)].astype({"teachers": int})
        late = means(rows[rows.arm == CAME_LATE], "recipe", "late_domain other_domains")
        owners = teachers_of(
            found.runs(arm=TOTAL, recipe=self.label(len(self.domains))), self.world, self.domains
        )
        own = Analysis(
            quantities=self.quantities(rows),
            tables=(
                Table(title="Where a domain came late, greedy: it and the others", frame=late),
                *([table_of_probe(rows, "arm recipe")] if "probe_greedy" in rows else []),
                table_of_domains(found, owners),
            ),
            charts=(
                Chart(
                    name="teachers", title="Student's mean greedy score by number of teachers, one line an arm",
                    frame=means(counted, "arm teachers", "greedy"), x="teachers", y="greedy", colour="arm",
                ),
            ),
            limits=self.limits,
        )  # fmt: skip
        return compared(rows, "arm", own)
